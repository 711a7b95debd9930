package adapt

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
)

func fewShotSet(experts ...contract.ExpertRef) contract.ExpertSet {
	for i := range experts {
		experts[i].Digest = contract.DigestPrefix + strings.Repeat("a", 64)
	}
	return contract.ExpertSet{Strategy: contract.StrategyFewShot, Experts: experts}
}

func TestFewShotMixesWhatASearchFound(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  contract.ExpertSet
		want Decision
	}{
		{"before a search the base answers", fewShotSet(contract.ExpertRef{Name: "math"}, contract.ExpertRef{Name: "code"}), Decision{Expert: "base"}},
		{
			"weights are relative", fewShotSet(contract.ExpertRef{Name: "math", Weight: 0.75}, contract.ExpertRef{Name: "new"}, contract.ExpertRef{Name: "code", Weight: 0.75}),
			Decision{Expert: "math+code", Weights: map[string]float64{"math": 0.5, "code": 0.5}},
		},
		{
			"weights by layer, and the base where an expert that had all is gone", fewShotSet(
				contract.ExpertRef{Name: "math", Weight: 0.5, LayerWeights: []float64{0.25, 0, 0.5, 0}},
				contract.ExpertRef{Name: "new"},
				contract.ExpertRef{Name: "code", Weight: 0.5, LayerWeights: []float64{0.75, 0, 0.5, 0.5}}),
			Decision{
				Expert:  "math+code+base",
				Weights: map[string]float64{"math": 0.1875, "code": 0.5625, "base": 0.25},
				Layers:  map[string][]float64{"math": {0.25, 0, 0.5, 0}, "code": {0.75, 0, 0.5, 1}, "base": {0, 1, 0, 0}},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := New(tc.set, Tools{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Decide(t.Context(), Request{Turns: []string{"whatever"}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			needs := Needs{Passes: 1, Mixtures: []map[string]float64{tc.want.Weights}, Layers: tc.want.Layers}
			if diff := cmp.Diff(needs, s.Needs()); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
			if s.Name() != contract.StrategyFewShot {
				t.Errorf("it is called %s", s.Name())
			}
		})
	}
}

func TestFewShotRefusesWeightsOfDifferentLayers(t *testing.T) {
	err := Validate(fewShotSet(
		contract.ExpertRef{Name: "math", LayerWeights: []float64{1, 0}}, contract.ExpertRef{Name: "code", LayerWeights: []float64{-1}}))
	for _, want := range []string{`"code" has weights of 1 layers, another of 2`, `weight -1 of layer 0`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
