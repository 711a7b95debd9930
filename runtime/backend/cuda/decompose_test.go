//go:build cuda

package cuda

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/svd"
	"github.com/transformersquared/operator/runtime/tensor"
)

// TestDecomposesTheDemoModel interrupts a decomposition of some of the demo model's
// matrices, goes on, and compares with what the processor makes of them.
func TestDecomposesTheDemoModel(t *testing.T) {
	const dir = "../../../config/samples/demo/model"
	model, err := checkpoint.BuildManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	be, root := newTest(t), t.TempDir()
	spec := contract.DecomposeSpec{BaseDigest: model.Digest, Modules: []string{"v_proj"}, DType: contract.DTypeF32}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = expert.Decompose(ctx, ck, root, spec, be, func(done, _ int) {
		if done == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted after two matrices: error %v", err)
	}
	calls := 0
	m, err := expert.Decompose(t.Context(), ck, root, spec, be, func(_, _ int) { calls++ })
	if err != nil {
		t.Fatal(err)
	}
	if want := ck.Config().Layers; m.Matrices != want || calls != want || !(m.MaxRelativeError <= 1e-6) || m.MaxRelativeError == 0 {
		t.Errorf("%d matrices of %d, in %d calls, with an error of %v", m.Matrices, want, calls, m.MaxRelativeError)
	}
	folder, err := contract.ArtifactDir(root, contract.DirDecompositions, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	d, err := expert.OpenDecomposition(filepath.Clean(folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range d.Matrices() {
		w, err := ck.Tensor(name + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		want, err := svd.Factor(t.Context(), w.Data, w.Rows(), w.Cols(), 1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Factors(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		compareFactors(t, name, got.U, got.Vt, got.S, want)
	}
}

// compareFactors wants the values of the processor, and its vectors up to their sign
// where values are far enough apart to have vectors of their own.
func compareFactors(t *testing.T, name string, u, vt *tensor.Tensor, s []float32, want *svd.Factors) {
	t.Helper()
	out, r, in := u.Rows(), len(s), vt.Cols()
	if r != len(want.S) {
		t.Fatalf("%s has %d values, want %d", name, r, len(want.S))
	}
	alone := 0
	for i := range s {
		if math.Abs(float64(s[i]-want.S[i])) > 1e-6*float64(want.S[i]) {
			t.Errorf("%s: value %d is %v, want %v", name, i, s[i], want.S[i])
		}
		const gap = 1e-2
		if i > 0 && s[i-1]-s[i] < gap*s[0] || i+1 < r && s[i]-s[i+1] < gap*s[0] {
			continue
		}
		alone++
		var left, right float64
		for j := range out {
			left += float64(u.Data[j*r+i]) * float64(want.U[j*r+i])
		}
		for j := range in {
			right += float64(vt.Data[i*in+j]) * float64(want.Vt[i*in+j])
		}
		if math.Abs(math.Abs(left)-1) > 1e-6 || math.Abs(left-right) > 1e-6 {
			t.Errorf("%s: the vectors of value %d have cosines of %v and %v with those of the processor", name, i, left, right)
		}
	}
	if alone == 0 {
		t.Errorf("%s: no value is apart from its neighbours: %v", name, slices.Clone(s[:min(r, 8)]))
	}
}
