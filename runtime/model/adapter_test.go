package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

func randomTensor(r *rand.Rand, size float64, shape ...int) *tensor.Tensor {
	t := tensor.New(shape...)
	for i := range t.Data {
		t.Data[i] = float32(size * r.NormFloat64())
	}
	return t
}

func randomPair(r *rand.Rand, info model.LinearInfo, rank int, scale float32) model.LowRank {
	return model.LowRank{A: randomTensor(r, 0.3, rank, info.In), B: randomTensor(r, 0.3, info.Out, rank), Scale: scale}
}

func randomGains(r *rand.Rand, n int) []float32 {
	gains := make([]float32, n)
	for i := range gains {
		gains[i] = float32(1 + 0.4*r.NormFloat64())
	}
	return gains
}

// kinds says which projections of a test's model have what beside their matrix.
var kinds = map[string]struct{ factored, low, in, out bool }{
	"q_proj": {low: true}, "k_proj": {out: true}, "v_proj": {low: true, out: true}, "o_proj": {factored: true, low: true, in: true, out: true},
	"gate_proj": {in: true}, "up_proj": {factored: true, out: true}, "down_proj": {in: true, low: true, out: true},
}

// adaptable makes a model of two layers with everything that may be beside a matrix, and
// two low-rank pairs where there are any.
func adaptable(t *testing.T, base *model.Model, scale float32) (*model.Model, map[string]model.Factors, map[string][]model.LowRank) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 7))
	pairs := map[string][]model.LowRank{}
	ranks := []int{3, 4} // Of layers; even ones may be multiplied one by one.
	var in, out, factored []string
	for _, info := range base.Linears() {
		k := kinds[info.Module]
		if k.factored {
			factored = append(factored, info.Module)
		}
		if k.low {
			pairs[info.Name] = []model.LowRank{randomPair(r, info, 2, scale), randomPair(r, info, ranks[info.Layer], -scale)}
		}
		if k.in {
			in = append(in, info.Name)
		}
		if k.out {
			out = append(out, info.Name)
		}
	}
	factors := randomFactors(base, slices.Compact(slices.Sorted(slices.Values(factored)))...)
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = m.WithLowRank(pairs); err != nil {
		t.Fatal(err)
	}
	if m, err = m.WithGains(in, out); err != nil {
		t.Fatal(err)
	}
	return m, factors, pairs
}

// TestGradientsOfEveryParameterEqualFiniteDifferences moves all parameters of all kinds
// together along a random direction, and each kind alone.
func TestGradientsOfEveryParameterEqualFiniteDifferences(t *testing.T) {
	for name, s := range map[string]shape{"without biases": tiny(), "with biases": biased()} {
		t.Run(name, func(t *testing.T) { gradientsEqualFiniteDifferences(t, newModel(t, newBackend(t, 2), s)) })
	}
}

func gradientsEqualFiniteDifferences(t *testing.T, base *model.Model) {
	t.Helper()
	m, factors, pairs := adaptable(t, base, 0.7)
	sequences := []model.Sequence{
		{Tokens: randomTokens(9, tiny().Vocab, 1), From: 2}, {Tokens: randomTokens(5, tiny().Vocab, 2)},
	}
	rewards := []float64{1, -0.5}
	r := rand.New(rand.NewPCG(3, 4))
	at, directions := map[string]model.Parameters{}, map[string]model.Parameters{}
	like := func(v []float32) []float32 {
		d := make([]float32, len(v))
		for i := range d {
			d[i] = float32(r.NormFloat64())
		}
		return d
	}
	for _, info := range m.Linears() {
		k := kinds[info.Module]
		var p model.Parameters
		if k.factored {
			p.S = factors[info.Name].S
		}
		if k.low {
			for _, pair := range pairs[info.Name] {
				p.A = append(p.A, pair.A.Data...)
			}
			for o := range info.Out {
				for _, pair := range pairs[info.Name] {
					p.B = append(p.B, pair.B.Row(o)...)
				}
			}
		}
		if k.in {
			p.In = randomGains(r, info.In)
		}
		if k.out {
			p.Out = randomGains(r, info.Out)
			if info.Bias {
				p.Bias = randomGains(r, info.Out)
			}
		}
		at[info.Name] = p
		directions[info.Name] = model.Parameters{S: like(p.S), A: like(p.A), B: like(p.B), In: like(p.In), Out: like(p.Out), Bias: like(p.Bias)}
	}
	members := func(p *model.Parameters) map[string]*[]float32 {
		return map[string]*[]float32{"S": &p.S, "A": &p.A, "B": &p.B, "In": &p.In, "Out": &p.Out, "Bias": &p.Bias}
	}
	lossAt := func(kind string, h float32) float64 {
		for name, p := range at {
			d := directions[name]
			along := members(&d)
			for what, values := range members(&p) {
				if *values == nil {
					continue
				}
				*values = slices.Clone(*values)
				for i, v := range *along[what] {
					if kind == what || kind == "all" {
						(*values)[i] += h * v
					}
				}
			}
			if err := m.SetParameters(name, p); err != nil {
				t.Fatal(err)
			}
		}
		logits, tape := forward(t, m, sequences)
		tape.Release()
		loss, _ := policyGradient(logits, sequences, rewards)
		return loss
	}
	lossAt("all", 0)
	logits, tape := forward(t, m, sequences)
	_, gradient := policyGradient(logits, sequences, rewards)
	got := backward(t, m, tape, gradient)
	moved := []string{"all", "S", "A", "B", "In", "Out"}
	if base.Config().AttentionBias {
		moved = append(moved, "Bias")
	}
	for _, kind := range moved {
		const h = 1e-3
		numeric := (lossAt(kind, h) - lossAt(kind, -h)) / (2 * h)
		var analytic float64
		for name, d := range got {
			along := directions[name]
			to := members(&along)
			for what, values := range members(&d) {
				if len(*values) != len(*to[what]) {
					t.Fatalf("%s: %d gradients of %s, want %d", name, len(*values), what, len(*to[what]))
				}
				for i, v := range *values {
					if kind == what || kind == "all" {
						analytic += float64(v) * float64((*to[what])[i])
					}
				}
			}
		}
		if math.Abs(numeric) < 1e-3 || math.Abs(analytic-numeric) > 1e-2*(1+math.Abs(numeric)) {
			t.Errorf("%s: the gradient along a direction is %v, finite differences say %v", kind, analytic, numeric)
		}
	}
}

// TestMixedKindsEqualEachAlone computes mixtures of adapters of every kind in one batch,
// beside the base, and wants what each gets alone, and nearly what its folded matrices
// give.
func TestMixedKindsEqualEachAlone(t *testing.T) {
	// Runs of rows that are long enough may have products of their own with their pairs.
	for _, path := range registrytest.Paths() {
		for _, c := range []struct {
			read int
			kind backend.DType
		}{{3, backend.F32}, {3, backend.BF16}, {33, backend.F32}, {33, backend.BF16}} {
			read, kind := c.read, c.kind
			t.Run(fmt.Sprintf("%s/%d tokens/%s", path, read, kind), func(t *testing.T) {
				t.Setenv(cpu.EnvPath, path)
				be := newBackend(t, 2)
				mixedKindsEqualEachAlone(t, newModel(t, be, map[int]shape{3: tiny(), 33: biased()}[read], model.WeightsAs(kind)), read, map[backend.DType]float64{backend.F32: 1e-4, backend.BF16: 5e-2}[kind])
			})
		}
	}
}

func mixedKindsEqualEachAlone(t *testing.T, base *model.Model, read int, tolerance float64) {
	t.Helper()
	m, factors, pairs := adaptable(t, base, 0)
	r := rand.New(rand.NewPCG(5, 6))
	kindsOf := []string{"", "SVF", "first pair", "second pair", "gains", "all"}
	var scales []*model.Scales
	var folds []map[string]model.Fold
	for _, kind := range kindsOf {
		all, fold := map[string]model.Branch{}, map[string]model.Fold{}
		for _, info := range m.Linears() {
			k := kinds[info.Module]
			b, f := model.Branch{}, model.Fold{}
			if k.factored {
				own := factors[info.Name]
				own.S = slices.Clone(own.S)
				if kind == "SVF" || kind == "all" {
					b.Z = randomGains(r, len(own.S))
					for i := range own.S {
						own.S[i] *= b.Z[i]
					}
				}
				f.Factors = &own
			}
			if k.low && kind != "" && kind != "SVF" && kind != "gains" {
				b.Low = []float32{0.5, 0}
				if kind != "first pair" {
					b.Low = []float32{0, -0.25}
				}
				if kind == "all" {
					b.Low[0] = 0.75
				}
				for i, p := range pairs[info.Name] {
					p.Scale = b.Low[i]
					f.Low = append(f.Low, p)
				}
			}
			if kind == "gains" || kind == "all" {
				if k.in {
					b.In = randomGains(r, info.In)
				}
				if k.out {
					b.Out, b.Bias = randomGains(r, info.Out), randomGains(r, info.Out)
				}
				f.In, f.Out, f.Bias = b.In, b.Out, b.Bias
			}
			all[info.Name], fold[info.Name] = b, f
		}
		s, err := m.NewScales(all)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "" {
			s = nil
		}
		scales, folds = append(scales, s), append(folds, fold)
	}
	tokens := func(i int) []int32 { return randomTokens(read+9, tiny().Vocab, uint64(i)) }
	c := newCache(t, m, len(scales))
	var segments []model.Segment
	for i, s := range slices.Backward(scales) { // Pairs are not in the order of their rows of banks.
		segments = append(segments, model.Segment{Seq: i, Tokens: tokens(i)[:read+i], AllLogits: true, Scales: s})
	}
	first := step(t, m, c, segments...)
	for i, s := range segments {
		segments[i].Tokens = tokens(s.Seq)[read+s.Seq : read+1+s.Seq]
	}
	second, row := step(t, m, c, segments...), 0
	var seen []string
	for i, segment := range segments {
		n, kind, s := read+segment.Seq, kindsOf[segment.Seq], segment.Scales
		mixed := slices.Concat(first.Data[row*tiny().Vocab:(row+n)*tiny().Vocab], second.Row(i))
		row += n
		alone := model.Segment{Tokens: tokens(segment.Seq)[:n+1], AllLogits: true, Scales: s}
		if !slices.Equal(step(t, m, newCache(t, m, 1), alone).Data, mixed) {
			t.Errorf("%q: its rows in a mixed batch differ from those it gets alone", kind)
		}
		folded, err := base.Folded(t.Context(), folds[segment.Seq])
		if err != nil {
			t.Fatal(err)
		}
		alone.Scales = nil
		wantNear(t, kind+" against folded matrices", mixed, wide(step(t, folded, newCache(t, base, 1), alone).Data), tolerance)
		seen = append(seen, fmt.Sprint(step(t, m, newCache(t, m, 1), model.Segment{Tokens: tokens(0)[:5], Scales: s}).Data))
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != len(scales) {
		t.Error("some mixtures give the same logits: the comparison shows little")
	}
}

// TestMergedTakesEveryKind merges a model with its own parameters.
func TestMergedTakesEveryKind(t *testing.T) {
	base := newModel(t, newBackend(t, 2), biased())
	m, _, _ := adaptable(t, base, 0.5)
	r := rand.New(rand.NewPCG(1, 2))
	change := func() {
		for _, info := range m.Linears() {
			var p model.Parameters
			if kinds[info.Module].in {
				p.In = randomGains(r, info.In)
			}
			if kinds[info.Module].out {
				p.Out = randomGains(r, info.Out)
				if info.Bias {
					p.Bias = randomGains(r, info.Out)
				}
			}
			if err := m.SetParameters(info.Name, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	change()
	prompt := model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), AllLogits: true}
	logits := func(m *model.Model) []float32 { return step(t, m, newCache(t, m, 1), prompt).Data }
	merged, err := m.Merged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantNear(t, "merged", logits(merged), wide(logits(m)), 1e-4)
	change()
	if err := m.MergeInto(t.Context(), merged); err != nil {
		t.Fatal(err)
	}
	wantNear(t, "merged again", logits(merged), wide(logits(m)), 1e-4)
}

func TestRowNormsAreThoseOfTheSum(t *testing.T) {
	base := newModel(t, newBackend(t, 2), tiny())
	r := rand.New(rand.NewPCG(8, 9))
	info := base.Linears()[3]
	low := randomPair(r, info, 4, -0.6)
	own, err := base.RowSquares(info.Name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := base.RowNorms(info.Name, own, low)
	if err != nil {
		t.Fatal(err)
	}
	folded, err := base.Folded(t.Context(), map[string]model.Fold{info.Name: {Low: []model.LowRank{low}}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := folded.Weight(info.Name)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float64, info.Out)
	for o := range want {
		for _, v := range w.Row(o) {
			want[o] += float64(v) * float64(v)
		}
		want[o] = math.Sqrt(want[o])
	}
	wantNear(t, "norms", got, want, 1e-5)
}

func TestAdaptersThatDoNotFitAreRefused(t *testing.T) {
	base := newModel(t, newBackend(t, 1), tiny())
	m, _, pairs := adaptable(t, base, 0)
	at := func(module string) string { return "model.layers.1." + module }
	low := pairs[at("self_attn.q_proj")][0]
	short := model.LowRank{A: tensor.New(2, 3), B: low.B}
	for what, b := range map[string]map[string]model.Branch{
		"no such projection": {"model.layers.9.mlp.up_proj": {}},
		"no factors":         {at("self_attn.q_proj"): {Z: []float32{1}}},
		"no pairs":           {at("self_attn.k_proj"): {Low: []float32{1}}},
		"another number":     {at("self_attn.q_proj"): {Low: []float32{1}}},
		"no input gain":      {at("self_attn.q_proj"): {In: []float32{1}}},
		"no output gain":     {at("self_attn.q_proj"): {Out: []float32{1}}},
		"a short gain":       {at("mlp.gate_proj"): {In: []float32{1}}},
	} {
		if _, err := m.NewScales(b); err == nil || !strings.Contains(err.Error(), "model.layers.") {
			t.Errorf("%s: the error is %v, want one that names the projection", what, err)
		}
	}
	for what, err := range map[string]error{
		"pair of another shape":  second(base.WithLowRank(map[string][]model.LowRank{at("self_attn.q_proj"): {short}})),
		"pair of nothing":        second(base.WithLowRank(map[string][]model.LowRank{at("self_attn.q_proj"): {{}}})),
		"gain of nothing":        second(base.WithGains([]string{"nothing"}, nil)),
		"parameters of no pair":  m.SetParameters(at("self_attn.k_proj"), model.Parameters{A: []float32{1}}),
		"parameters of no gain":  m.SetParameters(at("self_attn.q_proj"), model.Parameters{Out: []float32{1}}),
		"norms of a factored":    second(m.RowNorms(at("self_attn.o_proj"), nil, low)),
		"norms of another shape": second(base.RowNorms(at("self_attn.q_proj"), make([]float64, 24), short)),
		"fold of a short gain":   second(base.Folded(t.Context(), map[string]model.Fold{at("mlp.up_proj"): {In: []float32{1}}})),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
