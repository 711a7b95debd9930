package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/probe"
)

func newProbeCommand(env *Env) *cobra.Command {
	j := &specJob{env: env}
	return j.command(&cobra.Command{
		Use:   "probe --spec FILE",
		Short: "Fit what tells from the base's state which skill a request wants",
		Long: `Fits a probe (strategy Probe): a linear map from the state behind the base's last
layer, after a prompt's last token, to a probability for each skill. The base reads
the training prompts of the skills once; the probe then follows in closed form. A
fifth of the prompts is held out, and its accuracy and calibration are told.

With the answers of an evaluation (t2 evaluate) it learns from who answered which question
right, too, if that sends more of them to somebody who is right than prompts alone do.`,
		Example: `  t2 probe --spec assistant.json
  t2 serve --model data/models/sha256-… --probe data/probes/sha256-… --strategy Probe --expert …

  assistant.json: {"name": "assistant", "dataDir": "./data", "baseDigest": "sha256:…", "sets": [
    {"skill": "math", "dataset": {"path": "math.jsonl", "format": "GSM8K"}},
    {"skill": "code", "dataset": {"path": "code.jsonl", "format": "MBPP"}}],
    "answers": {"id": "gate", "digest": "sha256:…", "experts": [{"name": "math", "skill": "math"}, {"name": "code", "skill": "code"}]}}`,
	}, "ProbeSpec", "probe", func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) { return runProbe(ctx, j, p) })
}

func runProbe(ctx context.Context, j *specJob, p *jobs.Progress) (contract.Termination, error) {
	spec, err := jobs.LoadSpecOver(contract.ProbeSpec{}, j.specFile, j.env.Getenv)
	if err != nil {
		return contract.Termination{}, err
	}
	return j.computing(ctx, spec.Backend, func(be backend.Backend, _ judge.Runner) (contract.Termination, error) {
		jobs.Logger(ctx).Info("Probe started", "name", spec.Name, "skills", len(spec.Sets), "backend", be.Name())
		return probe.Run(ctx, spec, probe.Options{Backend: be, Progress: p, Log: jobs.Logger(ctx)})
	})
}
