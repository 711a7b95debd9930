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
// iterations each, after which they score about the same, in a process each. It reports
// what the search takes of the other's processor time and of its peak memory; of three runs
// it was 0.77 and 0.32:
//
//	go test ./runtime/train -run xxx -bench EvolutionBesideReinforce -benchtime 3x
func BenchmarkEvolutionBesideReinforce(b *testing.B) {
	reinforce := newDemo(b, "math", contract.FormatGSM8K, contract.RewardNumeric, "")
	reinforce.Modules = []string{"gate_proj", "up_proj", "down_proj"}
	reinforce.Hyperparameters.Iterations, reinforce.Hyperparameters.ValidationInterval = 18, 2
	reinforce.Hyperparameters.LearningRate = 0.01
	evolution := reinforce
	h := &evolution.Hyperparameters
	evolution.Objective, h.Rollout, h.Baseline = contract.ObjectiveEvolution, contract.RolloutGreedy, contract.BaselineNone
	h.Parameterization, h.Population, h.Sigma, h.TruncatedRank, h.BatchSize = contract.ParameterizationDirect, 16, 0.15, 16, 8
	var seconds, bytes, score [2]float64
	n := 0.
	for b.Loop() {
		n++
		for i, spec := range []contract.TrainSpec{reinforce, evolution} {
			spec.RunID, spec.Hyperparameters.Seed = fmt.Sprint("run-", i, "-", n), uint64(n)
			text, err := json.Marshal(spec)
			if err != nil {
				b.Fatal(err)
			}
			cmd := exec.CommandContext(b.Context(), os.Args[0]) // This program, see TestMain.
			cmd.Env, cmd.Stderr = append(os.Environ(), envOwnProcess+"="+string(text)), os.Stderr
			out, err := cmd.Output()
			if err != nil {
				b.Fatal(err)
			}
			var done contract.Termination
			if err := json.Unmarshal(out, &done); err != nil {
				b.Fatal(err)
			}
			seconds[i] += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			bytes[i] += float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024 // Linux counts KiB.
			score[i] += done.Expert.Training.BestScore
		}
	}
	b.ReportMetric(seconds[1]/seconds[0], "of-the-time")
	b.ReportMetric(bytes[1]/bytes[0], "of-the-memory")
	b.ReportMetric(bytes[1]/n/(1<<20), "MiB")
	b.ReportMetric(score[0]/n, "reinforce-score")
	b.ReportMetric(score[1]/n, "evolution-score")
}
