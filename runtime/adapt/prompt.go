package adapt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/transformersquared/operator/runtime/contract"
)

// prompt shows the model the skills' descriptions and the request, and chooses
// the label that the model finds most likely, or mixes the few most likely.
type prompt struct {
	*Question
	choosing
	scorer   Scorer
	strategy string
	// with are the weights that pass 1 runs with, by expert name; none for the base.
	with map[string]float64
}

// validatePrompt checks what pass 1 needs: that it sees the request, can tell the
// experts apart, and that its bounds are some.
func validatePrompt(set contract.ExpertSet) []error {
	names := make([]string, len(set.Experts))
	for i, e := range set.Experts {
		names[i] = e.Name
	}
	return append(validatePass1(set.Pass1(), names), validateChoice(set)...)
}

func newPrompt(set contract.ExpertSet, r reader) (Strategy, error) { return readingPrompt(set, r) }

// readingPrompt makes the strategy Prompt of a set.
func readingPrompt(set contract.ExpertSet, r reader) (*prompt, error) {
	q, err := newQuestion(set.Pass1(), r.encoder)
	if err != nil {
		return nil, err
	}
	return &prompt{
		Question: q, choosing: newChoosing(set, r.fatal), scorer: r.scorer, strategy: contract.StrategyPrompt,
	}, nil
}

// Name implements Strategy.
func (p *prompt) Name() string { return p.strategy }

// Needs implements Strategy.
func (p *prompt) Needs() Needs {
	n := p.needs(p.with)
	if len(p.names) > 1 { // Else nothing is asked.
		n.Beginning, n.With = p.beginning, p.with
	}
	return n
}

// Decide implements Strategy: one prefill, then the likelihood of each label.
func (p *prompt) Decide(ctx context.Context, r Request) (Decision, error) {
	if len(p.names) == 1 {
		// Without experts there is nothing to choose, so nothing is computed.
		return p.fallBack(contract.FallbackNoExperts), nil
	}
	scores, tokens, err := p.score(ctx, r)
	if err != nil {
		return p.failed(ctx, err)
	}
	d := p.decide(scores)
	d.Reading.Tokens, d.Reading.With = tokens, maps.Clone(p.with)
	return d, nil
}

// score returns the log-likelihood of each label, and how many tokens the prompt
// had.
func (p *prompt) score(ctx context.Context, r Request) (scores []float64, tokens int, err error) {
	ids, err := p.Prompt(r.Turns...)
	if err != nil {
		return nil, 0, err
	}
	if scores, err = p.scorer.Score(ctx, Scoring{With: p.with, Prompt: ids, Labels: p.labels, Salt: r.Salt}); err != nil {
		return nil, 0, err
	}
	if len(scores) != len(p.labels) {
		return nil, 0, fmt.Errorf("%d scores for %d labels", len(scores), len(p.labels))
	}
	possible := false
	for i, s := range scores {
		if math.IsNaN(s) || math.IsInf(s, 1) {
			return nil, 0, fmt.Errorf("the log-likelihood of label %q is %v", p.Question.texts[i], s)
		}
		possible = possible || !math.IsInf(s, -1)
	}
	if !possible {
		return nil, 0, errors.New("the model finds every label impossible")
	}
	return scores, len(ids), nil
}
