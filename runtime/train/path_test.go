package train

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// TestARunGoesOnWithTheInstructionsItWasBegunWith interrupts a run that was begun on the
// slowest path, as the choice may have been another then, and continues it with nothing
// forced: it ends with the bits of a run on that path.
func TestARunGoesOnWithTheInstructionsItWasBegunWith(t *testing.T) {
	if !registrytest.OnProcessor() {
		t.Skip("the backend has one path")
	}
	const begun = "plain"
	t.Setenv(cpu.EnvPath, begun)
	undisturbed := newExercise(t)
	undisturbed.spec.Hyperparameters.Iterations = 4
	want := undisturbed.mustTrain(t, 2)

	e := newExercise(t)
	e.spec.Hyperparameters.Iterations = 4
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := e.train(ctx, t, 2, func(iteration int) {
		if iteration == 2 {
			cancel()
		}
	})
	cancel()
	if reason, _ := failure.Of(err); reason != contract.ReasonInterrupted {
		t.Fatalf("the run ended with %v", err)
	}
	t.Setenv(cpu.EnvPath, "")
	got, progress, err := e.train(t.Context(), t, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("results differ (-undisturbed +continued):\n%s", diff)
	}
	if on := progress.Snapshot().Device; !strings.HasPrefix(on, "cpu ("+begun) {
		t.Errorf("it was continued on %s", on)
	}
}

func TestWhatARunComputesOnIsRecorded(t *testing.T) {
	if !registrytest.OnProcessor() {
		t.Skip("the backend has one path")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, pathFile)
	const chosen = "" // By the backend.
	paths := cpu.Paths()
	last := paths[len(paths)-1]
	for _, step := range []struct {
		what, forced, recorded string // What is not recorded here is from the step before.
		want, says             string
	}{
		{what: "at first", forced: last, want: last},
		{what: "again", want: last},
		{what: "of another machine", recorded: `{"path": "mmx"}`, want: chosen, says: "begun=mmx"},
		{what: "damaged", recorded: `{"path": `, want: chosen, says: "cannot be read"},
		{what: "of another version", recorded: `{"way": "avx"}`, want: chosen, says: "cannot be read"},
		{what: "forced to another", forced: last, recorded: `{"path": "mmx"}`, want: last, says: "begun=mmx"},
	} {
		t.Setenv(cpu.EnvPath, step.forced)
		if step.recorded != "" {
			if err := os.WriteFile(file, []byte(step.recorded), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		be := registrytest.Open(t, 1).(backend.Pather)
		want := cmp.Or(step.want, be.Path())
		var log bytes.Buffer
		if err := TakePath(dir, be.(backend.Backend), slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if got := be.Path(); got != want || !strings.Contains(log.String(), step.says) || step.says == "" && log.Len() > 0 {
			t.Errorf("%s: %s, want %s; log: %s", step.what, got, want, &log)
		}
		if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), `"`+want+`"`) {
			t.Errorf("%s: recorded %s, %v", step.what, b, err)
		}
	}
}
