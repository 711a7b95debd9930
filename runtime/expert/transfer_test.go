package expert_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// sibling is a model of the usual shape with other weights.
func sibling(t *testing.T) *enginetest.Volume {
	t.Helper()
	kind := enginetest.Usual
	kind.Seed = 2
	return enginetest.NewOf(t, kind)
}

// TestTransferredZScalesTheOtherBase wants of an expert that was transferred what one with
// the same z does that was made for the base.
func TestTransferredZScalesTheOtherBase(t *testing.T) {
	home, other := enginetest.New(t), sibling(t)
	path := home.ExpertDir(t, home.Expert(t, "math", 1).Digest)
	v, err := expert.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	base, d, _ := other.Load(t)
	if err := v.Fits(d); err == nil || !strings.Contains(err.Error(), "spec.transfer") || !strings.Contains(err.Error(), "--allow-transfer") {
		t.Errorf("unasked: %v, want a refusal that names the way", err)
	}
	moved, err := v.Transfer(t.Context(), d, other.ModelDir, path)
	if err != nil {
		t.Fatal(err)
	}
	if moved.Manifest.Digest != v.Manifest.Digest || v.Manifest.BaseDigest != home.ModelDigest {
		t.Errorf("manifest %+v, was %+v", moved.Manifest, v.Manifest)
	}
	if err := moved.Fits(d); err != nil {
		t.Error(err)
	}
	native, err := expert.Read(other.ExpertDir(t, other.Expert(t, "math", 1).Digest))
	if err != nil {
		t.Fatal(err)
	}
	// A mixture with one of this base is one, too.
	half := []expert.Weighted{{Adapter: moved, Alpha: 0.5}, {Adapter: native, Alpha: 0.5}}
	for name, mix := range map[string][]expert.Weighted{"alone": {{Adapter: moved, Alpha: 1}}, "mixed": half} {
		got, err := expert.Mix(mix)
		if err != nil {
			t.Fatal(err)
		}
		want, err := expert.Mix([]expert.Weighted{{Adapter: native, Alpha: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if _, err := expert.Compose(t.Context(), base, d, got); err != nil {
			t.Error(err)
		}
	}
}

func TestTransferRefusesOtherShapes(t *testing.T) {
	home := enginetest.New(t)
	path := home.ExpertDir(t, home.Expert(t, "math", 1).Digest)
	bare := filepath.Join(t.TempDir(), expert.File)
	if err := os.CopyFS(filepath.Dir(bare), os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	wider, deeper, flatter := enginetest.Usual, enginetest.Usual, enginetest.Usual
	wider.Inner, deeper.Layers, flatter.Layers = 96, 3, 1
	narrow := enginetest.Usual
	narrow.Inner = 24
	for name, tc := range map[string]struct {
		kind enginetest.Kind
		path string
		want []string
	}{
		// Both have 32 singular values: only the decomposition at home tells them apart.
		"a wider MLP":                 {wider, path, []string{"model.layers.0.mlp.up_proj is [64 32] there and [96 32] here"}},
		"more layers":                 {deeper, path, []string{"model.layers.2.self_attn.o_proj is [32 32] here", "fewer layers"}},
		"fewer layers":                {flatter, path, []string{"model.layers.1.self_attn.o_proj is [32 32] there", "fewer layers"}},
		"more layers, far from home":  {deeper, bare, []string{"model.layers.2.self_attn.o_proj is [32 32] here", "fewer layers"}},
		"fewer layers, far from home": {flatter, bare, []string{"scales model.layers.1.self_attn.o_proj by 32 numbers", "no such matrix"}},
		"another rank, far from home": {narrow, bare, []string{"scales model.layers.0.mlp.up_proj by 32 numbers", "[24 32] of rank 24"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := enginetest.NewOf(t, tc.kind)
			d, err := expert.OpenDecomposition(other.DecompositionDir)
			if err != nil {
				t.Fatal(err)
			}
			v, err := expert.Read(tc.path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.Transfer(t.Context(), d, other.ModelDir, tc.path)
			for _, want := range append(tc.want, home.ModelDigest, other.ModelDigest) {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if reason, permanent := failure.Of(err); reason != contract.ReasonDecompositionMismatch || !permanent {
				t.Errorf("classified as %s, %v", reason, permanent)
			}
		})
	}
}

// TestTransferOfDoRAKeepsItsMagnitudes: what DoRA learns of a row is its norm, whatever the
// base's is.
func TestTransferOfDoRAKeepsItsMagnitudes(t *testing.T) {
	home, other := enginetest.New(t), sibling(t)
	const name = "model.layers.0.mlp.up_proj"
	a, b := tensor.New(2, 32), tensor.New(64, 2)
	for i := range a.Data {
		a.Data[i] = float32(i%5) / 10
	}
	for i := range b.Data {
		b.Data[i] = float32(i%7) / 10
	}
	magnitude := make([]float32, 64)
	for i := range magnitude {
		magnitude[i] = 1 + float32(i)/64
	}
	v := expert.Adapter{
		Method: expert.DoRA, Manifest: contract.ExpertManifest{BaseDigest: home.ModelDigest, DecompositionDigest: home.DecompositionDigest},
		Low: map[string]expert.LowRank{name: {LowRank: model.LowRank{A: a, B: b, Scale: 2}, Magnitude: magnitude}},
		Out: map[string][]float32{name: slices.Repeat([]float32{3}, 64)}, // Of the base at home.
	}
	base, d, _ := other.Load(t)
	moved, err := v.Transfer(t.Context(), d, other.ModelDir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if v.Out[name][0] != 3 {
		t.Error("the expert at home was changed")
	}
	other.Mount(t)
	again, err := v.Transfer(t.Context(), d, other.ModelDir, t.TempDir())
	if err != nil || !slices.Equal(again.Out[name], moved.Out[name]) {
		t.Errorf("onto a model that is mounted: %v, %v", again.Out[name], err)
	}
	mixed, err := expert.Mix([]expert.Weighted{{Adapter: moved, Alpha: 1}})
	if err != nil {
		t.Fatal(err)
	}
	composed, err := expert.Compose(t.Context(), base, d, mixed)
	if err != nil {
		t.Fatal(err)
	}
	w, err := composed.Weight(name)
	if err != nil {
		t.Fatal(err)
	}
	for o, want := range magnitude {
		norm := 0.0
		for _, x := range w.Row(o) {
			norm += float64(x) * float64(x)
		}
		if got := math.Sqrt(norm); math.Abs(got-float64(want)) > 1e-4 {
			t.Fatalf("row %d has norm %v, its magnitude is %v", o, got, want)
		}
	}
}

func TestADecompositionOfAnotherModelIsRefused(t *testing.T) {
	home, other := enginetest.New(t), sibling(t)
	if _, err := expert.OpenDecompositionOf(home.DecompositionDir, home.ModelDir); err != nil {
		t.Error(err)
	}
	_, err := expert.OpenDecompositionOf(home.DecompositionDir, other.ModelDir)
	if reason, _ := failure.Of(err); err == nil || reason != contract.ReasonDecompositionMismatch || !strings.Contains(err.Error(), other.ModelDigest) {
		t.Errorf("got %v", err)
	}
}
