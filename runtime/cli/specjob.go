package cli

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/judge"
)

// specJob is a subcommand that a JSON specification describes, that computes, and whose
// reward may run programs.
type specJob struct {
	env              *Env
	specFile, python string
	shared           string // Folder of weights.
	compute          computeFlags
}

// command completes a subcommand whose specification, of that type of package contract,
// describes that thing.
func (j *specJob) command(cmd *cobra.Command, specType, describes string, run func(context.Context, *jobs.Progress) (contract.Termination, error)) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !jobs.HasSpec(j.specFile, j.env.Getenv) {
			return usagef("--spec is missing: it names the JSON file that describes the %s (see t2 %s --help)", describes, cmd.Name())
		}
		return jobs.Run(cmd.Context(), j.env.JobOptions(cmd.Name(), j.specFile), run)
	}
	cmd.Flags().StringVar(&j.specFile, "spec", "", "JSON specification (contract."+specType+"); without it, the environment variable "+contract.EnvSpec)
	registerPython(cmd.Flags(), &j.python)
	j.compute.register(cmd.Flags())
	cmd.Flags().StringVar(&j.shared, contract.FlagSharedBase, "",
		"keep the base's weights and factors in memory that all processes share which compute with them and name the same `DIR`: "+
			"the first one writes them there, laid out for this processor, and each maps them; on a full or a read-only disk they stay this process's own")
	return cmd
}

// computing runs what needs the backend that a specification names and what runs programs.
func (j *specJob) computing(ctx context.Context, name string, run func(backend.Backend, judge.Runner) (contract.Termination, error)) (_ contract.Termination, err error) {
	programs, err := j.env.programs(j.python)
	if err != nil {
		return contract.Termination{}, err
	}
	be, err := j.compute.open(cmp.Or(name, contract.BackendCPU))
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	backend.LogFacts(jobs.Logger(ctx), be)
	defer j.collectOften()()
	j.share(ctx, be)
	return run(be, programs)
}

// share lets a backend share weights with other processes, where it was asked for.
func (j *specJob) share(ctx context.Context, be backend.Backend) {
	if j.shared == "" {
		return
	}
	log := jobs.Logger(ctx)
	sharer, ok := be.(backend.Sharer)
	if !ok {
		log.Warn("Weights were not shared with other processes: the backend keeps them on its device", "backend", be.Name())
		return
	}
	sharer.ShareWeights(j.shared, log)
}

// envGOGC is what Go's runtime reads its collector's percentage from.
const envGOGC = "GOGC"

// collectPercent is how much of what is in use may be added to a heap before it is
// collected. The heap of what computes has activations, which are gigabytes in few pieces
// without a pointer: to collect them takes next to nothing, and to wait until there are as
// many again, as Go does, may take as much memory as they do.
const collectPercent = 25

// collectOften lets the heap be collected so, unless the environment says otherwise; what is
// returned ends it.
func (j *specJob) collectOften() (end func()) {
	if j.env.Getenv(envGOGC) != "" {
		return func() {}
	}
	before := debug.SetGCPercent(collectPercent)
	return func() { debug.SetGCPercent(before) }
}
