package model_test

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// storages lists what the backend can store a model as: float32 first, and both as
// bfloat16, or keys and values alone, where it has that.
func storages(be backend.Backend) []model.Storage {
	all := []model.Storage{{}}
	if slices.Contains(be.Capabilities().Storage, backend.BF16) {
		all = append(all, model.Storage{Activations: backend.BF16, Cache: backend.BF16})
	}
	if slices.Contains(be.Capabilities().Cache, backend.BF16) {
		all = append(all, model.Storage{Cache: backend.BF16})
	}
	return all
}

// storedBound bounds the relative error of logits, as a norm, that comes from storing a
// model of so many layers in bfloat16. What is stored is within 2⁻⁸ of itself. On its way
// a token's state is stored eleven times a layer: the residual stream twice, its norm
// twice, queries, keys and values as one, the same rotated, what attention gives, gate,
// up, their product, and Vᵀ·x where a projection is factored; and around the layers as
// the embedding and the last norm. A norm or a product passes a relative error on as
// large as it comes, and errors of random signs add up as their squares do.
func storedBound(layers int) float64 {
	const each, around, roundoff = 11, 2, 1.0 / 256
	return roundoff * math.Sqrt(float64(each*layers+around))
}

func TestStorageIsChosenByWeightsAndBackend(t *testing.T) {
	be := newBackend(t, 1)
	narrow := slices.Contains(be.Capabilities().Storage, backend.BF16)
	both := func(t backend.DType) model.Storage { return model.Storage{Activations: t, Cache: t} }
	serving := both(backend.F32)
	if narrow {
		serving = both(backend.BF16)
	}
	for _, c := range []struct {
		weights         backend.DType
		activations, kv string
		want            model.Storage
		narrow          bool // Only where the backend has it.
		wrong           string
	}{
		{weights: backend.F32, want: both(backend.F32)},
		{weights: backend.BF16, want: serving},
		{weights: backend.Int8, activations: "auto", kv: "Auto", want: serving},
		{weights: backend.BF16, activations: "f32", want: both(backend.F32)},
		{weights: backend.Int8, kv: "F32", want: both(backend.F32)},
		{weights: backend.F32, activations: "bf16", want: both(backend.BF16), narrow: true},
		{weights: backend.F32, kv: "bf16", want: model.Storage{Cache: backend.BF16}},
		{weights: backend.F32, activations: "bf16", kv: "f32", wrong: "keys and values as f32 beside activations as bf16", narrow: true},
		{weights: backend.F32, activations: "int8", wrong: "use auto, f32 or bf16"},
		{weights: backend.F32, kv: "f16", wrong: "keys and values stored as"},
	} {
		got, err := model.ParseStorage(be, c.weights, c.activations, c.kv)
		switch {
		case c.narrow && !narrow:
			if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), be.Name()+" has f32") {
				t.Errorf("%+v: error %v, want that the backend has f32 alone", c, err)
			}
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%+v: error %v", c, err)
			}
		case err != nil || got != c.want:
			t.Errorf("%+v: got %v, %v", c, got, err)
		}
	}
	_, err := load(t.Context(), be, write(t, tiny(), tiny().tensors(), "F32"), model.StoredAs(model.Storage{Activations: backend.Int8}))
	if !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("activations in int8: error %v, want ErrUnsupported", err)
	}
}

// TestStoredLogitsAreNearPyTorchs compares with what PyTorch computes in float64, for
// every family, densely and trained.
func TestStoredLogitsAreNearPyTorchs(t *testing.T) {
	be := newBackend(t, 2)
	if len(storages(be)) == 1 {
		t.Skip("the backend stores float32 alone, which TestLogitsEqualPyTorch tests")
	}
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		for _, s := range storages(be)[1:] {
			t.Run(name+", "+s.String(), func(t *testing.T) {
				g, dir := readGolden(t, name)
				m, err := load(t.Context(), be, dir, model.StoredAs(s))
				if err != nil {
					t.Fatal(err)
				}
				c := newCache(t, m, len(g.Sequences))
				var segments []model.Segment
				var sequences []model.Sequence
				var want []float32
				for i, q := range g.Sequences {
					segments = append(segments, model.Segment{Seq: i, Tokens: q.Tokens, AllLogits: true})
					sequences = append(sequences, model.Sequence{Tokens: q.Tokens, From: q.From})
					want = append(want, narrowed(slices.Concat(g.Dense[i]...))...)
				}
				bound := storedBound(m.Config().Layers)
				near := func(what string, got, want []float32) {
					t.Helper()
					d := difference(got, want)
					t.Logf("%s: %.2g of at most %.2g", what, d, bound)
					if !(d <= bound) || d < 1e-5 {
						t.Errorf("%s: off by %.2g, want at most %.2g, and not nothing", what, d, bound)
					}
				}
				near("logits", step(t, m, c, segments...).Data, want)
				if s.Activations == backend.F32 { // Training has no cache.
					return
				}
				factored, err := m.WithFactors(readFactors(t, dir, m))
				if err != nil {
					t.Fatal(err)
				}
				logits, tape := forward(t, factored, sequences)
				near("logits of factors", logits.Data, narrowed(slices.Concat(slices.Concat(g.Factored...)...)))
				// The way back stores as much as the way there, and begins with e^logits.
				_, gradient := policyGradient(logits, sequences, g.Rewards)
				bound *= 2
				var got, wanted []float32
				for name, part := range backward(t, factored, tape, gradient) {
					got, wanted = append(got, part.S...), append(wanted, narrowed(g.Gradients[name])...)
				}
				near("gradients of scales", got, wanted)
			})
		}
	}
}

func narrowed(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}

// TestStoredMixturesEqualEachAlone wants of sequences with scales of their own, in ragged
// batches and stored in every way, the bits that each gets alone.
func TestStoredMixturesEqualEachAlone(t *testing.T) {
	be := newBackend(t, 2)
	for _, s := range storages(be) {
		for _, kind := range backend.DTypes() {
			base := newModel(t, be, tiny(), model.WeightsAs(kind), model.StoredAs(s))
			factors := randomFactors(base)
			m, err := base.WithFactors(factors)
			if err != nil {
				t.Fatal(err)
			}
			var segments []model.Segment
			for i := range 4 {
				segment := model.Segment{Seq: i, Tokens: randomTokens(1+5*i, tiny().Vocab, uint64(i)), AllLogits: true}
				if i > 0 {
					segment.Scales = newScales(t, m, mixture(factors, uint64(i)))
				}
				segments = append(segments, segment)
			}
			together, row := step(t, m, newCache(t, m, 4), segments...), 0
			for i, segment := range segments {
				alone := step(t, m, newCache(t, m, 4), segment)
				rows := together.Data[row*tiny().Vocab:][:len(alone.Data)]
				if !slices.Equal(rows, alone.Data) {
					t.Errorf("weights %s, stored as %s: sequence %d differs from computing it alone", kind, s, i)
				}
				row += segment.Rows()
			}
		}
	}
}

// TestStoredNarrowTakesHalf counts the bytes of a cache.
func TestStoredNarrowTakesHalf(t *testing.T) {
	be := newBackend(t, 1)
	var first int64
	var models []*model.Model // Weights that were collected meanwhile would be counted as not taken.
	defer func() { runtime.KeepAlive(models) }()
	for _, s := range storages(be) {
		m := newModel(t, be, tiny(), model.StoredAs(s))
		models = append(models, m)
		before := be.Memory().Used
		c, err := m.NewPagedCache(4, 32, 64)
		if err != nil {
			t.Fatal(err)
		}
		took := be.Memory().Used - before
		c.Close()
		tokens := int64(64 * model.BlockSize)
		if first == 0 {
			first = m.CacheTokenBytes()
		}
		if want := first * s.Cache.Bytes(1, 1) / 4; m.CacheTokenBytes() != want || took < want*tokens || took > want*tokens*5/4 {
			t.Errorf("%s: a token takes %d bytes, want %d; %d tokens took %d", s, m.CacheTokenBytes(), want, tokens, took)
		}
	}
}
