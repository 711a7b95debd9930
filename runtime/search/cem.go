package search

import (
	"fmt"
	"math"
	"slices"
)

// What the paper calls a light search, and the most generations that it makes.
const (
	LightGenerations = 10
	MostGenerations  = 100
)

// CEMOptions say what the cross-entropy method searches. Only Generations and
// MinStd may change when a search is continued.
type CEMOptions struct {
	// Experts is K, the number of experts that are mixed.
	Experts int `json:"experts"`
	// Layers is the number of groups of matrices with weights of their own, 1 where
	// an expert has one weight. A vector has the K × Layers weights α of
	// z' = Σₖ αₖ·zₖ; that of expert k in group l is at k·Layers + l.
	Layers int `json:"layers"`
	// Normalize divides the weights of each group by their sum. That happens to
	// vectors on their way out, in Ask, Best and Center; the distribution is fitted
	// to, and clipped as, the weights before the division. Weights that are all 0 are
	// uniform ones.
	Normalize bool `json:"normalize"`
	// Population is the number of vectors in a generation.
	Population int `json:"population"`
	// EliteFraction of the population, rounded down, is what the next distribution is
	// fitted to.
	EliteFraction float64 `json:"eliteFraction"`
	// Generations is the most that the search makes.
	Generations int `json:"generations"`
	// MinStd ends the search: once no weight has a larger standard deviation. 0 asks
	// for elites that are all equal.
	MinStd float64 `json:"minStd"`
	Seed   uint64  `json:"seed"`
}

// DefaultCEM returns the released code's search for K experts, but light: 32 vectors,
// 6 of them elite, 10 generations, weights that sum to 1, one for an expert.
func DefaultCEM(experts int) CEMOptions {
	return CEMOptions{
		Experts: experts, Layers: 1, Normalize: true,
		Population: 32, EliteFraction: 0.2, Generations: LightGenerations, MinStd: 1e-3,
	}
}

// Validate names the option that is out of range.
func (o CEMOptions) Validate() error {
	switch {
	case o.Experts < 1 || o.Layers < 1 || o.Experts > maxDimension || o.Layers > maxDimension/o.Experts:
		return fmt.Errorf("%d experts in %d layers: there must be 1 or more of both, and at most %d weights", o.Experts, o.Layers, maxDimension)
	case o.Normalize && o.Experts == 1:
		return fmt.Errorf("a normalized weight of 1 expert is always 1: search among 2 experts or more, or do not normalize")
	case o.Population < 2 || o.Population > maxPopulation:
		return fmt.Errorf("population %d is out of range: it must be from 2 to %d", o.Population, maxPopulation)
	case !(o.EliteFraction > 0 && o.EliteFraction <= 1):
		return fmt.Errorf("elite fraction %v is out of range: it must be above 0 and at most 1", o.EliteFraction)
	case o.elites() < 2:
		return fmt.Errorf("an elite fraction of %v of %d vectors is %d: there must be 2 elites or more", o.EliteFraction, o.Population, o.elites())
	case o.Generations < 1 || o.Generations > maxGenerations:
		return fmt.Errorf("%d generations are out of range: there must be from 1 to %d", o.Generations, maxGenerations)
	case !(o.MinStd >= 0 && o.MinStd < 0.5):
		return fmt.Errorf("the least standard deviation %v is out of range: it must be from 0 to below 0.5, the first one", o.MinStd)
	}
	return nil
}

func (o CEMOptions) dimension() int { return o.Experts * o.Layers }

func (o CEMOptions) elites() int { return int(o.EliteFraction * float64(o.Population)) }

// present returns weights in the form in which they are used: see Normalize.
func (o CEMOptions) present(raw []float64) []float64 {
	alpha := slices.Clone(raw)
	if !o.Normalize {
		return alpha
	}
	for l := range o.Layers {
		sum := 0.
		for k := range o.Experts {
			sum += raw[k*o.Layers+l]
		}
		for k := range o.Experts {
			if sum > 0 {
				alpha[k*o.Layers+l] /= sum
			} else {
				alpha[k*o.Layers+l] = 1 / float64(o.Experts)
			}
		}
	}
	return alpha
}

// CEM is the cross-entropy method with independent normal distributions of the
// weights α ∈ [0, 1].
//
// The first distribution has the mean 1/K and the standard deviation ½ for each
// weight. A generation is drawn from the distribution and clipped to [0, 1]; in the
// place of its first vector comes the best so far, which in generation 0 is the
// mean: uniform weights. The elites are the best by score, then tie-break, then
// place; the next distribution has their means and standard deviations (with the
// divisor E−1).
//
// The best so far is the best of the last generation that had a score. As it is
// evaluated again in each, a lucky score does not stay for good, and where scores
// do not vary nothing better is ever lost.
//
// A generation whose vectors are all equally fit says nothing, nor does one with
// fewer than two scores: they leave the distribution as it is. Vectors without a
// score are never elite, even if the elite has fewer members then.
//
// All of this is as in the released code (SakanaAI/self-adaptive-llms 03a41ae) where
// the paper leaves it open: the first distribution, clipping, the best in the first
// place, the divisor E−1, weights that are divided by their sum only when used. What
// differs from the code:
//
//   - Equal scores are told apart for all elites. The code does so for the best only,
//     and which of the equal ones are elite is up to np.argpartition.
//   - Vectors that are all equally fit leave the distribution as it is. The code
//     narrows it around arbitrary ones.
//   - The search may end before its last generation, by MinStd.
//   - Weights that are all clipped to 0 count as uniform when they are normalised. The
//     code divides by 0.
//   - A vector with nothing correct has the worst tie-break. The code's is 0, above any
//     log-likelihood, which comes to the same: it is compared among equal scores only.
type CEM struct {
	course
	options   CEMOptions
	mean, std []float64 // of weights before normalising
	uniform   *Fitness  // nil before generation 0 is done, or where it had no score
}

// NewCEM begins a search.
func NewCEM(o CEMOptions) (*CEM, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	c := &CEM{options: o, mean: make([]float64, o.dimension()), std: make([]float64, o.dimension())}
	for i := range c.mean {
		c.mean[i], c.std[i] = 1/float64(o.Experts), 0.5
	}
	return c, nil
}

// weights returns the population of the present generation before normalising.
func (c *CEM) weights() [][]float64 {
	population := make([][]float64, c.options.Population)
	for i := range population {
		switch {
		case i > 0:
			z := draw(c.options.Seed, c.generation(), i, len(c.mean))
			for j := range z {
				z[j] = min(max(c.mean[j]+c.std[j]*z[j], 0), 1)
			}
			population[i] = z
		case c.best != nil:
			population[i] = slices.Clone(c.best.Vector)
		default:
			population[i] = slices.Clone(c.mean)
		}
	}
	return population
}

// Ask returns the generation's weights, [Population][K × Layers]. The first are the
// best so far (those of Best, which need not be evaluated again where scores do not
// vary), in generation 0 uniform ones.
func (c *CEM) Ask() [][]float64 {
	if c.end() != "" {
		return nil
	}
	population := c.weights()
	for i, raw := range population {
		population[i] = c.options.present(raw)
	}
	return population
}

// Tell fits the distribution to the elites.
func (c *CEM) Tell(fitness []Fitness) error {
	if c.end() != "" {
		return ErrEnded
	}
	settled, err := settle(fitness, c.options.Population)
	if err != nil {
		return err
	}
	population, order := c.weights(), rank(settled)
	elites := order[:c.options.elites()]
	for len(elites) > 0 && !settled[elites[len(elites)-1]].scored() {
		elites = elites[:len(elites)-1]
	}
	if c.generation() == 0 && settled[0].scored() {
		c.uniform = new(settled[0])
	}
	if winner := order[0]; settled[winner].scored() {
		c.keep(population[winner], settled[winner])
	}
	c.record(settled, mean(c.std))
	if len(elites) >= 2 && !flat(settled) {
		c.fit(population, elites)
	}
	return nil
}

// fit makes the distribution that of the elites. Sums are in the order of the
// population, so that they do not depend on how elites rank among themselves.
func (c *CEM) fit(population [][]float64, elites []int) {
	members := slices.Sorted(slices.Values(elites))
	column := make([]float64, len(members))
	for j := range c.mean {
		for i, member := range members {
			column[i] = population[member][j]
		}
		c.mean[j] = mean(column)
		squares := 0.
		for _, x := range column {
			squares += (x - c.mean[j]) * (x - c.mean[j])
		}
		c.std[j] = math.Sqrt(squares / float64(len(column)-1))
	}
}

func mean(values []float64) float64 {
	sum := 0.
	for _, x := range values {
		sum += x
	}
	return sum / float64(len(values))
}

func (c *CEM) end() End {
	switch {
	case slices.Max(c.std) <= c.options.MinStd:
		return EndConverged
	case c.generation() >= c.options.Generations:
		return EndGenerations
	}
	return ""
}

// Progress says how far the search is.
func (c *CEM) Progress() Progress { return c.progress(c.options.Generations, c.end()) }

// Best returns the best weights of the last generation that had a score.
func (c *CEM) Best() (Best, bool) {
	if c.best == nil {
		return Best{}, false
	}
	best := *c.best
	best.Vector = c.options.present(best.Vector)
	return best, true
}

// Uniform returns the fitness of uniform weights, which generation 0 has tried; false
// before that, or where they had no score.
func (c *CEM) Uniform() (Fitness, bool) {
	if c.uniform == nil {
		return Fitness{}, false
	}
	return *c.uniform, true
}

// Center returns the mean weights.
func (c *CEM) Center() []float64 { return c.options.present(c.mean) }
