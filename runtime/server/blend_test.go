package server_test

import (
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/server"
)

// rivals is the set with skills that the tiny model, which knows nothing of skills,
// finds about as likely as "others".
func (h *house) rivals(first, second string) contract.ExpertSet {
	set := h.set()
	set.Experts[0].Skill, set.Experts[1].Skill = first, second
	return set
}

// TestPass1MixesWhatItFindsLikely asks for mixtures of all labels, whose weights are
// those of the probabilities. There is no end of such mixtures, so that none is
// composed.
func TestPass1MixesWhatItFindsLikely(t *testing.T) {
	h := open(t, nil)
	set := h.rivals("otherb", "otherc")
	set.TopK = 3
	h.swap(t, set)
	ask := chat("demo", "What is 2+3?", fields{"temperature": 0})
	got, r := h.ask(t, contract.PathChatCompletions, ask)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("status %s: %+v", r.Status, got.Error)
	}
	a := got.Adaptation
	sum := 0.0
	for name, share := range a.Weights {
		label := name
		if name == contract.BaseName {
			label = contract.OthersLabel
		}
		if sum += share; math.Abs(share-a.Probabilities[label]) >= 1./16 || share*16 != math.Round(share*16) {
			t.Errorf("the weight of %s is %v, its probability %v", name, share, a.Probabilities[label])
		}
	}
	if len(a.Weights) != 3 || sum != 1 || strings.Count(a.Expert, "+") != 2 || a.Fallback != "" {
		t.Fatalf("adaptation %+v, want the base and both experts", a)
	}
	again, _ := h.ask(t, contract.PathChatCompletions, ask)
	if again.Choices[0].Message.Content != got.Choices[0].Message.Content {
		t.Errorf("the same request is answered by %q and %q", got.Choices[0].Message.Content, again.Choices[0].Message.Content)
	}
	// One mixture beside the two experts, found again, and nothing composed.
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{
		`t2_mixtures{form="merged"} 0`, `t2_mixtures{form="unmerged"} 3`, `t2_adaptations_total{choice="mixture",strategy="Prompt"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if s := h.Status(); s.Experts[0].Requests != 2 || s.Experts[1].Requests != 2 || s.Fallbacks != 0 {
		t.Errorf("status %+v, want two requests for each expert", s)
	}
}

// TestAMixtureOfPass1AnswersAsTheSameFixedOne, to the letter where both are computed
// in one form.
func TestAMixtureOfPass1AnswersAsTheSameFixedOne(t *testing.T) {
	h := open(t, func(c *server.Config) { c.Form = engine.FormUnmerged })
	set := h.rivals("othery", "otherz")
	set.TopK = 2
	h.swap(t, set)
	ask := chat("demo", "What is 2+3?", fields{"temperature": 0, "max_tokens": 40})
	mixed, _ := h.ask(t, contract.PathChatCompletions, ask)
	if len(mixed.Adaptation.Weights) != 2 || mixed.Adaptation.Weights[contract.BaseName] != 0 {
		t.Fatalf("adaptation %+v, want both experts", mixed.Adaptation)
	}
	fixed := h.set()
	fixed.Strategy = contract.StrategyFixed
	for i := range fixed.Experts {
		fixed.Experts[i].Weight = mixed.Adaptation.Weights[fixed.Experts[i].Name]
	}
	h.swap(t, fixed)
	want, _ := h.ask(t, contract.PathChatCompletions, ask)
	if got := mixed.Choices[0].Message.Content; got != want.Choices[0].Message.Content {
		t.Errorf("mixed by pass 1: %q, fixed: %q", got, want.Choices[0].Message.Content)
	}
}

// TestBelowTheThresholdTheFallbackAnswers and the answer says so.
func TestBelowTheThresholdTheFallbackAnswers(t *testing.T) {
	h := open(t, nil)
	set := h.rivals("otherb", "otherc")
	set.MinProbability, set.Fallback = 0.99, "demo-code"
	h.swap(t, set)
	got, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "What is 2+3?", nil))
	a := got.Adaptation
	if a == nil || a.Expert != "demo-code" || a.Fallback != contract.FallbackUnlikely || len(a.Probabilities) != 3 {
		t.Fatalf("adaptation %+v", a)
	}
	if s := h.Status(); s.Fallbacks != 1 {
		t.Errorf("%d fallbacks, want 1", s.Fallbacks)
	}
	h.handled()
	if log := h.log.String(); !strings.Contains(log, `"fallback":"BelowMinProbability"`) {
		t.Errorf("the log does not say that pass 1 fell back:\n%s", log)
	}
}
