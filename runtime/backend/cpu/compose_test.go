package cpu

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestAMatrixIsTheSameInPieces composes a matrix at once and so many rows at a
// time, bit for bit.
func TestAMatrixIsTheSameInPieces(t *testing.T) {
	const out, in, rank = 150, 70, 70
	be := newTest(t, 2, "")
	newWeight := func(t *testing.T, kind backend.DType, rows, cols int, data []float32) *weight {
		t.Helper()
		w, err := be.NewWeight(kind, rows, cols, data)
		if err != nil {
			t.Fatal(err)
		}
		return w.(*weight)
	}
	s := bufferOf(random(rank, 3))
	for _, kind := range backend.DTypes() {
		u, vt := newWeight(t, backend.F32, out, rank, random(out*rank, 1)), newWeight(t, backend.F32, rank, in, random(rank*in, 2))
		var want []float32
		for _, panels := range []int{100, 1, 2, 3} {
			dst := newWeight(t, kind, out, in, nil)
			if err := be.composeRows(t.Context(), dst, u, vt, s, panels*be.kernels.nr); err != nil {
				t.Fatal(err)
			}
			got, err := be.WeightData(dst)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			} else if !slices.Equal(got, want) {
				t.Errorf("%s: %d panels at a time make another matrix", kind, panels)
			}
		}
	}
}
