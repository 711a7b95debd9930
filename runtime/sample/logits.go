package sample

import (
	"fmt"
	"math"
	"slices"
)

// Argmax returns the token with the largest logit, the lowest id among equals.
// It returns ErrNotFinite if a logit is NaN or +Inf, or if none is above −Inf.
func Argmax(logits []float32) (int32, error) {
	best, at := float32(math.Inf(-1)), -1
	for i, l := range logits {
		if l <= best {
			continue // Nearly always, and NaN never: one branch a token.
		}
		if best, at = l, i; l != l {
			break
		}
	}
	switch {
	case best != best:
		return 0, fmt.Errorf("%w: token %d has NaN", ErrNotFinite, at)
	case at < 0 || math.IsInf(float64(best), 1):
		return 0, fmt.Errorf("%w: the largest is %v", ErrNotFinite, best)
	}
	return int32(at), nil
}

// LogSum returns log Σ exp(logits), or an error as Argmax does.
func LogSum(logits []float32) (float64, error) {
	best, err := Argmax(logits)
	if err != nil {
		return 0, err
	}
	peak := float64(logits[best])
	return peak + math.Log(sumExp(logits, peak, 1)), nil
}

// sumExp returns the sum of what Exp computes, and keeps nothing else.
func sumExp(logits []float32, peak, scale float64) (sum float64) {
	var exps [block]float64
	for part := range slices.Chunk(logits, block) {
		sum += Exp(exps[:len(part)], part, peak, scale)
	}
	return sum
}

// block is the number of tokens whose exponentials are added up apart.
const block = 512

// The exponential: e^x = 2^(n/steps)·e^r with |r| ≤ ln 2/(2·steps), the power
// from a table and e^r by Taylor's polynomial, whose remainder is below 2·10⁻¹³.
const (
	steps    = 256
	rounding = 3 << 51 // Added to a float64, leaves its nearest integer in the low bits.
)

var powers = func() (bits [steps]uint64) {
	for i := range bits {
		bits[i] = math.Float64bits(math.Exp2(float64(i) / steps))
	}
	return bits
}()

// Exp sets y to e^((x−peak)·scale) and returns the sum, in an order that depends
// on the length only. No x may be above the peak; of NaN comes NaN. Results are
// exact to 4·10⁻¹³ of their own size, and zero below e⁻⁷⁰⁰. It takes a third of
// math.Exp's time, which counts where a vocabulary has 10⁵ tokens.
func Exp(y []float64, x []float32, peak, scale float64) float64 {
	x = x[:len(y)]
	var even, odd float64
	for len(y) >= 2 {
		y[0], y[1] = exp((float64(x[0])-peak)*scale), exp((float64(x[1])-peak)*scale)
		even, odd = even+y[0], odd+y[1] // Two chains: an addition waits for the one before.
		y, x = y[2:], x[2:]
	}
	if len(y) > 0 {
		y[0] = exp((float64(x[0]) - peak) * scale)
		even += y[0]
	}
	return even + odd
}

func exp(x float64) float64 {
	switch {
	case x < -700:
		return 0
	case x != x:
		return x
	}
	shifted := x*(steps/math.Ln2) + rounding
	r := x - (shifted-rounding)*(math.Ln2/steps)
	n := math.Float64bits(shifted)
	return math.Float64frombits(powers[n%steps]+n/steps<<52) * ((1 + r) + r*r*(1./2+r*(1./6)))
}
