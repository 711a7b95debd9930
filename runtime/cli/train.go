package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train"
)

func newTrainCommand(env *Env) *cobra.Command {
	j := &specJob{env: env}
	return j.command(&cobra.Command{
		Use:   "train --spec FILE",
		Short: "Train an expert by reinforcement, from given answers, or by a search",
		Long: `Trains the expert that a JSON specification describes, continues a training that
was interrupted, and publishes the expert under the specification's dataDir,
with metrics.jsonl and the learning curve beside it.

ctrl-C (or SIGTERM) saves a checkpoint after the present iteration; running the
same command again continues and ends with the same expert.

The reward UnitTests runs programs with this machine's python3, confined: no
files but its library, no network, no processes, bounded memory and time.`,
		Example: `  t2 train --spec math.json
  t2 train --spec math.json --json

  math.json: {"name": "math", "skill": "math", "runID": "math-1", "dataDir": "./data",
    "baseDigest": "sha256:…", "decompositionDigest": "sha256:…", "objective": "Reinforce",
    "train": {"path": "train.jsonl", "format": "GSM8K"},
    "validation": {"path": "validation.jsonl", "format": "GSM8K"}, "reward": "Numeric",
    "hyperparameters": {"iterations": 40, "batchSize": 64, "learningRate": 0.01}}
  Hyperparameters left out have the paper's values; "dtype": "BF16" trains about
  twice as fast as f32 where the processor multiplies bfloat16, and rounds. Objective
  Evolution needs "sigma", such as 0.2, and no gradient, so that "dtype" may be Int8.`,
	}, "TrainSpec", "training", func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) { return runTrain(ctx, j, p) })
}

func runTrain(ctx context.Context, j *specJob, p *jobs.Progress) (contract.Termination, error) {
	// Fields that the specification leaves out keep the paper's values.
	spec, err := jobs.LoadSpecOver(contract.TrainSpec{
		Objective: contract.ObjectiveReinforce, Hyperparameters: contract.DefaultHyper(),
	}, j.specFile, j.env.Getenv)
	if err != nil {
		return contract.Termination{}, err
	}
	return j.computing(ctx, spec.Backend, func(be backend.Backend, programs judge.Runner) (contract.Termination, error) {
		jobs.Logger(ctx).Info("Training started", "name", spec.Name, "skill", spec.Skill, "runID", spec.RunID, "backend", be.Name())
		return train.Run(ctx, spec, train.Options{
			Backend: be, Progress: p, Log: jobs.Logger(ctx), Programs: programs,
		})
	})
}
