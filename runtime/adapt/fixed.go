package adapt

import (
	"context"
	"maps"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// fixed answers every request with the same mixture: no pass 1.
type fixed struct {
	decision Decision
}

// newFixed makes the weights of the set relative: they are divided by their
// sum, because a mixture whose weights do not sum to 1 would scale the whole
// matrix and not only turn it. All zero means uniform.
func newFixed(set contract.ExpertSet, _ reader) (Strategy, error) {
	total := 0.0
	for _, e := range set.Experts {
		total += e.Weight
	}
	d := Decision{Expert: contract.BaseName, Weights: map[string]float64{}}
	var names []string
	for _, e := range set.Experts {
		weight := e.Weight / total
		if total == 0 {
			weight = 1 / float64(len(set.Experts))
		}
		if weight > 0 {
			d.Weights[e.Name] = weight
			names = append(names, e.Name)
		}
	}
	if len(names) > 0 {
		d.Expert = strings.Join(names, "+")
	}
	return &fixed{decision: d}, nil
}

// Name implements Strategy.
func (*fixed) Name() string { return contract.StrategyFixed }

// Needs implements Strategy.
func (f *fixed) Needs() Needs {
	return Needs{Passes: 1, Mixtures: []map[string]float64{maps.Clone(f.decision.Weights)}, Layers: f.decision.Layers}
}

// Decide implements Strategy.
func (f *fixed) Decide(context.Context, Request) (Decision, error) {
	d := f.decision
	d.Weights = maps.Clone(d.Weights)
	return d, nil
}
