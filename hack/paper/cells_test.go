package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func newTestStore(t *testing.T) *store {
	t.Helper()
	s, err := newStore(filepath.Join(t.TempDir(), "cells"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// counted is a cell that counts how often it is measured.
func counted(name string, spec any, runs *atomic.Int32, value int, err error) cell[int] {
	return cell[int]{Name: name, Spec: spec, Fill: func(context.Context) (int, error) {
		runs.Add(1)
		return value, err
	}}
}

func TestADoneCellIsNotMeasuredAgain(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	for range 3 {
		// A store that was opened anew is the next call of the program.
		s.turns = map[string]*sync.Mutex{}
		got, err := measure(t.Context(), s, counted("one", "spec", &runs, 7, nil))
		if err != nil || got != 7 {
			t.Fatalf("measured %d, %v; want 7", got, err)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("the cell was measured %d times", runs.Load())
	}
}

func TestAnOutdatedCellIsMeasuredAgainAndStaysUntilThen(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	c := counted("one", "spec", &runs, 7, nil)
	c.Alone = true
	if _, err := measure(t.Context(), s, c); err != nil {
		t.Fatal(err)
	}
	p := newPlan(s)
	if got, ok := ask(p, c); !ok || got != 7 || len(p.timed) != 1 {
		t.Fatalf("asked for %d, %v, timed %v", got, ok, p.timed)
	}
	s.outdate(p.timed...)
	if _, ok := ask(newPlan(s), c); ok {
		t.Error("an outdated cell is taken for one that was measured")
	}
	s.renew(p.timed...)
	if _, ok := ask(newPlan(s), c); !ok {
		t.Error("a cell that was not reached is gone")
	}
	s.outdate(p.timed...)
	for range 2 {
		if _, err := measure(t.Context(), s, c); err != nil {
			t.Fatal(err)
		}
	}
	if runs.Load() != 2 {
		t.Errorf("measured %d times, want once more than before", runs.Load())
	}
}

func TestWhatMakesACellNamesIt(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	for _, spec := range []string{"seed 1", "seed 2", "seed 1"} {
		if _, err := measure(t.Context(), s, counted("one", spec, &runs, 0, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if runs.Load() != 2 {
		t.Errorf("two specifications were measured %d times", runs.Load())
	}
}

func TestAnInterruptedCellIsMeasuredAgain(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	if _, err := measure(t.Context(), s, counted("one", 1, &runs, 3, context.Canceled)); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted cell returned %v", err)
	}
	if _, _, ok, err := read(s, counted("one", 1, &runs, 3, nil)); ok || err != nil {
		t.Fatalf("an interrupted cell left a result (%v)", err)
	}
	if got, err := measure(t.Context(), s, counted("one", 1, &runs, 3, nil)); err != nil || got != 3 || runs.Load() != 2 {
		t.Errorf("measured %d, %v in %d runs; want 3 in the second", got, err, runs.Load())
	}
}

func TestADamagedCellIsMeasuredAgain(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	c := counted("one", 1, &runs, 3, nil)
	for _, content := range []string{"", "{", `{"cell":"another","value":4}`, `{"cell":"one","value":"text"}`} {
		path, _, err := c.place(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		runs.Store(0)
		if got, err := measure(t.Context(), s, c); err != nil || got != 3 || runs.Load() != 1 {
			t.Errorf("file %q: measured %d, %v in %d runs; want 3 in one", content, got, err, runs.Load())
		}
	}
}

func TestACellIsMeasuredOnceForAllWhoWaitForIt(t *testing.T) {
	s := newTestStore(t)
	var runs atomic.Int32
	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			if got, err := measure(t.Context(), s, counted("one", 1, &runs, 3, nil)); err != nil || got != 3 {
				t.Errorf("measured %d, %v", got, err)
			}
		})
	}
	waiting.Wait()
	if runs.Load() != 1 {
		t.Errorf("the cell was measured %d times", runs.Load())
	}
}

func TestATableIsCompletedInLooks(t *testing.T) {
	s := newTestStore(t)
	var first, second, timed, running atomic.Int32
	draw := func(p *plan) {
		v, ok := ask(p, counted("expert", 1, &first, 5, nil))
		timing := counted("timing", 1, &timed, 1, nil)
		timing.Alone = true
		inner := timing.Fill
		timing.Fill = func(ctx context.Context) (int, error) {
			if running.Load() != 0 || first.Load() != 1 || second.Load() != 1 {
				t.Error("a cell that measures time was not alone, or not the last")
			}
			return inner(ctx)
		}
		ask(p, timing)
		if !ok {
			return
		}
		score := counted("score", v, &second, v+1, nil)
		fill := score.Fill
		score.Fill = func(ctx context.Context) (int, error) {
			running.Add(1)
			defer running.Add(-1)
			return fill(ctx)
		}
		ask(p, score) // Twice: it is listed once.
		ask(p, score)
	}
	for range 2 {
		if err := complete(t.Context(), s, 2, io.Discard, draw); err != nil {
			t.Fatal(err)
		}
	}
	if first.Load() != 1 || second.Load() != 1 || timed.Load() != 1 {
		t.Errorf("the cells were measured %d, %d and %d times", first.Load(), second.Load(), timed.Load())
	}
}

func TestWhatWasMeasuredBeforeTheEndStays(t *testing.T) {
	s := newTestStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	var done, cut atomic.Int32
	draw := func(p *plan) {
		ask(p, counted("done", 1, &done, 1, nil))
		ask(p, cell[int]{Name: "cut", Spec: 1, Fill: func(ctx context.Context) (int, error) {
			cut.Add(1)
			cancel(errBudget)
			return 2, context.Cause(ctx)
		}})
	}
	if err := complete(ctx, s, 1, io.Discard, draw); !errors.Is(err, errBudget) {
		t.Fatalf("ended with %v", err)
	}
	if err := complete(t.Context(), s, 1, io.Discard, draw); err != nil {
		t.Fatal(err)
	}
	if done.Load() != 1 || cut.Load() != 2 {
		t.Errorf("the done cell was measured %d times and the cut one %d; want 1 and 2", done.Load(), cut.Load())
	}
}
