package adapt

import (
	"math"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// validateFewShot checks weights by layer.
func validateFewShot(set contract.ExpertSet) []error {
	var problems problems
	layers := 0
	for _, e := range set.Experts {
		n := len(e.LayerWeights)
		problems.add(n > 0 && layers > 0 && n != layers, "expert %q has weights of %d layers, another of %d", e.Name, n, layers)
		layers = max(layers, n)
		for l, w := range e.LayerWeights {
			problems.add(math.IsNaN(w) || math.IsInf(w, 0) || w < 0, "expert %q: weight %v of layer %d, must be 0 or more", e.Name, w, l)
		}
	}
	return problems
}

// newFewShot answers every request with the mixture that a search has found, or with
// the base as long as none has found any.
func newFewShot(set contract.ExpertSet, _ reader) (Strategy, error) {
	layers := 0
	for _, e := range set.Experts {
		layers = max(layers, len(e.LayerWeights))
	}
	weights := make([][]float64, len(set.Experts))
	for k, e := range set.Experts {
		switch {
		case layers == 0:
			weights[k] = []float64{e.Weight}
		case e.LayerWeights != nil:
			weights[k] = e.LayerWeights
		default: // It came after the search.
			weights[k] = make([]float64, layers)
		}
	}
	portions, base := Portions(weights)
	d := Decision{Weights: map[string]float64{}}
	var names []string
	add := func(name string, portion []float64) {
		share := mean(portion)
		if share == 0 {
			return
		}
		names = append(names, name)
		d.Weights[name] = share
		if layers > 0 {
			if d.Layers == nil {
				d.Layers = map[string][]float64{}
			}
			d.Layers[name] = portion
		}
	}
	for k, e := range set.Experts {
		add(e.Name, portions[k])
	}
	if len(names) == 0 {
		return &fewShot{fixed{decision: single(contract.BaseName)}}, nil
	}
	add(contract.BaseName, base)
	d.Expert = strings.Join(names, "+")
	return &fewShot{fixed{decision: d}}, nil
}

// fewShot is a fixed mixture by another name.
type fewShot struct{ fixed }

// Name implements Strategy.
func (*fewShot) Name() string { return contract.StrategyFewShot }

// Portions divides the weights of experts, by expert and then by layer (of which there
// may be one for all), by their sum in each layer: a mixture whose weights do not sum to 1
// would scale the whole matrix and not only turn it. Where all are 0 the base has the
// layer. There is at least one layer if there is an expert.
func Portions(weights [][]float64) (experts [][]float64, base []float64) {
	if len(weights) == 0 {
		return nil, nil
	}
	base = make([]float64, len(weights[0]))
	experts = make([][]float64, len(weights))
	for k := range weights {
		experts[k] = make([]float64, len(base))
	}
	for l := range base {
		sum := 0.0
		for k := range weights {
			sum += weights[k][l]
		}
		if sum == 0 {
			base[l] = 1
			continue
		}
		for k := range weights {
			experts[k][l] = weights[k][l] / sum
		}
	}
	return experts, base
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
