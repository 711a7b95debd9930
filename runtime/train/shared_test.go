package train

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
)

// Trainings that share their base, at once and one after the other, make the experts that
// they make alone, bit for bit.
func TestTrainingsThatShareTheirBaseMakeTheSameExperts(t *testing.T) {
	e := newExercise(t)
	e.spec.Hyperparameters.Iterations, e.spec.Hyperparameters.ValidationInterval = 3, 3
	runs := []struct {
		name   string
		change func(*contract.TrainSpec)
	}{
		{"reinforce", func(*contract.TrainSpec) {}},
		{"reinforce with another seed", func(s *contract.TrainSpec) { s.Hyperparameters.Seed++ }},
		{"reinforce in bfloat16", func(s *contract.TrainSpec) { s.Hyperparameters.DType = contract.DTypeBF16 }},
		{"next token, LoRA", func(s *contract.TrainSpec) {
			s.Objective = contract.ObjectiveNextToken
			s.Hyperparameters.Method, s.Hyperparameters.Rank, s.Hyperparameters.Alpha = contract.MethodLoRA, 2, 4
		}},
		{"evolution in int8", func(s *contract.TrainSpec) {
			s.Objective = contract.ObjectiveEvolution
			s.Hyperparameters.Population, s.Hyperparameters.Sigma, s.Hyperparameters.DType = 4, 0.2, contract.DTypeInt8
		}},
	}
	train := func(which int, dir, id string) string {
		be := registrytest.Open(t, 1)
		if sharer, ok := be.(backend.Sharer); ok && dir != "" {
			sharer.ShareWeights(dir, slog.New(slog.NewTextHandler(failing{t}, nil)))
		}
		spec := e.spec
		spec.RunID = id
		runs[which].change(&spec)
		done, err := Run(t.Context(), spec, Options{Backend: be, Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Errorf("%s: %v", runs[which].name, err)
			return ""
		}
		return done.Expert.Digest
	}
	alone := make([]string, len(runs))
	for i := range runs {
		alone[i] = train(i, "", fmt.Sprintf("alone-%d", i))
	}
	dir := filepath.Join(t.TempDir(), "shared")
	for round := range 2 {
		var all sync.WaitGroup
		for i := range runs {
			all.Go(func() {
				if got := train(i, dir, fmt.Sprintf("shared-%d-%d", round, i)); got != alone[i] {
					t.Errorf("round %d: %s makes expert %s, alone %s", round, runs[i].name, got, alone[i])
				}
			})
		}
		all.Wait()
	}
	sets, err := os.ReadDir(dir)
	if err != nil && registrytest.OnProcessor() {
		t.Fatal(err)
	}
	// The base as float32, bfloat16 and int8, and the factors of what was trained on each.
	if len(sets) != 6 && registrytest.OnProcessor() {
		t.Errorf("%d sets of weights, want 6", len(sets))
	}
}

// failing fails a test for what is logged.
type failing struct{ t *testing.T }

func (f failing) Write(b []byte) (int, error) {
	f.t.Errorf("logged: %s", strings.TrimSpace(string(b)))
	return len(b), nil
}
