package search

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func quadratics(_ context.Context, _ int, vectors [][]float64) ([]Fitness, error) {
	return quadratic(vectors), nil
}

func TestRunMakesTheGenerationsThatAreLeft(t *testing.T) {
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			straight := begin(t, kind)
			if err := Run(t.Context(), straight, quadratics, nil); err != nil {
				t.Fatal(err)
			}
			// Interrupted after each generation, wherever it stands then.
			var saved State
			s := begin(t, kind)
			for runs := 0; s.Progress().End == ""; runs++ {
				ctx, cancel := context.WithCancel(t.Context())
				err := Run(ctx, s, quadratics, func(state State) error {
					cancel()
					saved = state
					return nil
				})
				if s.Progress().End == "" && !errors.Is(err, context.Canceled) {
					t.Fatalf("run %d ended with %v", runs, err)
				}
				if got := len(saved.History); got != runs+1 {
					t.Fatalf("%d generations are saved after run %d", got, runs)
				}
				s = resume(t, s)
			}
			if !reflect.DeepEqual(saved, straight.State()) {
				t.Errorf("the state is\n%+v, want\n%+v", saved, straight.State())
			}
			calls := 0
			err := Run(t.Context(), s, func(context.Context, int, [][]float64) ([]Fitness, error) {
				calls++
				return nil, nil
			}, nil)
			if err != nil || calls != 0 {
				t.Errorf("a search that had ended was evaluated %d times, error %v", calls, err)
			}
		})
	}
}

// TestRunKeepsWhatWasEvaluated although the context ends meanwhile.
func TestRunKeepsWhatWasEvaluated(t *testing.T) {
	s, _ := NewCEM(DefaultCEM(3))
	ctx, cancel := context.WithCancel(t.Context())
	saves := 0
	err := Run(ctx, s, func(_ context.Context, _ int, vectors [][]float64) ([]Fitness, error) {
		cancel()
		return quadratic(vectors), nil
	}, func(State) error {
		saves++
		return nil
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "after 1 of 10 generations") {
		t.Errorf("error %v", err)
	}
	if saves != 1 || s.Progress().Generation != 1 {
		t.Errorf("%d saves, generation %d", saves, s.Progress().Generation)
	}
}

func TestRunSaysWhereItFailed(t *testing.T) {
	broken := errors.New("the disk is full")
	tests := []struct {
		name     string
		evaluate Evaluate
		save     Save
		want     string
		cause    error
	}{
		{
			"evaluating", func(_ context.Context, g int, vectors [][]float64) ([]Fitness, error) {
				if g == 2 {
					return nil, broken
				}
				return quadratic(vectors), nil
			}, nil, "evaluating generation 3 of 10: the disk is full", broken,
		},
		{
			"saving", quadratics, func(s State) error {
				if len(s.History) == 2 {
					return broken
				}
				return nil
			}, "saving the search after generation 2 of 10: the disk is full", broken,
		},
		{
			"telling", func(_ context.Context, _ int, vectors [][]float64) ([]Fitness, error) {
				return quadratic(vectors[1:]), nil
			}, nil, "generation 1 of 10: a generation of 32 vectors was told 31 scores", nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, _ := NewCEM(DefaultCEM(3))
			err := Run(t.Context(), s, test.evaluate, test.save)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if test.cause != nil && !errors.Is(err, test.cause) {
				t.Errorf("error %v does not wrap its cause", err)
			}
		})
	}
}
