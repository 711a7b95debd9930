package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/source"
)

// newImportCommand returns `t2 import`.
func newImportCommand(env *Env) *cobra.Command {
	var specFile string
	var spec contract.ImportSpec
	var signed verifyFlags
	cmd := &cobra.Command{
		Use:   "import [SOURCE]",
		Short: "Bring an expert vector to a data folder, verified",
		Long: `Import copies an expert to DATA/experts/sha256-… after checking that it has the
digest that is asked for and scales the decomposition that is there.

SOURCE is an expert's folder, an archive of one, an expert.safetensors file, or
where any of them is: an http(s) address, hf://ORG/NAME[@REVISION][/PATH],
s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY:TAG.

` + credentialsHelp + `

It may also be what the paper's reference implementation saves of an expert or
of a few-shot search (learnable_params.pt, policy_params.pt). Nothing in such a
file is executed; its parameters become an expert of the decomposition, and the
digest is the file's SHA-256.`,
		Example: `  t2 import ./math.safetensors --data-dir ./data --digest sha256:… --decomposition-digest sha256:…
  t2 import ./policy_params.pt --skill math --data-dir ./data --digest sha256:… --decomposition-digest sha256:…`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if jobs.HasSpec(specFile, env.Getenv) {
				if len(args) > 0 {
					return usagef("give either SOURCE or a specification")
				}
				if err := refuseBeside(cmd, "data-dir", "digest", "skill", "decomposition-digest", "base-digest", flagCosignKey, flagModelSigningKey); err != nil {
					return err
				}
			} else {
				if len(args) == 0 || spec.DataDir == "" || spec.Digest == "" || spec.DecompositionDigest == "" {
					return usagef("SOURCE, --data-dir, --digest and --decomposition-digest are needed")
				}
				var err error
				if spec.Source, err = source.Parse(args[0], env.Getenv); err != nil {
					return &UsageError{Err: err}
				}
				if spec.Verify, err = signed.verification(); err != nil {
					return err
				}
			}
			return jobs.Run(cmd.Context(), env.JobOptions("import", specFile), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
				if jobs.HasSpec(specFile, env.Getenv) {
					var err error
					if spec, err = jobs.LoadSpec[contract.ImportSpec](specFile, env.Getenv); err != nil {
						return contract.Termination{}, err
					}
				}
				return importExpert(ctx, env, p, spec)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&specFile, "spec", "", "read the specification (JSON) from `FILE`")
	flags.StringVar(&spec.DataDir, "data-dir", "", "`DIR` that holds models, decompositions and experts")
	flags.StringVar(&spec.Digest, "digest", "", "what the expert's digest, or its file's SHA-256, must be (`sha256:…`)")
	flags.StringVar(&spec.Skill, "skill", "", "what the expert is good at, if its file does not say")
	flags.StringVar(&spec.DecompositionDigest, "decomposition-digest", "", "digest of the decomposition it scales (`sha256:…`)")
	signed.register(flags)
	flags.StringVar(&spec.BaseDigest, "base-digest", "", "digest of the base model, checked if given (`sha256:…`)")
	return cmd
}

func importExpert(ctx context.Context, env *Env, p *jobs.Progress, spec contract.ImportSpec) (contract.Termination, error) {
	p.Phase("Fetching", 0, 0)
	m, verified, err := source.ImportExpert(ctx, spec, sourceOptions(env, p, spec.Source))
	if err != nil {
		return contract.Termination{}, err
	}
	jobs.Logger(ctx).Info("Imported expert", "digest", m.Digest, "skill", m.Skill)
	return contract.Termination{Expert: &contract.ExpertResult{
		Digest: m.Digest, SizeBytes: m.SizeBytes, BaseDigest: m.BaseDigest, DecompositionDigest: m.DecompositionDigest,
		Pass1Digest: m.Pass1Digest, Activation: m.Activation, Verified: verified,
	}}, nil
}
