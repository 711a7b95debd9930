package contract_test

import (
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// The bounds of 36, 12, 2 and 0 are those of an example of Newcombe's paper to four
// decimals; what follows is what every interval must have.
func TestAPairedDifferenceHasNewcombesBounds(t *testing.T) {
	for _, tc := range []struct {
		name                     string
		both, won, lost, neither int
		difference, low, high    float64
	}{
		{"36 12 2 0", 36, 12, 2, 0, 0.2, 0.0569, 0.3404},
		{"nothing is known", 0, 0, 0, 0, 0, -1, 1},
	} {
		d, low, high := contract.PairedDifference(tc.both, tc.won, tc.lost, tc.neither)
		if math.Abs(d-tc.difference) > 5e-5 || math.Abs(low-tc.low) > 5e-5 || math.Abs(high-tc.high) > 5e-5 {
			t.Errorf("%s: %.4f from %.4f to %.4f, want %.4f from %.4f to %.4f", tc.name, d, low, high, tc.difference, tc.low, tc.high)
		}
	}
	for both := range 6 {
		for won := range 6 {
			for lost := range 6 {
				for neither := range 6 {
					if both+won+lost+neither == 0 {
						continue
					}
					d, low, high := contract.PairedDifference(both, won, lost, neither)
					e, otherLow, otherHigh := contract.PairedDifference(both, lost, won, neither)
					if !(low <= d && d <= high && low >= -1 && high <= 1) || low == high {
						t.Errorf("%d %d %d %d: %v from %v to %v", both, won, lost, neither, d, low, high)
					}
					if math.Abs(d+e) > 1e-12 || math.Abs(low+otherHigh) > 1e-12 || math.Abs(high+otherLow) > 1e-12 {
						t.Errorf("%d %d %d %d: the other way round it is no mirror image", both, won, lost, neither)
					}
				}
			}
		}
	}
}

// E. B. Wilson's interval of 15 of 148, as Newcombe (1998, two-sided intervals) gives it.
func TestWilson(t *testing.T) {
	low, high := contract.Wilson(15, 148)
	if math.Abs(low-0.0624) > 5e-5 || math.Abs(high-0.1605) > 5e-5 {
		t.Errorf("from %.4f to %.4f", low, high)
	}
	if low, high := contract.Wilson(0, 20); low != 0 || math.Abs(high-0.1611) > 5e-5 {
		t.Errorf("of none of 20 from %.4f to %.4f", low, high)
	}
}
