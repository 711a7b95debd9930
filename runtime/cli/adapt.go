package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/adapt/fewshot"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
)

func newAdaptCommand(env *Env) *cobra.Command {
	j := &specJob{env: env}
	return j.command(&cobra.Command{
		Use:   "adapt --spec FILE",
		Short: "Search the weights of experts by a handful of examples",
		Long: `Searches the weights with which experts are mixed (strategy FewShot) by 3 to 20
examples: the cross-entropy method, whose mixtures answer the examples in one
batch. The score is the share of right answers; the base, equal weights and each
expert alone are scored, too.

ctrl-C (or SIGTERM) ends the search with the generation before; running the same
command again goes on from there and finds the same.

The reward UnitTests runs programs with this machine's python3, confined: no
files but its library, no network, no processes, bounded memory and time.`,
		Example: `  t2 adapt --spec assistant.json
  t2 adapt --spec assistant.json --json

  assistant.json: {"name": "assistant", "runID": "assistant-1", "dataDir": "./data",
    "baseDigest": "sha256:…", "decompositionDigest": "sha256:…",
    "experts": [{"name": "math", "digest": "sha256:…"}, {"name": "code", "digest": "sha256:…"}],
    "examples": {"path": "examples.jsonl", "format": "GSM8K", "limit": 10}, "reward": "Numeric",
    "search": {"generations": 10, "layerwise": false, "maxNewTokens": 256}}
  Settings left out have the values of the paper's light search.`,
	}, "AdaptSpec", "search", func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) { return runAdapt(ctx, j, p) })
}

func runAdapt(ctx context.Context, j *specJob, p *jobs.Progress) (contract.Termination, error) {
	spec, err := jobs.LoadSpecOver(contract.AdaptSpec{Search: contract.DefaultFewShot()}, j.specFile, j.env.Getenv)
	if err != nil {
		return contract.Termination{}, err
	}
	return j.computing(ctx, spec.Backend, func(be backend.Backend, programs judge.Runner) (contract.Termination, error) {
		jobs.Logger(ctx).Info("Search started", "name", spec.Name, "runID", spec.RunID, "experts", len(spec.Experts), "backend", be.Name())
		return fewshot.Run(ctx, spec, fewshot.Options{Backend: be, Progress: p, Log: jobs.Logger(ctx), Programs: programs})
	})
}
