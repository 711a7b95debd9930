package server

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
)

// explain handles contract.PathExplain.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	defer body.release()
	e, err := s.Explain(r.Context(), body.bytes)
	if err != nil {
		return err
	}
	rec := recordOf(r)
	rec.answered, rec.outcome = true, outcome{
		result: engine.Result{PromptTokens: e.PromptTokens},
		adaptation: contract.Adaptation{
			Strategy: e.Strategy, Expert: e.Expert, Fallback: e.Fallback, Pass1Seconds: e.Pass1Seconds,
		},
	}
	writeJSON(w, http.StatusOK, e)
	return nil
}

// Explain says which weights a request would be answered with, and why: it runs
// pass 1 and nothing else. The body is that of a chat or of a completion; what would
// be refused there is refused here, in the same words.
func (s *Server) Explain(ctx context.Context, body []byte) (contract.Explanation, error) {
	var e contract.Explanation
	c := s.core.Load()
	if c == nil {
		return e, errNotLoaded
	}
	q, err := parseEither(body)
	if err != nil {
		return e, err
	}
	t, r, err := s.admit(ctx, c, q)
	if err != nil {
		return e, err
	}
	subject := q.subject(c, r)
	subject.Fresh = true // What is remembered has been read, and is to be seen.
	d, pass1, err := s.decide(ctx, t, subject)
	if err != nil {
		return e, err
	}
	a := t.adaptation(d, pass1, 0)
	e = contract.Explanation{
		Object: contract.ExplanationObject, Model: q.model, Strategy: a.Strategy,
		Expert: a.Expert, Weights: a.Weights, Fallback: a.Fallback, Turn: a.Turn, Why: t.why(d, len(subject.Turns)),
		PromptTokens: len(r.Prompt), Pass1Seconds: a.Pass1Seconds, ExpertSetDigest: a.ExpertSetDigest, Side: a.Side,
	}
	if d.Reading == nil {
		return e, nil
	}
	e.Pass1Tokens, e.MinProbability = d.Reading.Tokens, d.Reading.Threshold
	e.Labels = explained(d.Reading.Labels)
	e.Classifier = strings.Join(slices.Sorted(maps.Keys(d.Reading.With)), "+")
	return e, nil
}

// explained words labels for the client.
func explained(labels []adapt.Label) []contract.ExplainedLabel {
	list := make([]contract.ExplainedLabel, len(labels))
	for i, l := range labels {
		list[i] = contract.ExplainedLabel{Expert: l.Name, Label: l.Text, Probability: l.Probability}
		if l.Name == contract.OthersLabel {
			list[i].Expert = contract.BaseName
		}
		if !math.IsInf(l.LogLikelihood, -1) { // JSON has no infinity.
			list[i].LogLikelihood = &l.LogLikelihood
		}
	}
	return list
}

// parseEither reads a request of contract.PathChatCompletions, contract.PathResponses or
// contract.PathCompletions, whichever it is.
func parseEither(body []byte) (query, error) {
	f, err := parseFields(body)
	if err != nil {
		return query{}, err
	}
	switch {
	case f.has("messages"):
		return parseChat(body)
	case f.has("input"):
		return parseResponses(body)
	case f.has("prompt"):
		return parseCompletion(body)
	default:
		return query{}, invalid("messages", "missing_required_parameter",
			"messages, input and prompt are missing: give what you would ask %s, %s or %s",
			contract.PathChatCompletions, contract.PathResponses, contract.PathCompletions)
	}
}

// why says in words what led to a decision about a conversation of so many turns.
func (t target) why(d adapt.Decision, turns int) string {
	const thenFallback = ": the fallback answers"
	switch d.Fallback {
	case contract.FallbackNoExperts:
		return "there are no experts to choose from" + thenFallback
	case contract.FallbackFailed:
		return "pass 1 failed (" + asAPIError(d.Cause).Message + ")" + thenFallback
	case contract.FallbackTie:
		return "pass 1 cannot tell its most likely labels apart" + thenFallback
	}
	switch {
	case t.pinned != "":
		return "the model name pins it: there is no pass 1"
	case t.set.strategy.Needs().Passes == 1:
		return fmt.Sprintf("strategy %s gives every request the same weights: there is no pass 1", t.set.strategy.Name())
	case d.Reading == nil || len(d.Reading.Labels) == 0:
		return fmt.Sprintf("strategy %s chooses it", t.set.strategy.Name())
	}
	best := d.Reading.Labels[0]
	for _, l := range d.Reading.Labels {
		if l.LogLikelihood > best.LogLikelihood {
			best = l
		}
	}
	when := ""
	if d.Turn < turns {
		when = fmt.Sprintf("the choice of the user's turn %d of %d stays: ", d.Turn, turns)
	}
	who := "pass 1"
	if t.set.strategy.Name() == contract.StrategyProbe {
		who = "the probe"
	}
	found := when + fmt.Sprintf("%s finds the label %q most likely (%.4f)", who, best.Text, best.Probability)
	if len(d.Reading.With) > 0 {
		found = "with its classifier, " + found
	}
	switch {
	case d.Fallback == contract.FallbackUnlikely:
		return fmt.Sprintf("%s, but minProbability is %v%s", found, d.Reading.Threshold, thenFallback)
	case d.Fallback == contract.FallbackOthers:
		return found + ": the base weights answer"
	case len(d.Weights) > 1:
		return fmt.Sprintf("%s, and mixes the %d most likely", found, len(d.Weights))
	}
	return found
}
