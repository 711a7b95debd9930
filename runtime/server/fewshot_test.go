package server_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestAMixtureThatWasSearchedAnswersByItsLayers: merged, by another model for other
// weights of layers, and by the same as a fixed mixture where layers are alike.
func TestAMixtureThatWasSearchedAnswersByItsLayers(t *testing.T) {
	h := open(t, nil)
	ask := chat("demo", "What is 2+3?", fields{"temperature": 0, "max_tokens": 40})
	answer := func(strategy string, layers ...[]float64) (string, *contract.Adaptation) {
		t.Helper()
		set := h.set()
		set.Strategy = strategy
		for i := range set.Experts {
			if set.Experts[i].Weight = 0.5; layers != nil {
				set.Experts[i].LayerWeights = layers[i]
			}
		}
		h.swap(t, set)
		got, r := h.ask(t, contract.PathChatCompletions, ask)
		if r.StatusCode != 200 {
			t.Fatalf("status %s: %+v", r.Status, got.Error)
		}
		return got.Choices[0].Message.Content, got.Adaptation
	}
	fixed, _ := answer(contract.StrategyFixed)
	if alike, _ := answer(contract.StrategyFewShot, []float64{0.5, 0.5}, []float64{0.5, 0.5}); alike != fixed {
		t.Errorf("with the same weights in all layers %q, fixed %q", alike, fixed)
	}
	one, adaptation := answer(contract.StrategyFewShot, []float64{1, 0}, []float64{0, 1})
	other, _ := answer(contract.StrategyFewShot, []float64{0, 1}, []float64{1, 0})
	if one == other || one == fixed {
		t.Errorf("weights of layers make no difference: %q, %q, %q", one, other, fixed)
	}
	set := h.set()
	want := map[string]float64{set.Experts[0].Name: 0.5, set.Experts[1].Name: 0.5}
	if diff := cmp.Diff(want, adaptation.Weights); diff != "" || adaptation.Strategy != contract.StrategyFewShot {
		t.Errorf("it says of itself %+v\n%s", adaptation, diff)
	}
}

// TestBeforeASearchTheBaseAnswers and each expert can be pinned.
func TestBeforeASearchTheBaseAnswers(t *testing.T) {
	h := open(t, nil)
	set := h.set()
	set.Strategy = contract.StrategyFewShot
	for i := range set.Experts {
		set.Experts[i].Weight = 0
	}
	h.swap(t, set)
	for model, want := range map[string]string{"demo": contract.BaseName, "demo:" + set.Experts[0].Name: set.Experts[0].Name} {
		got, _ := h.ask(t, contract.PathChatCompletions, chat(model, "What is 2+3?", fields{"max_tokens": 4}))
		if got.Adaptation == nil || got.Adaptation.Expert != want {
			t.Errorf("model %s is answered by %+v", model, got.Adaptation)
		}
	}
}
