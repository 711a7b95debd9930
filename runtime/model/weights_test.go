package model_test

import (
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// rounding bounds what a type of weights changes in logits: the root of the
// normalised mean square difference, on random weights, whose errors do not cancel
// as those of trained ones do.
var rounding = map[backend.DType]float64{backend.F32: 0, backend.BF16: 0.01, backend.Int8: 0.03}

func difference(got, want []float32) float64 {
	var wrong, power float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		wrong += d * d
		power += float64(w) * float64(w)
	}
	return math.Sqrt(wrong / power)
}

// TestNarrowWeightsGiveNearbyLogits computes a prompt densely, with factors, and
// with the factors merged.
func TestNarrowWeightsGiveNearbyLogits(t *testing.T) {
	be := newBackend(t, 2)
	prompt := model.Segment{Tokens: randomTokens(40, demo().Vocab, 3), AllLogits: true}
	variants := func(kind backend.DType) map[string][]float32 {
		t.Helper()
		dense := newModel(t, be, demo(), model.WeightsAs(kind))
		factored, err := dense.WithFactors(randomFactors(dense))
		if err != nil {
			t.Fatal(err)
		}
		merged, err := factored.Merged(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		composed, err := dense.Folded(t.Context(), folds(randomFactors(dense)))
		if err != nil {
			t.Fatal(err)
		}
		logits := map[string][]float32{}
		for name, m := range map[string]*model.Model{"dense": dense, "factored": factored, "merged": merged, "composed": composed} {
			logits[name] = step(t, m, newCache(t, m, 1), prompt).Data
		}
		return logits
	}
	want := variants(backend.F32)
	for _, kind := range []backend.DType{backend.BF16, backend.Int8} {
		for name, got := range variants(kind) {
			d := difference(got, want[name])
			t.Logf("%s, %s: %.2g", kind, name, d)
			if !(d <= rounding[kind]) {
				t.Errorf("%s, %s: the logits are off by %.2g, want at most %g", kind, name, d, rounding[kind])
			}
			if d == 0 {
				t.Errorf("%s, %s: the logits are those of float32, so nothing was rounded", kind, name)
			}
		}
	}
}

// TestBF16CheckpointsAreKeptExactly compares with the file's own numbers.
func TestBF16CheckpointsAreKeptExactly(t *testing.T) {
	dir := write(t, tiny(), tiny().tensors(), tensor.BF16)
	m, err := load(t.Context(), newBackend(t, 1), dir, model.WeightsAs(backend.BF16))
	if err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, info := range m.Linears() {
		want, err := ck.Tensor(info.Name + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Weight(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Data, want.Data) {
			t.Errorf("%s is not what the file has", info.Name)
		}
	}
}

// TestComposedMatricesAreRoundedOnce wants what the float32 model composes, rounded;
// rounded factors would give something else.
func TestComposedMatricesAreRoundedOnce(t *testing.T) {
	be := newBackend(t, 1)
	exact := newModel(t, be, tiny())
	factors := randomFactors(exact, "q_proj", "down_proj")
	wide, err := exact.Folded(t.Context(), folds(factors))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range backend.DTypes() {
		narrow, err := newModel(t, be, tiny(), model.WeightsAs(kind)).Folded(t.Context(), folds(factors))
		if err != nil {
			t.Fatal(err)
		}
		for name := range factors {
			data := must(t)(wide.Weight(name))
			w, err := be.NewWeight(kind, data.Rows(), data.Cols(), data.Data)
			if err != nil {
				t.Fatal(err)
			}
			want, err := be.WeightData(w)
			if err != nil {
				t.Fatal(err)
			}
			if got := must(t)(narrow.Weight(name)); !slices.Equal(got.Data, want) {
				t.Errorf("%s: %s is not the composed matrix, rounded once", kind, name)
			}
		}
	}
}

func must(t *testing.T) func(*tensor.Tensor, error) *tensor.Tensor {
	return func(x *tensor.Tensor, err error) *tensor.Tensor {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

// TestEmbeddingsMayBeKeptWider tells from the logits which matrices were rounded.
func TestEmbeddingsMayBeKeptWider(t *testing.T) {
	be := newBackend(t, 1)
	logits := func(options ...model.Option) []float32 {
		m := newModel(t, be, tiny(), options...)
		return step(t, m, newCache(t, m, 1), model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), AllLogits: true}).Data
	}
	want := logits()
	all, some := logits(model.WeightsAs(backend.Int8)), logits(model.WeightsAs(backend.Int8), model.EmbeddingAs(backend.F32))
	if a, b := difference(all, want), difference(some, want); b == 0 || b >= a {
		t.Errorf("with the embedding in float32 the logits are off by %.3g, with all int8 by %.3g", b, a)
	}
	table := logits(model.EmbeddingAs(backend.BF16))
	if d := difference(table, want); d == 0 || d > rounding[backend.BF16] {
		t.Errorf("with only the embedding in bfloat16 the logits are off by %.3g", d)
	}
}

// TestGradientsThroughNarrowWeightsPointTheSameWay trains scales of rounded factors.
func TestGradientsThroughNarrowWeightsPointTheSameWay(t *testing.T) {
	be := newBackend(t, 2)
	sequences := []model.Sequence{{Tokens: randomTokens(12, tiny().Vocab, 1), From: 4}}
	gradients := func(kind backend.DType) []float32 {
		base := newModel(t, be, tiny(), model.WeightsAs(kind))
		m, err := base.WithFactors(randomFactors(base))
		if err != nil {
			t.Fatal(err)
		}
		logits, tape := forward(t, m, sequences)
		_, d := policyGradient(logits, sequences, []float64{1})
		got := backward(t, m, tape, d)
		var all []float32
		for _, info := range m.Linears() {
			all = append(all, got[info.Name].S...)
		}
		return all
	}
	want := gradients(backend.F32)
	for kind, bound := range map[backend.DType]float64{backend.BF16: 0.01, backend.Int8: 0.03} {
		d := difference(gradients(kind), want)
		t.Logf("%s: %.2g", kind, d)
		if !(d <= bound) || d == 0 {
			t.Errorf("%s: the gradient is off by %.2g, want at most %g and not none", kind, d, bound)
		}
	}
}

// TestNarrowWeightsTakeLessMemory counts what a loaded model holds.
func TestNarrowWeightsTakeLessMemory(t *testing.T) {
	dir := write(t, demo(), demo().tensors(), tensor.BF16)
	held := map[backend.DType]float64{}
	for _, kind := range backend.DTypes() {
		be := newBackend(t, 1)
		before := memory(be)
		m, err := load(t.Context(), be, dir, model.WeightsAs(kind))
		if err != nil {
			t.Fatal(err)
		}
		held[kind] = memory(be) - before
		runtime.KeepAlive(m)
	}
	for kind, share := range map[backend.DType]float64{backend.BF16: 2. / 4, backend.Int8: 1.0625 / 4} {
		slack := 0.15 // Pages are rounded up, and of a device rows and blocks.
		if got := held[kind] / held[backend.F32]; got > share+slack || got < share-slack {
			t.Errorf("%s: %.0f bytes, %.3f of float32's; want %.3f", kind, held[kind], got, share)
		}
	}
}

// memory is what a backend's weights and buffers take.
func memory(be backend.Backend) float64 { return float64(be.Memory().Used) }

func TestTensorsThatATypeCannotHoldAreNamed(t *testing.T) {
	tensors := tiny().tensors()
	const name = "model.layers.1.self_attn.k_proj.weight"
	tensors[name].Data[7] = math.MaxFloat32
	dir := write(t, tiny(), tensors, tensor.F32)
	if _, err := load(t.Context(), newBackend(t, 1), dir); err != nil {
		t.Errorf("as float32: %v", err)
	}
	_, err := load(t.Context(), newBackend(t, 1), dir, model.WeightsAs(backend.BF16))
	if err == nil || !strings.Contains(err.Error(), name+" as bf16") || !strings.Contains(err.Error(), "[0, 7]") {
		t.Errorf("error %v, want one that names %s, its type and the element", err, name)
	}
}

// folds are those of factors alone.
func folds(factors map[string]model.Factors) map[string]model.Fold {
	all := map[string]model.Fold{}
	for name, f := range factors {
		all[name] = model.Fold{Factors: &f}
	}
	return all
}
