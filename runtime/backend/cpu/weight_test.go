package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// TestTransposesHoldTheTurnedMatrix packs what a packed matrix is when it is turned by hand,
// of shapes around those of panels, steps and the rows that are turned at a time.
func TestTransposesHoldTheTurnedMatrix(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 12))
	for kind, turnedKind := range map[backend.DType]backend.DType{backend.F32: backend.F32, backend.BF16: backend.BF16, backend.Int8: backend.F32} {
		for _, shape := range [][2]int{{1, 1}, {3, 70}, {63, 33}, {64, 32}, {65, 31}, {200, 130}} {
			t.Run(fmt.Sprintf("%s %v", kind, shape), func(t *testing.T) {
				for _, nr := range []int{8, 16, 32} {
					workers := newPool(2)
					defer workers.close()
					out, in := shape[0], shape[1]
					data := make([]float32, out*in)
					for i := range data {
						data[i] = float32(random.NormFloat64())
					}
					f := pack(workers, nil, kind, data, out, in, nr)
					rows, turned := f.unpack(workers), make([]float32, out*in)
					for o := range out {
						for i := range in {
							turned[i*out+o] = rows[o*in+i]
						}
					}
					want := pack(workers, nil, turnedKind, turned, in, out, nr)
					if got := packTransposed(workers, nil, turnedKind, f, nr); !slices.Equal(got.panels, want.panels) {
						t.Errorf("panels of %d rows hold another matrix", nr)
					}
				}
			})
		}
	}
}
