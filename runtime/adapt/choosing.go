package adapt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// choosing takes one of several names by how likely each is, or mixes the few most likely:
// what strategies with a pass 1 have in common.
type choosing struct {
	names    []string // Of experts, then contract.OthersLabel.
	texts    []string // What stands for each, in what is explained.
	least    float64  // Probability of the most likely one.
	mixed    int      // At most.
	fallback string
	fatal    func(error) bool
}

// validateChoice checks the bounds of a choice.
func validateChoice(set contract.ExpertSet) []error {
	var problems problems
	problems.add(!(set.MinProbability >= 0 && set.MinProbability <= 1), // NaN is neither.
		"minProbability is %v, must be from 0 to 1", set.MinProbability)
	problems.add(set.TopK < 0 || set.TopK > contract.MaxTopK, "topK is %d, must be from 1 to %d", set.TopK, contract.MaxTopK)
	return problems
}

func newChoosing(set contract.ExpertSet, fatal func(error) bool) choosing {
	c := choosing{least: set.MinProbability, mixed: cmp.Or(set.TopK, 1), fallback: set.Fallback, fatal: fatal}
	for _, e := range set.Experts {
		c.names, c.texts = append(c.names, e.Name), append(c.texts, oneLine(e.Skill))
	}
	c.names, c.texts = append(c.names, contract.OthersLabel), append(c.texts, contract.OthersLabel)
	return c
}

// needs are those of a strategy that may choose each expert, and runs pass 1 with others
// (nil for the base).
func (c *choosing) needs(with map[string]float64) Needs {
	n := Needs{Passes: 2, Blends: c.mixed > 1}
	if len(with) > 0 { // Of every request.
		n.Mixtures = append(n.Mixtures, maps.Clone(with))
	}
	for _, name := range c.names[:len(c.names)-1] {
		n.Mixtures = append(n.Mixtures, single(name).Weights)
	}
	return n
}

// failed is the decision where pass 1 failed, or the error that ends the request.
func (c *choosing) failed(ctx context.Context, err error) (Decision, error) {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) || c.fatal != nil && c.fatal(err) {
		return Decision{}, fmt.Errorf("pass 1: %w", err)
	}
	d := c.fallBack(contract.FallbackFailed)
	d.Cause = err
	return d, nil
}

// decide is the decision by log-likelihoods of the names, and what led to it.
func (c *choosing) decide(scores []float64) Decision {
	probabilities := Softmax(scores)
	d := c.choose(scores, probabilities)
	d.Reading = &Reading{Threshold: c.least}
	d.Probabilities = make(map[string]float64, len(scores))
	for i, q := range probabilities {
		d.Probabilities[c.names[i]] = q
		d.Reading.Labels = append(d.Reading.Labels, Label{
			Name: c.names[i], Text: c.texts[i], LogLikelihood: scores[i], Probability: q,
		})
	}
	return d
}

// fallBack is the decision where pass 1 chose nothing.
func (c *choosing) fallBack(why string) Decision {
	d := single(c.fallback)
	d.Fallback = why
	return d
}

// choose makes the decision of the labels' log-likelihoods and probabilities. Where
// the most likely label, be it "others", is too unlikely, or cannot be told
// from the next one, the fallback answers. Of several labels that are
// mixed, "others" has a share as any: the base weights'.
func (c *choosing) choose(scores, probabilities []float64) Decision {
	best := leading(scores, c.mixed)
	switch {
	case len(best) == 0:
		return c.fallBack(contract.FallbackTie)
	case probabilities[best[0]] < c.least:
		return c.fallBack(contract.FallbackUnlikely)
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
		name := c.names[best[i]]
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

// logSum is log Σ exp of values, of which there is one at least.
func logSum(values []float64) float64 {
	most, sum := slices.Max(values), 0.0
	for _, v := range values {
		sum += math.Exp(v - most)
	}
	return most + math.Log(sum)
}

// logOdds is log(p/(1−p)) of log p, neither below nor above what any choice depends on.
func logOdds(logP float64) float64 {
	const bound = 40
	return math.Max(-bound, math.Min(bound, logP-math.Log(-math.Expm1(math.Min(logP, 0)))))
}
