package adapt

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLeading(t *testing.T) {
	inf := math.Inf(-1)
	for name, c := range map[string]struct {
		scores []float64
		k      int
		want   []int
	}{
		"the largest":                          {[]float64{-2, -1, -3}, 1, []int{1}},
		"in their order":                       {[]float64{-2, -1, -3}, 2, []int{1, 0}},
		"all":                                  {[]float64{-2, -1, -3}, 5, []int{1, 0, 2}},
		"a tie for the only place":             {[]float64{-1, -1, -3}, 1, []int{}},
		"a tie within":                         {[]float64{-1, -1, -3}, 2, []int{0, 1}},
		"a tie at the end takes both out":      {[]float64{-3, -1, -3}, 2, []int{1}},
		"a long tie takes all out":             {[]float64{-3, -1, -3, -3, -3}, 4, []int{1}},
		"what is impossible is tied with such": {[]float64{inf, -1, inf}, 2, []int{1}},
	} {
		if diff := cmp.Diff(c.want, leading(c.scores, c.k)); diff != "" {
			t.Errorf("%s: %v, k=%d (-want +got):\n%s", name, c.scores, c.k, diff)
		}
	}
}

func TestShares(t *testing.T) {
	for name, c := range map[string]struct{ weights, want []float64 }{
		"one":                        {[]float64{0.2}, []float64{1}},
		"in proportion":              {[]float64{3, 1}, []float64{0.75, 0.25}},
		"what is left, to the first": {[]float64{1, 1, 1}, []float64{6. / 16, 5. / 16, 5. / 16}},
		"to what lost most":          {[]float64{0.9, 0.1}, []float64{14. / 16, 2. / 16}},
		"to none what is too small":  {[]float64{0.98, 0.02}, []float64{1, 0}},
		"of nothing":                 {[]float64{1, 0}, []float64{1, 0}},
	} {
		if diff := cmp.Diff(c.want, shares(c.weights)); diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, c.weights, diff)
		}
	}
}

// TestSharesSumToOne for whatever weights, each within a part of its own.
func TestSharesSumToOne(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		weights, sum := make([]float64, 1+r.IntN(8)), 0.0
		for i := range weights {
			weights[i] = math.Exp(r.NormFloat64() * 4)
			sum += weights[i]
		}
		total := 0.0
		for i, s := range shares(weights) {
			if total += s; s < 0 || math.Abs(s-weights[i]/sum) >= 1./shareParts {
				t.Fatalf("the share of %v in %v is %v", weights[i], weights, s)
			}
		}
		if total != 1 {
			t.Fatalf("the shares of %v sum to %v", weights, total)
		}
	}
}
