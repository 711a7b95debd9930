package expert

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/contract"
)

// Identity returns the vector that leaves every matrix of a decomposition as it is:
// in a mixture, its weight is the share of the base weights. Its digest is
// contract.BaseName; it is in no file.
func Identity(decompositionDigest string) Vector {
	return Vector{Manifest: contract.ExpertManifest{Digest: contract.BaseName, DecompositionDigest: decompositionDigest}}
}

// Weighted is a vector and its share α in a mixture.
type Weighted struct {
	Vector Vector
	Alpha  float64
}

// Mix returns z' = Σₖ αₖ·zₖ (section 3.2 of the paper), matrix by matrix. A
// vector that does not scale a matrix counts there as ones: it leaves the
// matrix as it is. The vectors must be of one decomposition.
func Mix(mixture []Weighted) (map[string][]float32, error) {
	ranks := map[string]int{}
	total := 0.0
	for i, w := range mixture {
		if math.IsNaN(w.Alpha) || math.IsInf(w.Alpha, 0) {
			return nil, fmt.Errorf("mixing experts: weight %d is %v", i, w.Alpha)
		}
		if first := mixture[0].Vector.Manifest; w.Vector.Manifest.DecompositionDigest != first.DecompositionDigest {
			return nil, fmt.Errorf("mixing experts: one is of decomposition %s, another of %s", first.DecompositionDigest, w.Vector.Manifest.DecompositionDigest)
		}
		total += w.Alpha
		for name, z := range w.Vector.Z {
			if r, ok := ranks[name]; ok && r != len(z) {
				return nil, fmt.Errorf("mixing experts: %s is scaled by %d and by %d numbers", name, r, len(z))
			}
			ranks[name] = len(z)
		}
	}
	mixed := make(map[string][]float32, len(ranks))
	for name, r := range ranks {
		// Sum deviations from 1, so that a mixture of ones is exactly ones.
		sum := make([]float64, r)
		for _, w := range mixture {
			for i, z := range w.Vector.Z[name] {
				sum[i] += w.Alpha * (float64(z) - 1)
			}
		}
		z := make([]float32, r)
		for i := range z {
			z[i] = float32(total + sum[i])
		}
		mixed[name] = z
	}
	return mixed, nil
}
