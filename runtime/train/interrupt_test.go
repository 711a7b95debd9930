package train

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
)

// TestAnInterruptedRunEndsWithTheSameBits stops a run at every iteration and
// compares everything that it publishes with an undisturbed run's.
func TestAnInterruptedRunEndsWithTheSameBits(t *testing.T) {
	undisturbed := newExercise(t)
	want := undisturbed.mustTrain(t, 2)

	disturbed := newExercise(t)
	var got contract.Termination
	stops := 0
	for attempt := 0; ; attempt++ {
		if attempt > 20 {
			t.Fatal("the run does not come to an end")
		}
		ctx, cancel := context.WithCancel(t.Context())
		resumedAt := -1
		done, progress, err := disturbed.train(ctx, t, 1+attempt%2, func(iteration int) {
			if resumedAt < 0 {
				resumedAt = iteration
			}
			if iteration > resumedAt {
				cancel()
			}
		})
		cancel()
		if err == nil {
			got = done
			break
		}
		if reason, permanent := failure.Of(err); reason != contract.ReasonInterrupted || permanent {
			t.Fatalf("attempt %d: %v (%s, permanent %v), want an interruption", attempt, err, reason, permanent)
		}
		if s := progress.Snapshot(); s.Phase != "Training" || s.Done != int64(s.Training.Iteration) {
			t.Errorf("attempt %d ended in progress %+v", attempt, s)
		}
		stops++
	}
	if stops < 5 {
		t.Errorf("the run was interrupted %d times only", stops)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results differ (-undisturbed +disturbed):\n%s", diff)
	}
	for _, name := range []string{expert.File, MetricsFile, CurveFile} {
		a, errA := os.ReadFile(filepath.Join(undisturbed.volume.ExpertDir(t, want.Expert.Digest), name))
		b, errB := os.ReadFile(filepath.Join(disturbed.volume.ExpertDir(t, got.Expert.Digest), name))
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", name)
		}
	}
}

// TestAKilledRunContinuesFromItsLastCheckpoint is the same without a chance to
// save: the state on disk is what the interval left there.
func TestAKilledRunContinuesFromItsLastCheckpoint(t *testing.T) {
	undisturbed := newExercise(t)
	want := undisturbed.mustTrain(t, 2)

	e := newExercise(t)
	state := filepath.Join(e.volume.Root, contract.DirRuns, e.spec.RunID, stateFile)
	ctx, cancel := context.WithCancel(t.Context())
	var saved []byte
	_, _, err := e.train(ctx, t, 2, func(iteration int) {
		if iteration == 7 {
			var err error
			if saved, err = os.ReadFile(state); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	cancel()
	if reason, _ := failure.Of(err); reason != contract.ReasonInterrupted {
		t.Fatalf("the run ended with %v", err)
	}
	// Take back what the interruption saved.
	if err := os.WriteFile(state, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	first := -1
	got, _, err := e.train(t.Context(), t, 2, func(iteration int) {
		if first < 0 {
			first = iteration
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if first != 5 {
		t.Errorf("the run continued at iteration %d, want 5, its last checkpoint", first)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results differ (-undisturbed +killed):\n%s", diff)
	}
}

// watched is a backend that says when the first backward pass begins.
type watched struct {
	backend.Backend
	begins func()
}

func (w *watched) MatMulBackward(n int, products ...backend.Product) error {
	w.begins()
	return w.Backend.MatMulBackward(n, products...)
}

func TestAnIterationThatTakesTooLongIsDropped(t *testing.T) {
	e := newExercise(t)
	be := registrytest.Open(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	const grace = time.Millisecond
	begins := sync.OnceFunc(func() {
		cancel()
		time.Sleep(100 * grace) // The first iteration takes too long.
	})
	start := time.Now()
	_, err := Run(ctx, e.spec, Options{
		Backend: &watched{be, begins}, Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler), Grace: grace,
	})
	if reason, _ := failure.Of(err); reason != contract.ReasonInterrupted {
		t.Fatalf("the run ended with %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("ending took %v", took)
	}
	if !strings.Contains(err.Error(), "after iteration 0 ") {
		t.Errorf("error is %q, want the iteration dropped", err)
	}
}

func TestARunWaitsForAnotherProcessAtTheSameRun(t *testing.T) {
	e := newExercise(t)
	other, err := artifact.StageAt(filepath.Join(e.volume.Root, contract.DirRuns), e.spec.RunID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := e.train(ctx, t, 2, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run whose folder is taken ended with %v, want it to wait", err)
	}
	time.AfterFunc(300*time.Millisecond, func() {
		if err := other.Release(); err != nil {
			t.Error(err)
		}
	})
	e.mustTrain(t, 2)
}
