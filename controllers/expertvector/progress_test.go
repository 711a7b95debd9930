package expertvector

import (
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

func TestADivergenceIsShownOnceItIsKnown(t *testing.T) {
	for _, test := range []struct {
		iteration int
		kl        float64
		want      string
	}{{0, 0, ""}, {3, -1, ""}, {3, 0, "0.000000"}, {3, 0.25, "0.250000"}} {
		p := progressOf(contract.Progress{Training: &contract.TrainProgress{Iteration: test.iteration, Iterations: 10, KL: test.kl}})
		if p.KL != test.want {
			t.Errorf("iteration %d with KL %v shows %q, want %q", test.iteration, test.kl, p.KL, test.want)
		}
	}
}
