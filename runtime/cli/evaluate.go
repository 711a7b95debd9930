package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/evaluate"
	"github.com/transformersquared/operator/runtime/jobs"
)

func newEvaluateCommand(env *Env) *cobra.Command {
	j := &specJob{env: env}
	return j.command(&cobra.Command{
		Use:   "evaluate --spec FILE",
		Short: "Compare an expert set with the one that serves, by the same questions",
		Long: `Puts the questions of data sets to the base, to the set that serves (stable), to
a new one (candidate), and to each of its experts alone, as t2 serve would answer
them: by both passes, greedily. What each answered, and which question who answered
right, is published under evaluations in the volume.

ctrl-C (or SIGTERM) ends it; running the same command again goes on with what has
not been asked, and finds the same. For one model and one data set, without an
expert set, use t2 eval.

The reward UnitTests runs programs with this machine's python3, confined: no
files but its library, no network, no processes, bounded memory and time.`,
		Example: `  t2 evaluate --spec gate.json --json

  gate.json: {"name": "assistant", "runID": "gate-1", "dataDir": "./data",
    "baseDigest": "sha256:…", "decompositionDigest": "sha256:…",
    "candidate": {"strategy": "Prompt", "experts": [{"name": "math", "skill": "math", "digest": "sha256:…"}]},
    "sets": [{"dataset": {"path": "test.jsonl", "format": "GSM8K"}, "reward": "Numeric"}], "samples": 64}`,
	}, "EvaluateSpec", "evaluation", func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
		return runEvaluate(ctx, j, p)
	})
}

func runEvaluate(ctx context.Context, j *specJob, p *jobs.Progress) (contract.Termination, error) {
	spec, err := jobs.LoadSpecOver(contract.EvaluateSpec{}, j.specFile, j.env.Getenv)
	if err != nil {
		return contract.Termination{}, err
	}
	programs, err := j.env.programs(j.python)
	if err != nil {
		return contract.Termination{}, err
	}
	log := jobs.Logger(ctx)
	log.Info("Evaluation started", "name", spec.Name, "runID", spec.RunID, "experts", len(spec.Candidate.Experts), "sets", len(spec.Sets))
	return evaluate.Run(ctx, spec, evaluate.Options{
		Backend: j.compute.backend, Threads: j.compute.threads, CuBLAS: j.compute.cublas, Progress: p, Log: log, Programs: programs,
	})
}
