package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/collect"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
)

func newCollectCommand(env *Env) *cobra.Command {
	var specFile string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "collect --spec FILE",
		Short: "Remove from a volume what nothing refers to",
		Long: `Removes the artifacts and runs of a data folder that a JSON specification does not
name and that are older than its grace period, and says what the folder holds then.
Only what has the place and the name that t2 gives is ever removed. The operator
runs it on the volumes that it has made.`,
		Example: `  t2 collect --spec keep.json --dry-run

  keep.json: {"dataDir": "./data", "time": "2026-11-30T12:00:00Z", "graceSeconds": 3600,
    "keep": ["0123456789abcdef"]}
  keep has the first 16 digits of digests, and the runIDs, that are still wanted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !jobs.HasSpec(specFile, env.Getenv) {
				return usagef("--spec is missing: it names the JSON file that says what is referred to (see t2 %s --help)", cmd.Name())
			}
			return jobs.Run(cmd.Context(), env.JobOptions("collect", specFile), func(ctx context.Context, _ *jobs.Progress) (contract.Termination, error) {
				spec, err := jobs.LoadSpec[contract.CollectSpec](specFile, env.Getenv)
				if err != nil {
					return contract.Termination{}, err
				}
				spec.DryRun = spec.DryRun || dryRun
				result, err := collect.Run(ctx, spec)
				if err != nil {
					return contract.Termination{}, err
				}
				return contract.Termination{Collect: &result}, nil
			})
		},
	}
	cmd.Flags().StringVar(&specFile, "spec", "", "JSON specification (contract.CollectSpec); without it, the environment variable "+contract.EnvSpec)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "remove nothing, and say what would be")
	return cmd
}
