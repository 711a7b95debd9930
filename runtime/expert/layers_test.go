package expert_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
)

// Two layers with one matrix each.
const (
	first  = "model.layers.0.mlp.up_proj"
	second = "model.layers.1.mlp.up_proj"
)

func scaling(digest string, z0, z1 []float32) expert.Adapter {
	return expert.Adapter{
		Manifest: contract.ExpertManifest{Digest: digest, BaseDigest: "b", DecompositionDigest: "d"},
		Z:        map[string][]float32{first: z0, second: z1},
	}
}

func TestWeightsByLayerMixEachLayerByItsOwn(t *testing.T) {
	a := scaling("a", []float32{2, 1}, []float32{3, 1})
	b := scaling("b", []float32{1, 5}, []float32{1, 9})
	mixed, err := expert.Mix([]expert.Weighted{
		{Adapter: a, Layers: []float64{1, 0.25}}, {Adapter: b, Layers: []float64{0, 0.5}}, {Adapter: expert.Identity(), Layers: []float64{0, 0.25}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]float32{first: mixed[first].Z, second: mixed[second].Z}
	want := map[string][]float32{first: {2, 1}, second: {1.5, 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWeightsByLayerMustBeOfEveryLayer(t *testing.T) {
	a := scaling("sha256:aa", []float32{2}, []float32{3})
	_, err := expert.Mix([]expert.Weighted{{Adapter: a, Layers: []float64{1}}})
	if err == nil || !strings.Contains(err.Error(), second) || !strings.Contains(err.Error(), "sha256:aa") {
		t.Errorf("got %v, want the matrix and the expert", err)
	}
}
