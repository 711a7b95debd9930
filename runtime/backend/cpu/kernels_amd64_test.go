package cpu

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestVNNIChangesNoBit is what allows it not to have a path of its own.
func TestVNNIChangesNoBit(t *testing.T) {
	f := detect()
	if !f.vnni {
		t.Skip("this processor has no AVX-512 VNNI")
	}
	f.bf16 = false
	with := newWithKernels(1, pathsWith(f)[0])
	f.vnni = false
	without := newWithKernels(1, pathsWith(f)[0])
	if with.kernels.products[backend.Int8].rowWords == without.kernels.products[backend.Int8].rowWords {
		t.Fatal("both use the same kernels")
	}
	for _, s := range []struct{ n, out, in int }{{1, 300, 1100}, {1, 31, 7}, {5, 33, 64}, {6, 64, 2100}, {41, 100, 95}} {
		x, w, y0 := random(s.n*s.in, 1), random(s.out*s.in, 2), random(s.n*s.out, 3)
		for _, add := range []bool{false, true} {
			var results [2][]float32
			for i, b := range []*Backend{with, without} {
				results[i] = slices.Clone(y0)
				multiply(t, b, backend.Int8, results[i], x, w, s.n, s.out, s.in, add)
			}
			if !slices.Equal(results[0], results[1]) {
				t.Errorf("%v, add %v: the results differ", s, add)
			}
		}
	}
	for _, b := range []*Backend{with, without} {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
