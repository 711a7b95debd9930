package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// mixture makes a z around 1 for the projections of these factors; every third
// seed leaves the attention as it is.
func mixture(factors map[string]model.Factors, seed uint64) map[string][]float32 {
	z := map[string][]float32{}
	for name, f := range factors {
		if seed%3 == 0 && strings.Contains(name, "self_attn") {
			continue
		}
		r := rand.New(rand.NewPCG(seed, uint64(len(name))))
		for range f.S {
			z[name] = append(z[name], float32(1+0.5*r.NormFloat64()))
		}
	}
	return z
}

// branches are those that scale by z.
func branches(z map[string][]float32) map[string]model.Branch {
	all := map[string]model.Branch{}
	for name, values := range z {
		all[name] = model.Branch{Z: values}
	}
	return all
}

func newScales(tb testing.TB, m *model.Model, z map[string][]float32) *model.Scales {
	tb.Helper()
	s, err := m.NewScales(branches(z))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// TestMixedBatchEqualsEachAlone computes eight mixtures and the base in ragged
// batches, prompts beside single tokens, and wants the bits that each gets
// alone, that the same scales give when they are the model's own, and nearly
// those of the merged matrices.
func TestMixedBatchEqualsEachAlone(t *testing.T) {
	for name, modules := range map[string][]string{
		"all":                nil,
		"some stay dense":    {"v_proj", "o_proj", "gate_proj", "down_proj"},
		"one alone is there": {"up_proj"},
	} {
		t.Run(name, func(t *testing.T) {
			base := newModel(t, newBackend(t, 2), tiny())
			factors := randomFactors(base, modules...)
			m, err := base.WithFactors(factors)
			if err != nil {
				t.Fatal(err)
			}
			const mixtures = 8
			zs, scales := []map[string][]float32{{}}, []*model.Scales{nil}
			for i := range mixtures {
				zs = append(zs, mixture(factors, uint64(i)))
				scales = append(scales, newScales(t, m, zs[i+1]))
			}
			const turns = 4
			lengths := [turns]func(i int) int{
				func(i int) int { return 1 + 2*i%7 }, func(int) int { return 1 }, func(i int) int { return 1 + 3*(i%2) }, func(int) int { return 1 },
			}
			tokens := func(i int) []int32 { return randomTokens(40, tiny().Vocab, uint64(i)) }
			mixed, at := make([][]float32, len(scales)), make([]int, len(scales))
			c := newCache(t, m, len(scales))
			for turn := range turns {
				var segments []model.Segment
				for i, s := range scales {
					n := lengths[turn](i)
					segments = append(segments, model.Segment{Seq: i, Tokens: tokens(i)[at[i]:][:n], AllLogits: true, Scales: s})
				}
				logits, row := step(t, m, c, segments...), 0
				for i := range scales {
					n := lengths[turn](i)
					for range n {
						mixed[i] = append(mixed[i], logits.Row(row)...)
						row++
					}
					at[i] += n
				}
			}
			seen := map[string]int{}
			for i, s := range scales {
				all := model.Segment{Tokens: tokens(i)[:at[i]], AllLogits: true, Scales: s}
				if !slices.Equal(step(t, m, newCache(t, m, 1), all).Data, mixed[i]) {
					t.Errorf("mixture %d: its rows in a mixed batch differ from those it gets alone", i)
				}
				own, merged := ownScales(t, base, factors, zs[i])
				all.Scales = nil
				if !slices.Equal(step(t, own, newCache(t, m, 1), all).Data, mixed[i]) {
					t.Errorf("mixture %d: its rows differ from those of a model with these scales", i)
				}
				wantNear(t, fmt.Sprintf("mixture %d against its merged matrices", i), mixed[i], wide(step(t, merged, newCache(t, m, 1), all).Data), 1e-4)
				seen[fmt.Sprint(step(t, m, newCache(t, m, 1), model.Segment{Tokens: tokens(0)[:5], Scales: s}).Data)]++
			}
			if len(seen) != len(scales) {
				t.Errorf("%d mixtures give %d different logits: the comparison shows little", len(scales), len(seen))
			}
		})
	}
}

// ownScales returns a model whose own scales are s⊙z, and its merged sibling.
func ownScales(t *testing.T, base *model.Model, factors map[string]model.Factors, z map[string][]float32) (own, merged *model.Model) {
	t.Helper()
	own, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range factors {
		s := slices.Clone(f.S)
		for i := range z[name] {
			s[i] *= z[name][i]
		}
		if err := own.SetParameters(name, model.Parameters{S: s}); err != nil {
			t.Fatal(err)
		}
	}
	if merged, err = own.Merged(t.Context()); err != nil {
		t.Fatal(err)
	}
	return own, merged
}

// TestScalesComeAndGoBesideRunningSteps makes and drops scales while another
// goroutine computes.
func TestScalesComeAndGoBesideRunningSteps(t *testing.T) {
	base := newModel(t, newBackend(t, 2), tiny())
	factors := randomFactors(base)
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	running := newScales(t, m, mixture(factors, 1))
	segment := model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), Scales: running}
	want := step(t, m, newCache(t, m, 1), segment)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for seed := uint64(2); ; seed++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := m.NewScales(branches(mixture(factors, seed))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	c := newCache(t, m, 2)
	for i := range 40 {
		company := newScales(t, m, mixture(factors, uint64(1000+i)))
		got := step(t, m, c, segment, model.Segment{Seq: 1, Tokens: []int32{int32(i % tiny().Vocab)}, Scales: company})
		if !slices.Equal(got.Row(0), want.Row(0)) {
			t.Errorf("step %d: scales that came and went changed a running sequence", i)
		}
		for seq := range 2 {
			if err := c.Truncate(seq, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	others.Wait()
}

func TestScalesMustFitTheirModel(t *testing.T) {
	base := newModel(t, newBackend(t, 1), tiny())
	const up, down = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
	factors := randomFactors(base, "up_proj")
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	sibling, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	good := mixture(factors, 1)
	for what, z := range map[string]map[string][]float32{
		"a dense projection":    {down: make([]float32, 20)},
		"an unknown projection": {"model.layers.7.mlp.up_proj": good[up]},
		"another rank":          {up: good[up][1:]},
	} {
		if _, err := m.NewScales(branches(z)); err == nil || !strings.Contains(err.Error(), "model.layers.") {
			t.Errorf("%s: the error is %v, want one that names the projection", what, err)
		}
	}
	s := newScales(t, m, good)
	for what, other := range map[string]*model.Model{"dense": base, "factored": sibling} {
		c := newCache(t, base, 2)
		_, err := other.Step(t.Context(), c, []model.Segment{{Seq: 1, Tokens: []int32{1}, Scales: s}})
		if err == nil || !strings.Contains(err.Error(), "sequence 1") || c.Len(1) != 0 {
			t.Errorf("scales of another model in a %s one: %v, and the cache holds %d tokens", what, err, c.Len(1))
		}
	}
	if got, want := s.Bytes(), int64(2*20*4); got != want {
		t.Errorf("the scales of two matrices of rank 20 take %d bytes, want %d", got, want)
	}
}

func TestProjectionsAreSharedByName(t *testing.T) {
	be := newBackend(t, 1)
	base := newModel(t, be, tiny())
	factors := randomFactors(base, "up_proj", "o_proj")
	both, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}
	shared, err := base.WithFactorsOf(both, names)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := base.WithFactors(map[string]model.Factors{names[0]: factors[names[0]], names[1]: factors[names[1]]})
	if err != nil {
		t.Fatal(err)
	}
	prompt := model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), AllLogits: true}
	if !slices.Equal(step(t, shared, newCache(t, base, 1), prompt).Data, step(t, alone, newCache(t, base, 1), prompt).Data) {
		t.Error("shared projections compute other numbers than their own would")
	}
	const up = (36 + 20 + 1) * 20 * 4 // U, Vᵀ and σ of one up_proj.
	const o = (20 + 24 + 1) * 20 * 4  // Those of one o_proj.
	for what, c := range map[string]struct{ got, want int64 }{
		"the base beyond itself":       {base.ProjectionBytes(base), 0},
		"two of the four factored":     {base.ProjectionBytes(shared), 2 * up},
		"all four, two of them shared": {base.ProjectionBytes(shared, both), 2*up + 2*o},
		"the dense instead":            {both.ProjectionBytes(base), 2*4*20*36 + 2*4*20*24},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d bytes, want %d", what, c.got, c.want)
		}
	}
	other := tiny()
	other.Layers = 1
	if _, err := base.WithFactorsOf(newModel(t, be, other), nil); err == nil {
		t.Error("a model of another shape: no error")
	}
	if _, err := base.WithFactorsOf(both, []string{"lm_head"}); err == nil {
		t.Error("no projection: no error")
	}
}

// TestScaledEqualsTheFormula checks one projection's effect against float64.
func TestScaledEqualsTheFormula(t *testing.T) {
	base := newModel(t, newBackend(t, 1), tiny())
	factors := randomFactors(base)
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	z := mixture(factors, 4)
	dense := map[string]*tensor.Tensor{}
	for name, f := range factors {
		w := tensor.New(f.U.Rows(), f.Vt.Cols())
		for o := range w.Rows() {
			for i := range w.Cols() {
				sum := 0.0
				for k := range f.S {
					sum += float64(f.U.Row(o)[k]) * float64(f.S[k]) * float64(z[name][k]) * float64(f.Vt.Row(k)[i])
				}
				w.Row(o)[i] = float32(sum)
			}
		}
		dense[name] = w
	}
	want, err := base.WithDense(dense)
	if err != nil {
		t.Fatal(err)
	}
	prompt := model.Segment{Tokens: randomTokens(9, tiny().Vocab, 1), AllLogits: true}
	expected := step(t, want, newCache(t, m, 1), prompt).Data
	prompt.Scales = newScales(t, m, z)
	got := step(t, m, newCache(t, m, 1), prompt).Data
	for i := range got {
		if math.Abs(float64(got[i]-expected[i])) > 1e-4 {
			t.Fatalf("logit %d is %v, the formula gives %v", i, got[i], expected[i])
		}
	}
}
