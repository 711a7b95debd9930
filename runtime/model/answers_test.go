package model_test

import (
	"encoding/json"
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

// behind is the pass in which the base reads the prompts.
func behind(t *testing.T) pass {
	return func(m, base *model.Model, sequences []model.Sequence) (*tensor.Tensor, *model.Tape) {
		t.Helper()
		return answers(t, m, base, sequences)
	}
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
		gradientsEqual(t, g, want, dir, behind(t))
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
	sequences := []model.Sequence{
		{Tokens: randomTokens(9, tiny().Vocab, 1), From: 3}, {Tokens: randomTokens(5, tiny().Vocab, 2)},
		{Tokens: randomTokens(8, tiny().Vocab, 3), From: 6},
	}
	for name, modules := range map[string][]string{"all projections": nil, "keys alone": {"k_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"}} {
		t.Run(name, func(t *testing.T) {
			finiteDifferences(t, modules, sequences, []float64{1, -0.5, 0.7}, behind(t))
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
