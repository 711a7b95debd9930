package main

import (
	"fmt"
	"math"
)

// score is the outcome of a test set.
type score struct {
	Right int `json:"right"`
	Of    int `json:"of"`
}

// share is the share of right answers, 0 to 1.
func (s score) share() float64 { return float64(s.Right) / float64(max(s.Of, 1)) }

// estimate is a mean and its standard error, both from 0 to 1.
type estimate struct {
	mean, err float64
	known     bool
}

// estimated is the estimate of the scores of all seeds, or none if one is missing. Of one
// seed the error is the binomial one of its test set: what another set of questions would
// change. Of more it is the standard deviation of the seeds' scores by the root of their
// number: what another seed would change.
func estimated(scores []score, seeds int) estimate {
	if len(scores) < seeds || seeds == 0 {
		return estimate{}
	}
	if len(scores) == 1 {
		p := scores[0].share()
		return estimate{mean: p, err: math.Sqrt(p * (1 - p) / float64(max(scores[0].Of, 1))), known: true}
	}
	values := make([]float64, len(scores))
	for i, s := range scores {
		values[i] = s.share()
	}
	mean, err := meanAndError(values)
	return estimate{mean: mean, err: err, known: true}
}

// meanAndError are the mean of at least two values, and its standard error.
func meanAndError(values []float64) (mean, err float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(squares / (n - 1) / n)
}

// average is the mean of estimates of independent test sets; unknown if one of them is.
func average(of ...estimate) estimate {
	sum := estimate{known: len(of) > 0}
	squares := 0.0
	for _, e := range of {
		sum.known = sum.known && e.known
		sum.mean += e.mean / float64(len(of))
		squares += e.err * e.err
	}
	sum.err = math.Sqrt(squares) / float64(max(len(of), 1))
	return sum
}

// String is the estimate in percent, such as "61.3 ± 3.0".
func (e estimate) String() string {
	if !e.known {
		return "–"
	}
	const percent = 100
	return fmt.Sprintf("%.1f ± %.1f", percent*e.mean, percent*e.err)
}
