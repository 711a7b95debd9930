package search

import (
	"math"
	"slices"
)

// course is what every search remembers of its generations.
type course struct {
	history []Record // one of each generation done
	best    *Best    // nil before any vector had a score
}

// generation is the number of generations done, and the present one's index.
func (c *course) generation() int { return len(c.history) }

// record adds the present generation's settled fitnesses to the history.
func (c *course) record(fitness []Fitness, spread float64) {
	r := Record{Generation: c.generation(), Spread: spread}
	for _, f := range fitness {
		if !f.scored() {
			continue
		}
		if r.Scored == 0 || f.Score > r.Best {
			r.Best = f.Score
		}
		r.Scored++
		r.Mean += f.Score
	}
	if r.Scored > 0 {
		r.Mean /= float64(r.Scored)
		squares := 0.
		for _, f := range fitness {
			if f.scored() {
				squares += (f.Score - r.Mean) * (f.Score - r.Mean)
			}
		}
		r.Std = math.Sqrt(squares / float64(r.Scored))
	}
	c.history = append(c.history, r)
}

// keep makes vector the best, evaluated in the present generation.
func (c *course) keep(vector []float64, f Fitness) {
	c.best = &Best{Vector: slices.Clone(vector), Fitness: f, Generation: c.generation()}
}

// progress is Search.Progress.
func (c *course) progress(generations int, end End) Progress {
	return Progress{Generation: c.generation(), Generations: generations, End: end, History: slices.Clone(c.history)}
}

// state returns a State that has no algorithm yet.
func (c *course) state() State {
	return State{Format: stateFormat, History: append([]Record{}, c.history...), Best: c.best.clone()}
}

func (b *Best) clone() *Best {
	if b == nil {
		return nil
	}
	return &Best{Vector: slices.Clone(b.Vector), Fitness: b.Fitness, Generation: b.Generation}
}
