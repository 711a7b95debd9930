package search

import (
	"fmt"
	"math"
	"slices"
)

// CMAOptions say what evolution searches. Only Generations and MinStd may change
// when a search is continued.
type CMAOptions struct {
	// Start is the mean of the first distribution, [N]: the vector to improve.
	Start []float64 `json:"start"`
	// Sigma is the standard deviation of each number in the first distribution: about
	// a third of how far from Start a better vector is looked for.
	Sigma float64 `json:"sigma"`
	// Bounds fold vectors into an interval, nil leaves them unbounded.
	Bounds *Bounds `json:"bounds,omitempty"`
	// Population is the number of vectors in a generation, λ; 0 means 4 + ⌊3·ln N⌋.
	// More of them stand noise and many optima better.
	Population int `json:"population"`
	// Covariance says how the distribution may be shaped; empty means Full up to
	// FullDimensions numbers, Diagonal beyond.
	Covariance Covariance `json:"covariance"`
	// Generations is the most that the search makes.
	Generations int `json:"generations"`
	// MinStd ends the search: once no number has a larger standard deviation. 0 means
	// 1e-12 of Sigma.
	MinStd float64 `json:"minStd"`
	Seed   uint64  `json:"seed"`
}

// Bounds are an interval that vectors are folded into, as if its ends were mirrors:
// the function of the unbounded vector stays continuous, and no end attracts.
type Bounds struct {
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// fold returns the number in the interval that x is reflected to.
func (b *Bounds) fold(x float64) float64 {
	if b == nil {
		return x
	}
	width := b.Max - b.Min
	t := math.Mod(x-b.Min, 2*width)
	if t < 0 {
		t += 2 * width
	}
	if t > width {
		t = 2*width - t
	}
	// Rounding must not lead past an end.
	return min(max(b.Min+t, b.Min), b.Max)
}

// Validate names the option that is out of range.
func (o CMAOptions) Validate() error {
	n := len(o.Start)
	if n < 1 || n > maxDimension {
		return fmt.Errorf("the start of an evolution has %d numbers: it must have from 1 to %d", n, maxDimension)
	}
	if o.Bounds != nil && !(o.Bounds.Min < o.Bounds.Max && math.Abs(o.Bounds.Min) <= maxStart && math.Abs(o.Bounds.Max) <= maxStart) {
		return fmt.Errorf("the bounds from %v to %v are no interval within ±%v", o.Bounds.Min, o.Bounds.Max, maxStart)
	}
	for i, x := range o.Start {
		if !(math.Abs(x) <= maxStart) {
			return fmt.Errorf("the start has %v at %d: it must be within ±%v", x, i, maxStart)
		}
		if o.Bounds != nil && (x < o.Bounds.Min || x > o.Bounds.Max) {
			return fmt.Errorf("the start has %v at %d: that is outside the bounds from %v to %v", x, i, o.Bounds.Min, o.Bounds.Max)
		}
	}
	switch {
	case !(o.Sigma >= 1/maxStart && o.Sigma <= maxStart):
		return fmt.Errorf("the first standard deviation %v is out of range: it must be from %v to %v", o.Sigma, 1/maxStart, maxStart)
	case o.Population != 0 && (o.Population < 4 || o.Population > maxPopulation):
		return fmt.Errorf("population %d is out of range: it must be from 4 to %d, or 0 to derive it from the dimension", o.Population, maxPopulation)
	case !slices.Contains([]Covariance{"", Full, Diagonal}, o.Covariance):
		return fmt.Errorf("covariance %q is unknown: it must be %s, %s or empty", o.Covariance, Full, Diagonal)
	case o.Covariance == Full && n > mostFull:
		return fmt.Errorf("a full covariance of %d numbers is too large: it may have %d; use %s", n, mostFull, Diagonal)
	case o.Generations < 1 || o.Generations > maxGenerations:
		return fmt.Errorf("%d generations are out of range: there must be from 1 to %d", o.Generations, maxGenerations)
	case !(o.MinStd >= 0 && o.MinStd < o.Sigma):
		return fmt.Errorf("the least standard deviation %v is out of range: it must be from 0 to below %v, the first one", o.MinStd, o.Sigma)
	}
	return nil
}

// maxStart bounds what a search may begin with; 1/maxStart is the least Sigma.
const maxStart = 1e9

// resolved returns the options with the derived ones in the place of empty ones.
func (o CMAOptions) resolved() CMAOptions {
	n := len(o.Start)
	o.Start = slices.Clone(o.Start)
	if o.Bounds != nil {
		o.Bounds = new(*o.Bounds)
	}
	if o.Population == 0 {
		o.Population = 4 + int(3*math.Log(float64(n)))
	}
	if o.Covariance == "" {
		o.Covariance = Diagonal
		if n <= FullDimensions {
			o.Covariance = Full
		}
	}
	if o.MinStd == 0 {
		o.MinStd = 1e-12 * o.Sigma
	}
	return o
}

// CMA is the (μ/μ_w, λ) evolution strategy with covariance matrix adaptation and
// active (negative) weights of Hansen's tutorial (arXiv 1604.00772, figure 6 and
// table 1), or sep-CMA-ES (Ros and Hansen, 2008), whose covariance is diagonal.
//
// A generation is m + σ·C^½·z with z standard normal. C^½ is the symmetric root, so
// that vectors do not depend on the order, signs or choice of eigenvectors; then
// C^-½·(x−m)/σ is z, and the tutorial's formulas need no inverse. C is decomposed in
// each generation: a State holds C alone, and evaluating vectors takes longer.
//
// The best so far is the best that was ever evaluated. Where a score is not always
// the same, prefer Center.
//
// Beyond the tutorial: the step grows at most e-fold in a generation, as in pycma. In
// a generation whose vectors are all equally fit there is nothing to choose by; then
// only the step grows, by exp(0.2 + c_σ/d_σ), as in Hansen's purecmaes.m, because
// scores that count correct answers are equal where vectors differ too little.
// A generation without any score changes nothing.
type CMA struct {
	course
	options          CMAOptions
	rates            rates
	mean             []float64
	sigma            float64
	shape            shape
	pathSigma, pathC []float64
	drawn            *drawn // the present generation, nil until it is needed
}

// drawn is a population: z standard normal, y = C^½·z, and x = m + σ·y.
type drawn struct{ z, y, x [][]float64 }

// NewCMA begins a search.
func NewCMA(o CMAOptions) (*CMA, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.resolved()
	n := len(o.Start)
	c := &CMA{
		options: o, rates: newRates(n, o.Population, o.Covariance),
		mean: slices.Clone(o.Start), sigma: o.Sigma, shape: newShape(n, o.Covariance),
		pathSigma: make([]float64, n), pathC: make([]float64, n),
	}
	return c, nil
}

// population returns the present generation.
func (c *CMA) population() *drawn {
	if c.drawn != nil {
		return c.drawn
	}
	g := &drawn{}
	for i := range c.options.Population {
		z := draw(c.options.Seed, c.generation(), i, len(c.mean))
		y := c.shape.root(z)
		x := make([]float64, len(y))
		for j := range x {
			x[j] = c.mean[j] + c.sigma*y[j]
		}
		g.z, g.y, g.x = append(g.z, z), append(g.y, y), append(g.x, x)
	}
	c.drawn = g
	return g
}

// present returns a vector in the form in which it is evaluated.
func (c *CMA) present(x []float64) []float64 {
	folded := make([]float64, len(x))
	for i := range x {
		folded[i] = c.options.Bounds.fold(x[i])
	}
	return folded
}

// Ask returns the generation's vectors, [Population][N].
func (c *CMA) Ask() [][]float64 {
	if c.end() != "" {
		return nil
	}
	population := make([][]float64, c.options.Population)
	for i, x := range c.population().x {
		population[i] = c.present(x)
	}
	return population
}

// Tell moves the distribution towards the better half and away from the worse.
func (c *CMA) Tell(fitness []Fitness) error {
	if c.end() != "" {
		return ErrEnded
	}
	settled, err := settle(fitness, c.options.Population)
	if err != nil {
		return err
	}
	order, g := rank(settled), c.population()
	winner := order[0]
	if f := settled[winner]; f.scored() && (c.best == nil || compare(f, c.best.Fitness) > 0) {
		c.keep(c.present(g.x[winner]), f)
	}
	c.record(settled, c.sigma*c.shape.spread())
	c.drawn = nil
	switch {
	case !settled[winner].scored():
	case flat(settled):
		c.sigma *= math.Exp(0.2 + c.rates.cSigma/c.rates.dSigma)
	default:
		c.adapt(g, order)
		// A covariance without a root is ill-conditioned: end says so.
		_ = c.shape.decompose()
	}
	return nil
}

// adapt is the update of the distribution by the generation that was just recorded.
// order has its vectors, best first.
func (c *CMA) adapt(g *drawn, order []int) {
	r := c.rates
	n := len(c.mean)
	zw, yw := make([]float64, n), make([]float64, n)
	for i, member := range order[:r.mu] {
		for j := range n {
			zw[j] += r.weights[i] * g.z[member][j]
			yw[j] += r.weights[i] * g.y[member][j]
		}
	}
	for j := range n {
		c.mean[j] += c.sigma * yw[j]
		c.pathSigma[j] = (1-r.cSigma)*c.pathSigma[j] + math.Sqrt(r.cSigma*(2-r.cSigma)*r.muEff)*zw[j]
	}
	length := norm(c.pathSigma)
	// A path that is long for its age means that σ has yet to grow; until then C's
	// path stands still, or the variance in its direction would grow too fast.
	h := 0.
	if length/math.Sqrt(1-math.Pow(1-r.cSigma, 2*float64(c.generation()))) < (1.4+2/(float64(n)+1))*r.chi {
		h = 1
	}
	for j := range n {
		c.pathC[j] = (1-r.cC)*c.pathC[j] + h*math.Sqrt(r.cC*(2-r.cC)*r.muEff)*yw[j]
	}
	ys, weights := make([][]float64, len(order)), make([]float64, len(order))
	sum := 0.
	for i, member := range order {
		sum += r.weights[i]
		ys[i], weights[i] = g.y[member], r.cMu*r.weights[i]
		if r.weights[i] < 0 {
			// No vector is subtracted with more than its expected length, which keeps C
			// positive definite.
			weights[i] *= float64(n) / squares(g.z[member])
		}
	}
	decay := 1 + r.c1*(1-h)*r.cC*(2-r.cC) - r.c1 - r.cMu*sum
	c.shape.update(decay, r.c1, c.pathC, weights, ys)
	c.sigma *= math.Exp(min(1, r.cSigma/r.dSigma*(length/r.chi-1)))
}

func squares(v []float64) float64 {
	sum := 0.
	for _, x := range v {
		sum += x * x
	}
	return sum
}

func norm(v []float64) float64 { return math.Sqrt(squares(v)) }

func (c *CMA) end() End {
	largest := c.sigma * c.shape.largest()
	switch {
	case largest <= c.options.MinStd:
		return EndConverged
	case largest > 1e4*c.options.Sigma:
		return EndDiverged
	case c.shape.condition() > 1e14:
		return EndIllConditioned
	case c.generation() >= c.options.Generations:
		return EndGenerations
	}
	return ""
}

// Progress says how far the search is.
func (c *CMA) Progress() Progress { return c.progress(c.options.Generations, c.end()) }

// Best returns the best vector ever evaluated.
func (c *CMA) Best() (Best, bool) {
	if c.best == nil {
		return Best{}, false
	}
	return *c.best.clone(), true
}

// Center returns the mean of the distribution.
func (c *CMA) Center() []float64 { return c.present(c.mean) }
