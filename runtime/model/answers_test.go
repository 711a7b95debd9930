package model_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// answers is Forward's sibling for experts that act on answers alone, on the host.
func answers(t *testing.T, m, reader *model.Model, sequences []model.Sequence) (*tensor.Tensor, *model.Tape) {
	t.Helper()
	tape, err := m.ForwardAnswers(t.Context(), reader, sequences)
	if err != nil {
		t.Fatal(err)
	}
	logits, err := tape.Logits()
	if err != nil {
		t.Fatal(err)
	}
	return logits, tape
}

// TestGradientsOfAnswersEqualPyTorch compares with values of hack/golden/answer.py: logits,
// loss and gradients where prompts are read by the base's weights.
func TestGradientsOfAnswersEqualPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, name string) {
		g, dir := readGolden(t, name)
		raw, err := os.ReadFile(filepath.Join(dir, "answer.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want golden
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		base, err := load(t.Context(), newBackend(t, 2), dir)
		if err != nil {
			t.Fatal(err)
		}
		m, err := base.WithFactors(readFactors(t, dir, base))
		if err != nil {
			t.Fatal(err)
		}
		var sequences []model.Sequence
		for _, q := range g.Sequences {
			sequences = append(sequences, model.Sequence{Tokens: q.Tokens, From: q.From})
		}
		logits, tape := answers(t, m, base, sequences)
		wantNear(t, "logits", logits.Data, slices.Concat(slices.Concat(want.Factored...)...), logitTolerance)
		loss, gradient := policyGradient(logits, sequences, g.Rewards)
		if math.Abs(loss-want.Loss) > 1e-4 {
			t.Errorf("the loss is %v, want %v", loss, want.Loss)
		}
		got := backward(t, m, tape, gradient)
		if len(got) != len(want.Gradients) {
			t.Errorf("%d gradients, want %d", len(got), len(want.Gradients))
		}
		for projection, w := range want.Gradients {
			wantNear(t, projection, got[projection].S, w, gradientTolerance)
		}
	})
}

// TestForwardAnswersEqualsInference lets the base read prompts into a cache and an expert
// go on there, to the bit.
func TestForwardAnswersEqualsInference(t *testing.T) {
	be := newBackend(t, 2)
	for _, s := range storages(be) {
		if s.Cache != s.Activations { // Training attends to keys and values as they are.
			continue
		}
		base := newModel(t, be, tiny(), model.StoredAs(s))
		m, err := base.WithFactors(randomFactors(base, "q_proj", "v_proj", "down_proj"))
		if err != nil {
			t.Fatal(err)
		}
		sequences := []model.Sequence{
			{Tokens: randomTokens(12, tiny().Vocab, 1), From: 4}, {Tokens: randomTokens(7, tiny().Vocab, 2), From: 0},
			{Tokens: randomTokens(9, tiny().Vocab, 3), From: 7},
		}
		logits, tape := answers(t, m, base, sequences)
		tape.Release()
		c := newCache(t, m, len(sequences))
		var read, written []model.Segment
		for i, q := range sequences {
			if q.From > 0 {
				read = append(read, model.Segment{Seq: i, Tokens: q.Tokens[:q.From]})
			}
			written = append(written, model.Segment{Seq: i, Tokens: q.Tokens[q.From : len(q.Tokens)-1], AllLogits: true})
		}
		step(t, base, c, read...)
		if want := step(t, m, c, written...); !slices.Equal(logits.Data, want.Data) {
			t.Errorf("stored as %v, ForwardAnswers and Step give different logits", s)
		}
		// Behind nothing, it is Forward.
		whole := []model.Sequence{{Tokens: randomTokens(8, tiny().Vocab, 4)}}
		logits, tape = answers(t, m, base, whole)
		tape.Release()
		want, tape := forward(t, m, whole)
		tape.Release()
		if !slices.Equal(logits.Data, want.Data) {
			t.Errorf("stored as %v, ForwardAnswers without prompts is not Forward", s)
		}
	}
}

// TestGradientOfAnswersEqualsFiniteDifferences moves all scales along a random direction.
func TestGradientOfAnswersEqualsFiniteDifferences(t *testing.T) {
	for name, modules := range map[string][]string{"all projections": nil, "keys alone": {"k_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"}} {
		t.Run(name, func(t *testing.T) {
			base := newModel(t, newBackend(t, 2), tiny())
			factors := randomFactors(base, modules...)
			m, err := base.WithFactors(factors)
			if err != nil {
				t.Fatal(err)
			}
			sequences := []model.Sequence{
				{Tokens: randomTokens(9, tiny().Vocab, 1), From: 3}, {Tokens: randomTokens(5, tiny().Vocab, 2)},
				{Tokens: randomTokens(8, tiny().Vocab, 3), From: 6},
			}
			rewards := []float64{1, -0.5, 0.7}
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
				logits, tape := answers(t, m, base, sequences)
				tape.Release()
				loss, _ := policyGradient(logits, sequences, rewards)
				return loss
			}
			const h = 2e-3
			numeric := (lossAt(h) - lossAt(-h)) / (2 * h)
			lossAt(0)
			logits, tape := answers(t, m, base, sequences)
			_, gradient := policyGradient(logits, sequences, rewards)
			var analytic float64
			for p, d := range backward(t, m, tape, gradient) {
				for i, v := range d.S {
					analytic += float64(v) * float64(direction[p][i])
				}
			}
			if math.Abs(analytic-numeric) > 1e-2*(1+math.Abs(numeric)) {
				t.Errorf("the gradient along a direction is %v, finite differences say %v", analytic, numeric)
			}
		})
	}
}

func TestForwardAnswersRefusesAnotherBase(t *testing.T) {
	be := newBackend(t, 1)
	m, err := newModel(t, be, tiny()).WithFactors(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := newModel(t, be, demo())
	if _, err := m.ForwardAnswers(t.Context(), other, []model.Sequence{{Tokens: []int32{1, 2, 3}, From: 1}}); err == nil {
		t.Error("prompts read by a model of another shape: no error")
	}
	if _, err := m.ForwardAnswers(t.Context(), m, []model.Sequence{{Tokens: []int32{1, 2}, From: 1}}); err == nil {
		t.Error("a sequence without an answer: no error")
	}
}
