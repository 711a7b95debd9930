package model_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// TestDecodingTokenByTokenEqualsOnePrefill wants the same bits from a prompt
// computed at once, in pieces, token by token, and among other sequences.
func TestDecodingTokenByTokenEqualsOnePrefill(t *testing.T) {
	be := newBackend(t, 2)
	for _, kind := range backend.DTypes() {
		for _, s := range storages(be) {
			t.Run(kind.String()+", stored as "+s.String(), func(t *testing.T) {
				decodingEqualsPrefill(t, newModel(t, be, tiny(), model.WeightsAs(kind), model.StoredAs(s)))
			})
		}
	}
}

func decodingEqualsPrefill(t *testing.T, m *model.Model) {
	t.Helper()
	tokens := randomTokens(30, tiny().Vocab, 1)
	whole := step(t, m, newCache(t, m, 1), model.Segment{Tokens: tokens, AllLogits: true})

	var pieces []float32
	c := newCache(t, m, 5)
	at := 0
	for _, n := range []int{1, 1, 7, 1, 13, 7} {
		segments := []model.Segment{{Seq: 3, Tokens: tokens[at : at+n], AllLogits: true}}
		for other := range 3 { // Company of changing lengths, before and after.
			segments = append(segments, model.Segment{Seq: other, Tokens: randomTokens(1+other*n%5, tiny().Vocab, uint64(n))})
		}
		slices.Reverse(segments)
		logits := step(t, m, c, segments...)
		pieces = append(pieces, logits.Data[3*tiny().Vocab:]...)
		at += n
	}
	if !slices.Equal(whole.Data, pieces) {
		t.Error("logits of the pieces differ from those of the whole prompt")
	}
	if c.Len(3) != len(tokens) {
		t.Errorf("the cache holds %d tokens, want %d", c.Len(3), len(tokens))
	}
}

func TestTrainingForwardEqualsInference(t *testing.T) {
	be := newBackend(t, 2)
	var models []*model.Model
	for _, s := range storages(be) {
		if s.Cache != s.Activations { // Training attends to keys and values as they are.
			continue
		}
		base := newModel(t, be, tiny(), model.StoredAs(s))
		factored, err := base.WithFactors(randomFactors(base, "q_proj", "down_proj"))
		if err != nil {
			t.Fatal(err)
		}
		models = append(models, base, factored)
	}
	for _, m := range models {
		a, b := randomTokens(12, tiny().Vocab, 1), randomTokens(7, tiny().Vocab, 2)
		logits, tape := forward(t, m, []model.Sequence{{Tokens: a, From: 4}, {Tokens: b, From: 0}})
		tape.Release()
		want := step(t, m, newCache(t, m, 2),
			model.Segment{Seq: 0, Tokens: a, AllLogits: true}, model.Segment{Seq: 1, Tokens: b, AllLogits: true})
		var rows []float32
		for i := 4; i < 11; i++ {
			rows = append(rows, want.Row(i)...)
		}
		for i := range 6 {
			rows = append(rows, want.Row(12+i)...)
		}
		if !slices.Equal(logits.Data, rows) {
			t.Error("Forward and Step give different logits")
		}
	}
}

// TestGradientEqualsFiniteDifferences moves all scales along a random direction.
func TestGradientEqualsFiniteDifferences(t *testing.T) {
	cases := map[string][]string{
		"all projections": nil,
		"mlp":             {"gate_proj", "up_proj", "down_proj"},
		"attention":       {"q_proj", "k_proj", "v_proj", "o_proj"},
		"o_proj alone":    {"o_proj"},
	}
	sequences := []model.Sequence{
		{Tokens: randomTokens(9, tiny().Vocab, 1), From: 2}, {Tokens: randomTokens(5, tiny().Vocab, 2)},
	}
	for name, modules := range cases {
		t.Run(name, func(t *testing.T) {
			finiteDifferences(t, modules, sequences, []float64{1, -0.5}, plainly(t))
		})
	}
}

// pass is a forward pass of training, which may use the base. The logits are on the host.
type pass func(m, base *model.Model, sequences []model.Sequence) (*tensor.Tensor, *model.Tape)

// plainly is the one that does not.
func plainly(t *testing.T) pass {
	return func(m, _ *model.Model, sequences []model.Sequence) (*tensor.Tensor, *model.Tape) {
		t.Helper()
		return forward(t, m, sequences)
	}
}

// finiteDifferences moves all scales of these modules along a random direction, and compares
// what becomes of the loss with the gradient.
func finiteDifferences(t *testing.T, modules []string, sequences []model.Sequence, rewards []float64, forward pass) {
	t.Helper()
	base := newModel(t, newBackend(t, 2), tiny())
	factors := randomFactors(base, modules...)
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	direction := map[string][]float32{}
	for _, info := range m.Linears() {
		for range factors[info.Name].S {
			direction[info.Name] = append(direction[info.Name], float32(r.NormFloat64()))
		}
	}
	lossAt := func(h float32) float64 {
		for p, f := range factors {
			s := slices.Clone(f.S)
			for i := range s {
				s[i] += h * direction[p][i]
			}
			if err := m.SetParameters(p, model.Parameters{S: s}); err != nil {
				t.Fatal(err)
			}
		}
		logits, tape := forward(m, base, sequences)
		tape.Release()
		loss, _ := policyGradient(logits, sequences, rewards)
		return loss
	}
	const h = 2e-3
	numeric := (lossAt(h) - lossAt(-h)) / (2 * h)
	lossAt(0)
	logits, tape := forward(m, base, sequences)
	_, gradient := policyGradient(logits, sequences, rewards)
	ds := backward(t, m, tape, gradient)
	if len(ds) != len(factors) {
		t.Errorf("%d gradients for %d factored projections", len(ds), len(factors))
	}
	var analytic float64
	for p, d := range ds {
		for i, v := range d.S {
			analytic += float64(v) * float64(direction[p][i])
		}
	}
	if math.Abs(analytic-numeric) > 1e-2*(1+math.Abs(numeric)) {
		t.Errorf("the gradient along a direction is %v, finite differences say %v", analytic, numeric)
	}
}

func TestResultsDoNotDependOnThreads(t *testing.T) {
	var first []float32
	for _, threads := range []int{1, 2, 3, 7} {
		base := newModel(t, newBackend(t, threads), demo())
		m, err := base.WithFactors(randomFactors(base))
		if err != nil {
			t.Fatal(err)
		}
		sequences := []model.Sequence{{Tokens: randomTokens(60, 512, 1), From: 20}, {Tokens: randomTokens(50, 512, 2)}}
		logits, tape := forward(t, m, sequences)
		_, gradient := policyGradient(logits, sequences, []float64{1, -1})
		ds := backward(t, m, tape, gradient)
		got := slices.Clone(logits.Data)
		for _, info := range m.Linears() {
			got = append(got, ds[info.Name].S...)
		}
		if first == nil {
			first = got
		} else if !slices.Equal(first, got) {
			t.Errorf("%d threads give other logits or gradients than one", threads)
		}
	}
}

func TestMergedEqualsFactored(t *testing.T) {
	base := newModel(t, newBackend(t, 2), tiny())
	factors := randomFactors(base, "v_proj", "gate_proj", "down_proj")
	m, err := base.WithFactors(factors)
	if err != nil {
		t.Fatal(err)
	}
	scaled := slices.Clone(factors["model.layers.1.mlp.down_proj"].S)
	scaled[0] *= 2
	if err := m.SetParameters("model.layers.1.mlp.down_proj", model.Parameters{S: scaled}); err != nil {
		t.Fatal(err)
	}
	merged, err := m.Merged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prompt := model.Segment{Tokens: randomTokens(20, tiny().Vocab, 1), AllLogits: true}
	want := step(t, m, newCache(t, m, 1), prompt)
	got := step(t, merged, newCache(t, m, 1), prompt) // A cache fits siblings.
	for i, v := range want.Data {
		if math.Abs(float64(got.Data[i]-v)) > 1e-4 {
			t.Fatalf("logit %d is %v merged and %v factored", i, got.Data[i], v)
		}
	}
	for _, info := range m.Linears() {
		w, err := m.Weight(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		other, err := merged.Weight(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.Data, other.Data) {
			t.Errorf("%s: Weight differs between factored and merged", info.Name)
		}
	}

	// A sibling made of the merged matrices by hand computes the same bits.
	dense := map[string]*tensor.Tensor{}
	for name := range factors {
		if dense[name], err = m.Weight(name); err != nil {
			t.Fatal(err)
		}
	}
	byHand, err := base.WithDense(dense)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(step(t, byHand, newCache(t, m, 1), prompt).Data, got.Data) {
		t.Error("WithDense of the merged matrices differs from Merged")
	}
	if slices.Equal(step(t, base, newCache(t, m, 1), prompt).Data, got.Data) {
		t.Error("the base model changed with its sibling")
	}
}

func TestCachePrefixesAreSharedAndTruncated(t *testing.T) {
	m := newModel(t, newBackend(t, 1), tiny())
	c := newCache(t, m, 3)
	prefix, a, b := randomTokens(9, tiny().Vocab, 1), randomTokens(3, tiny().Vocab, 2), randomTokens(3, tiny().Vocab, 3)
	step(t, m, c, model.Segment{Seq: 0, Tokens: append(slices.Clone(prefix), a...)})
	if err := c.CopyPrefix(2, 0, len(prefix)); err != nil {
		t.Fatal(err)
	}
	if err := c.Truncate(0, len(prefix)); err != nil {
		t.Fatal(err)
	}
	got := step(t, m, c, model.Segment{Seq: 2, Tokens: a}, model.Segment{Seq: 0, Tokens: b})
	want := step(t, m, newCache(t, m, 2),
		model.Segment{Seq: 0, Tokens: append(slices.Clone(prefix), a...)},
		model.Segment{Seq: 1, Tokens: append(slices.Clone(prefix), b...)})
	if !slices.Equal(got.Data, want.Data) {
		t.Error("continuing a copied or truncated prefix differs from computing it anew")
	}
	for what, err := range map[string]error{
		"truncate to more than there is": c.Truncate(1, 1),
		"truncate to less than nothing":  c.Truncate(0, -1),
		"truncate no sequence":           c.Truncate(3, 0),
		"copy more than there is":        c.CopyPrefix(0, 1, 1),
		"copy to no sequence":            c.CopyPrefix(-1, 0, 1),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestBadStepsAreRefusedAndChangeNothing(t *testing.T) {
	m := newModel(t, newBackend(t, 1), tiny())
	other := tiny()
	other.Layers = 1
	foreign := newCache(t, newModel(t, newBackend(t, 1), other), 1)
	c := newCache(t, m, 2)
	step(t, m, c, model.Segment{Tokens: randomTokens(38, tiny().Vocab, 1)})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	one := []int32{1}
	cases := []struct {
		name     string
		ctx      context.Context
		cache    *model.Cache
		segments []model.Segment
		want     string
	}{
		{"no segments", t.Context(), c, nil, "without segments"},
		{"an empty segment", t.Context(), c, []model.Segment{{Seq: 1}}, "empty"},
		{"a sequence that is not there", t.Context(), c, []model.Segment{{Seq: 2, Tokens: one}}, "sequence 2"},
		{"a negative sequence", t.Context(), c, []model.Segment{{Seq: -1, Tokens: one}}, "sequence -1"},
		{"a sequence twice", t.Context(), c, []model.Segment{{Seq: 1, Tokens: one}, {Seq: 1, Tokens: one}}, "two segments"},
		{"a token past the vocabulary", t.Context(), c, []model.Segment{{Seq: 1, Tokens: []int32{1, 37}}}, "token 1 is 37"},
		{"a negative token", t.Context(), c, []model.Segment{{Seq: 1, Tokens: []int32{-1}}}, "token 0 is -1"},
		{"more than the cache takes", t.Context(), c, []model.Segment{{Seq: 0, Tokens: randomTokens(3, 5, 1)}}, "38 of 40"},
		{"a fork of no tokens", t.Context(), c, []model.Segment{{Seq: 1, Tokens: one, Forks: []model.Fork{{Seq: 2}}}}, "a fork of sequence 1"},
		{"a fork that is not empty", t.Context(), c, []model.Segment{{Seq: 1, Tokens: one, Forks: []model.Fork{{Seq: 0, Tokens: one}}}}, "sequence 0 has 38 tokens"},
		{"a fork of itself", t.Context(), c, []model.Segment{{Seq: 1, Tokens: one, Forks: []model.Fork{{Seq: 1, Tokens: one}}}}, "two segments"},
		{"a cache of another model", t.Context(), foreign, []model.Segment{{Seq: 0, Tokens: one}}, "another model"},
		{"a context that has ended", cancelled, c, []model.Segment{{Seq: 1, Tokens: one}}, "canceled"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := m.Step(tc.ctx, tc.cache, tc.segments)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want one that says %q", err, tc.want)
			}
			if c.Len(0) != 38 || c.Len(1) != 0 {
				t.Errorf("the cache's lengths became %d and %d", c.Len(0), c.Len(1))
			}
		})
	}
	if _, err := m.NewCache(1, tiny().MaxPositions+1); err == nil {
		t.Error("a cache longer than the model's positions: no error")
	}
	if _, err := m.NewCache(0, 1); err == nil {
		t.Error("a cache without sequences: no error")
	}
}

func TestBadTrainingInputIsRefused(t *testing.T) {
	base := newModel(t, newBackend(t, 1), tiny())
	m, err := base.WithFactors(randomFactors(base))
	if err != nil {
		t.Fatal(err)
	}
	long := randomTokens(tiny().MaxPositions+2, tiny().Vocab, 1)
	for name, sequences := range map[string][]model.Sequence{
		"none":                 nil,
		"one token":            {{Tokens: []int32{1}}},
		"from the last token":  {{Tokens: []int32{1, 2}, From: 1}},
		"from before the text": {{Tokens: []int32{1, 2}, From: -1}},
		"an unknown token":     {{Tokens: []int32{1, 99}}},
		"too long":             {{Tokens: long}},
	} {
		if _, err := m.Forward(t.Context(), sequences); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	sequences := []model.Sequence{{Tokens: []int32{1, 2, 3}}}
	logits, tape := forward(t, m, sequences)
	if _, err := base.Backward(t.Context(), tape); err == nil {
		t.Error("a tape of another model: no error")
	}
	if err := tape.Gradient(tensor.New(1, tiny().Vocab)); err == nil {
		t.Error("a gradient of another shape: no error")
	}
	if _, err := tape.PolicyGradient(nil, make([]backend.Position, 5), 0, 1); err == nil {
		t.Error("positions for other rows: no error")
	}
	if _, err := m.Backward(t.Context(), tape); err == nil {
		t.Error("a tape without a gradient: no error")
	}
	if _, err := m.Backward(t.Context(), tape); err == nil {
		t.Error("a used tape: no error")
	}
	if err := tape.Gradient(logits); err == nil {
		t.Error("a gradient for a used tape: no error")
	}
	_, tape = forward(t, m, sequences)
	if err := tape.Gradient(logits); err != nil {
		t.Error(err)
	}
	if _, err := tape.Logits(); err == nil {
		t.Error("logits that are a gradient now: no error")
	}
	tape.Release()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Forward(cancelled, []model.Sequence{{Tokens: []int32{1, 2}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

func TestReplacementsMustFit(t *testing.T) {
	m := newModel(t, newBackend(t, 1), tiny())
	const name = "model.layers.0.mlp.up_proj"
	good := randomFactors(m)[name]
	short := good
	short.S = short.S[1:]
	for what, err := range map[string]error{
		"an unknown projection": second(m.WithDense(map[string]*tensor.Tensor{"model.layers.9.mlp.up_proj": tensor.New(36, 20)})),
		"an unknown module":     second(m.WithDense(map[string]*tensor.Tensor{"model.layers.0.mlp.x_proj": tensor.New(36, 20)})),
		"a transposed matrix":   second(m.WithDense(map[string]*tensor.Tensor{name: tensor.New(20, 36)})),
		"factors of two ranks":  second(m.WithFactors(map[string]model.Factors{name: short})),
		"factors without U":     second(m.WithFactors(map[string]model.Factors{name: {S: good.S, Vt: good.Vt}})),
		"no factors":            second(m.WithFactors(map[string]model.Factors{name: {}})),
		"a scale of a dense":    m.SetParameters(name, model.Parameters{S: good.S}),
	} {
		if err == nil || !strings.Contains(err.Error(), "model.layers.") {
			t.Errorf("%s: the error is %v, want one that names the projection", what, err)
		}
	}
	f, err := m.WithFactors(map[string]model.Factors{name: good})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetParameters(name, model.Parameters{S: good.S[1:]}); err == nil {
		t.Error("a scale of another rank: no error")
	}
}

func second[T any](_ T, err error) error { return err }

func newCache(tb testing.TB, m *model.Model, seqs int) *model.Cache {
	tb.Helper()
	c, err := m.NewCache(seqs, 40)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func step(tb testing.TB, m *model.Model, c *model.Cache, segments ...model.Segment) *tensor.Tensor {
	tb.Helper()
	logits, err := m.Step(tb.Context(), c, segments)
	if err != nil {
		tb.Fatal(err)
	}
	return logits
}

// TestSiblingsComputeAtTheSameTime shares weights, rotary table and backend
// between goroutines with a cache each.
func TestSiblingsComputeAtTheSameTime(t *testing.T) {
	base := newModel(t, newBackend(t, 3), demo())
	factored, err := base.WithFactors(randomFactors(base, "up_proj"))
	if err != nil {
		t.Fatal(err)
	}
	prompts := [][]int32{randomTokens(30, 512, 1), randomTokens(20, 512, 2), randomTokens(25, 512, 3), randomTokens(1, 512, 4)}
	models := []*model.Model{base, factored, base, factored}
	var want [][]float32
	for i, m := range models {
		want = append(want, step(t, m, newCache(t, m, 1), model.Segment{Tokens: prompts[i]}).Data)
	}
	var done sync.WaitGroup
	for i, m := range models {
		c := newCache(t, m, 1)
		done.Go(func() {
			for range 5 {
				logits, err := m.Step(t.Context(), c, []model.Segment{{Tokens: prompts[i]}})
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.Equal(logits.Data, want[i]) {
					t.Errorf("prompt %d has other logits beside other computations", i)
				}
				if err := c.Truncate(0, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
}

// forward returns the logits of sequences and the tape.
func forward(tb testing.TB, m *model.Model, sequences []model.Sequence) (*tensor.Tensor, *model.Tape) {
	tb.Helper()
	tape, err := m.Forward(tb.Context(), sequences)
	if err != nil {
		tb.Fatal(err)
	}
	logits, err := tape.Logits()
	if err != nil {
		tb.Fatal(err)
	}
	return logits, tape
}

// backward takes a gradient with respect to the logits back.
func backward(tb testing.TB, m *model.Model, tape *model.Tape, gradient *tensor.Tensor) map[string]model.Parameters {
	tb.Helper()
	if err := tape.Gradient(gradient); err != nil {
		tb.Fatal(err)
	}
	ds, err := m.Backward(tb.Context(), tape)
	if err != nil {
		tb.Fatal(err)
	}
	return ds
}
