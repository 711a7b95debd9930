package search

import (
	"context"
	"fmt"
)

// Evaluate returns the fitness of each vector of a generation (from 0), in their
// order. How many it evaluates at once is its own affair.
type Evaluate func(ctx context.Context, generation int, vectors [][]float64) ([]Fitness, error)

// Save keeps a State, from which the search can be continued.
type Save func(State) error

// Run makes the generations of a search that are left: none where it has ended. It
// saves after each; a nil save keeps nothing.
//
// It stops between two generations once ctx is done, with ctx's error. What was
// evaluated until then is told and saved, so that a search that is continued from
// the last State has lost at most the generation that was being evaluated.
func Run(ctx context.Context, s Search, evaluate Evaluate, save Save) error {
	for {
		p := s.Progress()
		if p.End != "" {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("the search stopped after %d of %d generations: %w", p.Generation, p.Generations, err)
		}
		fitness, err := evaluate(ctx, p.Generation, s.Ask())
		if err != nil {
			return fmt.Errorf("evaluating generation %d of %d: %w", p.Generation+1, p.Generations, err)
		}
		if err := s.Tell(fitness); err != nil {
			return fmt.Errorf("generation %d of %d: %w", p.Generation+1, p.Generations, err)
		}
		if save == nil {
			continue
		}
		if err := save(s.State()); err != nil {
			return fmt.Errorf("saving the search after generation %d of %d: %w", p.Generation+1, p.Generations, err)
		}
	}
}
