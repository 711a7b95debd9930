package search

import "math"

// rates are the constants of a CMA: Hansen's tutorial, table 1, in its letters.
type rates struct {
	mu             int       // vectors with positive weights
	weights        []float64 // [λ], best first; the positive ones sum to 1
	muEff          float64
	cSigma, dSigma float64
	cC, c1, cMu    float64
	chi            float64 // the expected length of a standard normal vector
}

// newRates returns the constants for n numbers and λ vectors in a generation.
func newRates(n, lambda int, shape Covariance) rates {
	d := float64(n)
	raw := make([]float64, lambda)
	r := rates{mu: lambda / 2}
	var positive, negative, positives2, negatives2 float64
	for i := range raw {
		raw[i] = math.Log((float64(lambda)+1)/2) - math.Log(float64(i)+1)
		if i < r.mu {
			positive += raw[i]
			positives2 += raw[i] * raw[i]
		} else {
			negative += raw[i]
			negatives2 += raw[i] * raw[i]
		}
	}
	r.muEff = positive * positive / positives2
	muEffNegative := negative * negative / negatives2

	r.cSigma = (r.muEff + 2) / (d + r.muEff + 5)
	r.dSigma = 1 + 2*max(0, math.Sqrt((r.muEff-1)/(d+1))-1) + r.cSigma
	r.cC = (4 + r.muEff/d) / (d + 4 + 2*r.muEff/d)
	r.c1 = 2 / ((d+1.3)*(d+1.3) + r.muEff)
	cMu := 2 * (0.25 + r.muEff + 1/r.muEff - 2) / ((d+2)*(d+2) + r.muEff)
	if shape == Diagonal {
		// N numbers are learnt from the same vectors, not N(N+1)/2: Ros and Hansen learn
		// them (N+2)/3 times as fast.
		r.c1 = min(1, r.c1*(d+2)/3)
		cMu *= (d + 2) / 3
	}
	r.cMu = min(1-r.c1, cMu)
	r.chi = math.Sqrt(d) * (1 - 1/(4*d) + 1/(21*d*d))

	// The negative weights sum to the least of: what makes C neither shrink nor grow
	// where vectors are as expected; what fits how many they are; and what keeps C
	// positive definite.
	total := min(1+r.c1/r.cMu, 1+2*muEffNegative/(r.muEff+2), (1-r.c1-r.cMu)/(d*r.cMu))
	r.weights = raw
	for i := range raw {
		if i < r.mu {
			r.weights[i] /= positive
		} else {
			r.weights[i] *= total / -negative
		}
	}
	return r
}
