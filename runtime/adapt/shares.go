package adapt

import (
	"cmp"
	"math"
	"slices"
)

// shareParts is what one share in a mixture is a whole multiple of. Probabilities
// differ from request to request; what is kept for a mixture (its scales, in the
// unmerged form) is found again, and its requests share what their prompts have in
// common, only if requests that are judged nearly alike get the same mixture. No
// share changes by as much as a part, and multiples of 1/16 are exact in floating
// point, so that shares sum to exactly 1.
const shareParts = 16

// leading returns the indices of the k largest scores, the largest first, as far as
// they are larger than the next one: what cannot be told from a label that is left
// out is left out, too.
func leading(scores []float64, k int) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	n := min(k, len(order))
	for n > 0 && n < len(order) && scores[order[n-1]] == scores[order[n]] {
		n--
	}
	return order[:n]
}

// shares divides 1 in proportion to weights, in multiples of 1/shareParts, by the
// method of largest remainders: what is left after rounding down goes to those that
// lost most by it, of equal ones to the first. The sum of the weights must be positive.
func shares(weights []float64) []float64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	parts, lost := make([]float64, len(weights)), make([]float64, len(weights))
	order, left := make([]int, len(weights)), shareParts
	for i, w := range weights {
		exact := shareParts * w / sum
		parts[i] = math.Floor(exact)
		lost[i], order[i] = exact-parts[i], i
		left -= int(parts[i])
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lost[b], lost[a]) })
	for i := range left {
		parts[order[i]]++
	}
	for i := range parts {
		parts[i] /= shareParts
	}
	return parts
}

// Softmax turns log-likelihoods into probabilities among the labels. At least
// one must be finite.
func Softmax(scores []float64) []float64 {
	peak := slices.Max(scores)
	out, sum := make([]float64, len(scores)), 0.0
	for i, s := range scores {
		out[i] = math.Exp(s - peak)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}
