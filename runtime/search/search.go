// Package search looks for the vector of numbers that scores best by sampling
// vectors and ranking their scores: no gradients, no knowledge of what a vector
// means. Two searches share one interface:
//
//   - CEM, the cross-entropy method of Transformer² (section 3.2, FewShot): the
//     weights α of experts in a mixture, one for each expert or for each expert and
//     layer;
//   - CMA, evolution by covariance matrix adaptation, after ESSA (arXiv 2507.04453),
//     which adapts models by evolving singular values: the leading entries of the z
//     vectors themselves (see Layout).
//
// A search is driven from outside, a generation at a time: Ask gives the vectors
// to evaluate, Tell takes their scores. Run is that loop with a checkpoint after
// each generation.
//
// Scores are maximised, and only their order counts. A search is a function of its
// options and of what it is told: the random numbers of a candidate are a stream
// named by seed, generation and its index, so a State holds none of them, and a
// search continued from a State (through JSON, in another process) has the same
// trajectory to the bit on the same processor architecture. (Between architectures
// compilers may round products differently.)
package search

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/sample"
)

// Search is a search under way. It is for one goroutine at a time.
type Search interface {
	// Ask returns the population of the present generation: the vectors to
	// evaluate, which are the caller's. Asked again, the same; nil once the search
	// has ended.
	Ask() [][]float64
	// Tell ends the generation with the fitness of each vector of Ask, in its order.
	// An error (of another number of them, or ErrEnded) changes nothing.
	Tell(fitness []Fitness) error
	// Progress says how far the search is.
	Progress() Progress
	// Best returns the best vector so far, false before any had a score. See CEM and
	// CMA for what so far means where a vector's score is not always the same.
	Best() (Best, bool)
	// Center returns the middle of the distribution that the next generation is
	// drawn from, in the form of Ask's vectors: where scores are noisy it is a
	// better result than the luckiest draw.
	Center() []float64
	// State returns all that the search has to remember; it stays as it is while the
	// search goes on.
	State() State
}

// Fitness is what evaluating a vector gave. More is better. A number that is no
// score (NaN, infinite, or beyond ±1e100) counts as worse than every score.
type Fitness struct {
	Score float64 `json:"score"`
	// TieBreak decides among equal scores: in FewShot, the mean log-likelihood of
	// the correct answers, NaN where none was correct. Where it is equal, too, the
	// vector that comes first in the population is preferred.
	TieBreak float64 `json:"tieBreak"`
}

// Best is the best vector so far.
type Best struct {
	Vector     []float64 `json:"vector"`
	Fitness    Fitness   `json:"fitness"`
	Generation int       `json:"generation"` // that it was last evaluated in
}

// Record says how one generation went. It holds nothing that depends on time or
// machine.
type Record struct {
	Generation int `json:"generation"` // from 0
	// Scored counts the vectors that had a score; Best, Mean and Std (over all that
	// had one, not an estimate from a sample) are 0 where it is 0.
	Scored int     `json:"scored"`
	Best   float64 `json:"best"`
	Mean   float64 `json:"mean"`
	Std    float64 `json:"std"`
	// Spread is the mean standard deviation of a coordinate of the distribution that
	// the generation was drawn from.
	Spread float64 `json:"spread"`
}

// Progress says how far a search is.
type Progress struct {
	Generation  int      `json:"generation"`  // generations done
	Generations int      `json:"generations"` // the most there will be
	End         End      `json:"end,omitempty"`
	History     []Record `json:"history"` // one of each generation done
}

// End says why a search has ended; it is empty while it goes on.
type End string

const (
	// EndGenerations says that all generations are done.
	EndGenerations End = "Generations"
	// EndConverged says that what would be drawn next hardly differs: no coordinate
	// has a standard deviation above the options' MinStd.
	EndConverged End = "Converged"
	// EndDiverged says that the distribution grew to 10,000 times its first size: the
	// first was far too small, or no score depends on the vectors. Of CMA only.
	EndDiverged End = "Diverged"
	// EndIllConditioned says that some direction's variance is 1e14 times another's,
	// which is as far as float64 carries. Of CMA only.
	EndIllConditioned End = "IllConditioned"
)

// ErrEnded is what Tell returns once the search has ended.
var ErrEnded = errors.New("the search has ended")

// Bounds of what a search takes on, far beyond what makes sense, so that a damaged
// state cannot ask for more than memory holds.
const (
	maxDimension   = 1 << 20
	maxPopulation  = 1 << 14
	maxGenerations = 1 << 20
)

// maxScore is the largest magnitude of a score: squares of it can still be summed.
const maxScore = 1e100

// worst stands for no score: a number, because JSON has no infinities.
const worst = -math.MaxFloat64

// settled returns f with worst in the place of what is no score.
func (f Fitness) settled() Fitness {
	for _, x := range []*float64{&f.Score, &f.TieBreak} {
		if !(math.Abs(*x) <= maxScore) {
			*x = worst
		}
	}
	if f.Score == worst {
		f.TieBreak = worst
	}
	return f
}

// scored reports whether a settled fitness has a score.
func (f Fitness) scored() bool { return f.Score != worst }

// settle checks what Tell was given and returns it settled.
func settle(fitness []Fitness, population int) ([]Fitness, error) {
	if len(fitness) != population {
		return nil, fmt.Errorf("a generation of %d vectors was told %d scores: tell one for each vector that Ask returned", population, len(fitness))
	}
	settled := make([]Fitness, len(fitness))
	for i, f := range fitness {
		settled[i] = f.settled()
	}
	return settled, nil
}

// rank returns the indices of settled fitnesses, best first; equal ones stay in
// their order.
func rank(fitness []Fitness) []int {
	order := make([]int, len(fitness))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return compare(fitness[b], fitness[a]) })
	return order
}

// compare returns −1, 0 or 1 as a is worse than, equal to or better than b.
func compare(a, b Fitness) int {
	switch {
	case a.Score < b.Score, a.Score == b.Score && a.TieBreak < b.TieBreak:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// flat reports whether settled fitnesses are all equal, so that there is nothing to
// choose by.
func flat(fitness []Fitness) bool {
	return !slices.ContainsFunc(fitness, func(f Fitness) bool { return f != fitness[0] })
}

// streamPopulation is the first number in the names of this package's streams.
const streamPopulation = 0x5ea7c4

// draw returns n standard normal numbers for a candidate: the beginning of its
// stream, so that they do not depend on n or on the other candidates.
func draw(seed uint64, generation, candidate, n int) []float64 {
	rng := sample.Stream(seed, streamPopulation, uint64(generation), uint64(candidate))
	z := make([]float64, n)
	for i := range z {
		z[i] = rng.NormFloat64()
	}
	return z
}
