package scoring

import "math"

// z is the normal quantile of two-sided 95 %.
const z = 1.959964

// Interval is a range in which a share, or a difference of two, lies with 95 % confidence.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Wilson is the score interval of a share of right answers (Wilson 1927), which is never
// outside 0 to 1 and not empty where all or none are right.
func Wilson(right, of int) Interval {
	if of <= 0 {
		return Interval{0, 1}
	}
	n, p := float64(of), float64(right)/float64(of)
	middle := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return Interval{max(0, middle-half), min(1, middle+half)}
}

// Pairs counts the same questions asked of two.
type Pairs struct {
	// Both and Neither were right; Better only the second, Worse only the first.
	Both    int `json:"both"`
	Better  int `json:"better"`
	Worse   int `json:"worse"`
	Neither int `json:"neither"`
}

// N is the number of questions.
func (p Pairs) N() int { return p.Both + p.Better + p.Worse + p.Neither }

// Gain is how much larger the second's share is, and the interval of that: method 10 of
// Newcombe (1998, Statistics in Medicine 17, 2635-2650) for paired shares, which combines
// the two score intervals by their correlation.
func (p Pairs) Gain() (gain float64, in Interval) {
	n := p.N()
	if n == 0 {
		return 0, Interval{-1, 1}
	}
	second, first := p.Both+p.Better, p.Both+p.Worse
	p2, p1 := float64(second)/float64(n), float64(first)/float64(n)
	w2, w1 := Wilson(second, n), Wilson(first, n)
	phi := p.correlation(first, second, n)
	side := func(a, b float64) float64 { return math.Sqrt(max(0, a*a-2*phi*a*b+b*b)) }
	gain = p2 - p1
	return gain, Interval{
		max(-1, gain-side(p2-w2.Low, w1.High-p1)),
		min(1, gain+side(w2.High-p2, p1-w1.Low)),
	}
}

// correlation is φ with Newcombe's correction for continuity; 0 where one of the two is
// always right or always wrong.
func (p Pairs) correlation(first, second, n int) float64 {
	product := float64(first) * float64(n-first) * float64(second) * float64(n-second)
	if product == 0 {
		return 0
	}
	d := float64(p.Both)*float64(p.Neither) - float64(p.Better)*float64(p.Worse)
	if d > 0 {
		d = max(d-float64(n)/2, 0)
	}
	return d / math.Sqrt(product)
}
