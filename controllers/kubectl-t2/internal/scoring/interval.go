package scoring

import "github.com/transformersquared/operator/runtime/contract"

// Interval is a range in which a share, or a difference of two, lies with 95 % confidence.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Wilson is contract.Wilson, the interval of a share of right answers.
func Wilson(right, of int) Interval {
	low, high := contract.Wilson(right, of)
	return Interval{low, high}
}

// Pairs counts the same questions asked of two.
type Pairs struct {
	// Both and Neither were right; Better only the second, Worse only the first.
	Both    int `json:"both"`
	Better  int `json:"better"`
	Worse   int `json:"worse"`
	Neither int `json:"neither"`
}

// Gain is how much larger the second's share is, and the interval of that, as a policy's gate
// computes them (contract.PairedDifference).
func (p Pairs) Gain() (gain float64, in Interval) {
	gain, low, high := contract.PairedDifference(p.Both, p.Better, p.Worse, p.Neither)
	return gain, Interval{low, high}
}
