package train

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
)

// envOwnProcess has the specification of a training that this program is to do instead of
// its tests, so that the memory of a process is that of one training.
const envOwnProcess = "T2_TRAIN_IN_OWN_PROCESS"

func TestMain(m *testing.M) {
	text := os.Getenv(envOwnProcess)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := trainHere(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// trainHere does one training, and writes its result as JSON to standard output.
func trainHere(text string) error {
	var spec contract.TrainSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	be, err := cpu.New(0)
	if err != nil {
		return err
	}
	done, err := Run(context.Background(), spec, Options{
		Backend: be, Progress: jobs.NewProgress(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(done)
}

// BenchmarkEvolutionBesideReinforce trains the demo's math expert by both objectives, 18
// iterations each, in a process each. It reports what searches of several kinds take of
// the other's processor time and of its peak memory, and both scores:
//
//	go test ./runtime/train -run xxx -bench EvolutionBesideReinforce -benchtime 3x
func BenchmarkEvolutionBesideReinforce(b *testing.B) {
	reinforce := newDemo(b, "math", contract.FormatGSM8K, contract.RewardNumeric, "")
	reinforce.Modules = []string{"gate_proj", "up_proj", "down_proj"}
	reinforce.Hyperparameters.Iterations, reinforce.Hyperparameters.ValidationInterval = 18, 2
	reinforce.Hyperparameters.LearningRate = 0.01
	var beside []trained // Reinforce, by seed.
	for _, c := range []struct {
		name             string
		parameterization string
		sigma            float64
		rank, population int
		modules          []string
	}{
		{"defaults", contract.ParameterizationDirect, 0.15, 16, 16, reinforce.Modules},
		{"all-modules", contract.ParameterizationDirect, 0.15, 16, 16, nil},
		{"rank=64", contract.ParameterizationDirect, 0.15, 64, 16, reinforce.Modules},
		{"population=32", contract.ParameterizationDirect, 0.15, 16, 32, reinforce.Modules},
		{"sigmoid", contract.ParameterizationSigmoid, 0.3, 16, 16, reinforce.Modules},
	} {
		b.Run(c.name, func(b *testing.B) {
			evolution := reinforce
			h := &evolution.Hyperparameters
			evolution.Objective, evolution.Modules = contract.ObjectiveEvolution, c.modules
			h.Rollout, h.Baseline, h.BatchSize = contract.RolloutGreedy, contract.BaselineNone, 8
			h.Parameterization, h.Population, h.Sigma, h.TruncatedRank = c.parameterization, c.population, c.sigma, c.rank
			var sums [2]trained
			n := 0
			for b.Loop() {
				if n == len(beside) {
					beside = append(beside, trainBeside(b, reinforce, n))
				}
				sums[0].add(beside[n])
				sums[1].add(trainBeside(b, evolution, n))
				n++
			}
			b.ReportMetric(sums[1].seconds/sums[0].seconds, "of-the-time")
			b.ReportMetric(sums[1].bytes/sums[0].bytes, "of-the-memory")
			b.ReportMetric(sums[1].bytes/float64(n)/(1<<20), "MiB")
			b.ReportMetric(sums[0].score/float64(n), "reinforce-score")
			b.ReportMetric(sums[1].score/float64(n), "evolution-score")
		})
	}
}

// trained is what a training took, and its best score.
type trained struct{ seconds, bytes, score float64 }

func (t *trained) add(other trained) {
	t.seconds, t.bytes, t.score = t.seconds+other.seconds, t.bytes+other.bytes, t.score+other.score
}

// trainBeside does one training in a process of its own, which is this program; see
// TestMain.
func trainBeside(b *testing.B, spec contract.TrainSpec, seed int) trained {
	b.Helper()
	spec.Hyperparameters.Seed = uint64(seed + 1)
	h := spec.Hyperparameters
	spec.RunID = fmt.Sprintf("%s-%s-%d-%d-%d-%d", spec.Objective, h.Parameterization, h.TruncatedRank, h.Population, len(spec.Modules), seed)
	text, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), envOwnProcess+"="+string(text)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var done contract.Termination
	if err := json.Unmarshal(out, &done); err != nil {
		b.Fatal(err)
	}
	return trained{
		seconds: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		bytes:   float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024, // Linux counts KiB.
		score:   done.Expert.Training.BestScore,
	}
}
