package adapt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// prompt shows the model the skills' descriptions and the request, and chooses
// the label that the model finds most likely, or mixes the few most likely.
type prompt struct {
	*Question
	reader
	strategy string
	// with are the weights that pass 1 runs with, by expert name; none for the base.
	with     map[string]float64
	least    float64 // Probability of the most likely label.
	mixed    int     // Labels, at most.
	fallback string

	names []string // By label: expert names, then contract.OthersLabel.
}

// validatePrompt checks what pass 1 needs: that it sees the request, can tell the
// experts apart, and that its bounds are some.
func validatePrompt(set contract.ExpertSet) []error {
	names := make([]string, len(set.Experts))
	for i, e := range set.Experts {
		names[i] = e.Name
	}
	problems := validatePass1(set.Pass1(), names)
	problems.add(!(set.MinProbability >= 0 && set.MinProbability <= 1), // NaN is neither.
		"minProbability is %v, must be from 0 to 1", set.MinProbability)
	problems.add(set.TopK < 0 || set.TopK > contract.MaxTopK, "topK is %d, must be from 1 to %d", set.TopK, contract.MaxTopK)
	return problems
}

func newPrompt(set contract.ExpertSet, r reader) (Strategy, error) { return readingPrompt(set, r) }

// readingPrompt makes the strategy Prompt of a set.
func readingPrompt(set contract.ExpertSet, r reader) (*prompt, error) {
	q, err := newQuestion(set.Pass1(), r.encoder)
	if err != nil {
		return nil, err
	}
	p := &prompt{
		Question: q, reader: r, strategy: contract.StrategyPrompt,
		least: set.MinProbability, mixed: cmp.Or(set.TopK, 1), fallback: set.Fallback,
	}
	for _, e := range set.Experts {
		p.names = append(p.names, e.Name)
	}
	p.names = append(p.names, contract.OthersLabel)
	return p, nil
}

// Name implements Strategy.
func (p *prompt) Name() string { return p.strategy }

// Needs implements Strategy.
func (p *prompt) Needs() Needs {
	n := Needs{Passes: 2, Blends: p.mixed > 1}
	if len(p.with) > 0 { // Of every request.
		n.Mixtures = append(n.Mixtures, maps.Clone(p.with))
	}
	for _, name := range p.names[:len(p.names)-1] {
		n.Mixtures = append(n.Mixtures, single(name).Weights)
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
		if ctx.Err() != nil || errors.Is(err, context.Canceled) || p.fatal != nil && p.fatal(err) {
			return Decision{}, fmt.Errorf("pass 1: %w", err)
		}
		d := p.fallBack(contract.FallbackFailed)
		d.Cause = err
		return d, nil
	}
	probabilities := softmax(scores)
	d := p.choose(scores, probabilities)
	d.Reading = &Reading{Tokens: tokens, Threshold: p.least, With: maps.Clone(p.with)}
	d.Probabilities = make(map[string]float64, len(scores))
	for i, q := range probabilities {
		d.Probabilities[p.names[i]] = q
		d.Reading.Labels = append(d.Reading.Labels, Label{
			Name: p.names[i], Text: p.texts[i], LogLikelihood: scores[i], Probability: q,
		})
	}
	return d, nil
}

// fallBack is the decision where pass 1 chose nothing.
func (p *prompt) fallBack(why string) Decision {
	d := single(p.fallback)
	d.Fallback = why
	return d
}

// choose makes the decision of the labels' log-likelihoods and probabilities. Where
// the most likely label, be it "others", is too unlikely, or cannot be told
// from the next one, the fallback answers. Of several labels that are
// mixed, "others" has a share as any: the base weights'.
func (p *prompt) choose(scores, probabilities []float64) Decision {
	best := leading(scores, p.mixed)
	switch {
	case len(best) == 0:
		return p.fallBack(contract.FallbackTie)
	case probabilities[best[0]] < p.least:
		return p.fallBack(contract.FallbackUnlikely)
	}
	likely := make([]float64, len(best))
	for i, label := range best {
		likely[i] = probabilities[label]
	}
	d := Decision{Weights: map[string]float64{}}
	var names []string
	for i, share := range shares(likely) {
		if share == 0 {
			continue
		}
		name := p.names[best[i]]
		if name == contract.OthersLabel {
			name = contract.BaseName
		}
		names = append(names, name)
		d.Weights[name] = share
	}
	if len(names) > 1 {
		d.Expert = strings.Join(names, "+")
		return d
	}
	d = single(names[0])
	if names[0] == contract.BaseName {
		d.Fallback = contract.FallbackOthers
	}
	return d
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
			return nil, 0, fmt.Errorf("the log-likelihood of label %q is %v", p.texts[i], s)
		}
		possible = possible || !math.IsInf(s, -1)
	}
	if !possible {
		return nil, 0, errors.New("the model finds every label impossible")
	}
	return scores, len(ids), nil
}
