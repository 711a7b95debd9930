package engine_test

import (
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
)

func TestMixturesByLayerAreNamedByAllTheirWeights(t *testing.T) {
	of := func(digest string) expert.Adapter {
		return expert.Adapter{Manifest: contract.ExpertManifest{Digest: digest}}
	}
	key := func(parts ...expert.Weighted) string {
		t.Helper()
		m, err := engine.NewMixture(parts...)
		if err != nil {
			t.Fatal(err)
		}
		return m.Key()
	}
	layered := key(expert.Weighted{Adapter: of("x"), Layers: []float64{0.25, 0.75}})
	for what, other := range map[string]string{
		"the layers the other way round": key(expert.Weighted{Adapter: of("x"), Layers: []float64{0.75, 0.25}}),
		"their mean":                     key(expert.Weighted{Adapter: of("x"), Alpha: 0.5}),
		"nothing":                        key(),
	} {
		if other == layered {
			t.Errorf("%s has the same name: %s", what, layered)
		}
	}
	if one, even := key(expert.Weighted{Adapter: of("x"), Alpha: 0.5}), key(expert.Weighted{Adapter: of("x"), Layers: []float64{0.5, 0.5}}); one != even {
		t.Errorf("the same mixture is %s and %s", one, even)
	}
	if empty := key(expert.Weighted{Adapter: of("x"), Layers: []float64{0, 0}}); empty != "" {
		t.Errorf("weights of nothing are %s, want the base", empty)
	}
}
