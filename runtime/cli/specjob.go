package cli

import (
	"cmp"
	"context"
	"errors"

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
	return cmd
}

// computing runs what needs the backend that a specification names and what runs programs.
func (j *specJob) computing(name string, run func(backend.Backend, judge.Runner) (contract.Termination, error)) (_ contract.Termination, err error) {
	programs, err := j.env.programs(j.python)
	if err != nil {
		return contract.Termination{}, err
	}
	be, err := j.compute.open(cmp.Or(name, contract.BackendCPU))
	if err != nil {
		return contract.Termination{}, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	return run(be, programs)
}
