package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/source"
)

// newPublishCommand returns `t2 publish`.
func newPublishCommand(env *Env) *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "publish EXPERT oci://REGISTRY/REPOSITORY:TAG",
		Short: "Push an expert to a registry",
		Long: `Publish pushes an expert to an OCI registry, after checking its files, as an artifact
that t2 import and ExpertVectors take as a source, and that a container runtime
can mount as a volume. The same expert has the same digest whoever pushes it; what
the registry has already is not pushed again.

EXPERT is the expert's folder or, with --data-dir, its digest. Credentials are those
of Docker's configuration, or the content of ` + contract.EnvDockerConfig + `.
oci+http:// speaks with a registry without TLS.`,
		Example: `  t2 publish ./data/experts/sha256-… oci://registry.example.com/experts/math:v1
  t2 publish sha256:… oci://registry.example.com/experts/math:v1 --data-dir ./data`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := source.Parse(args[1], env.Getenv)
			if err != nil {
				return &UsageError{Err: err}
			}
			if to.OCI == nil {
				return usagef("%s is no place in a registry: it must be oci://REGISTRY/REPOSITORY:TAG", args[1])
			}
			dir := args[0]
			if contract.ValidDigest(dir) {
				if dataDir == "" {
					return usagef("EXPERT is a digest: --data-dir says where it is")
				}
				if dir, err = contract.ArtifactDir(dataDir, contract.DirExperts, dir); err != nil {
					return &UsageError{Err: err}
				}
			}
			return jobs.Run(cmd.Context(), env.JobOptions("publish", ""), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
				return publish(ctx, env, p, dir, *to.OCI)
			})
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "`DIR` that holds models, decompositions and experts")
	return cmd
}

func publish(ctx context.Context, env *Env, p *jobs.Progress, dir string, to contract.OCISource) (contract.Termination, error) {
	const phase = "Publishing"
	p.Phase(phase, 0, 0)
	o := source.FromEnvironment(env.Getenv)
	o.Progress = byteProgress(p, phase)
	published, err := source.PublishExpert(ctx, dir, to, o)
	if err != nil {
		return contract.Termination{}, err
	}
	m := published.Expert
	jobs.Logger(ctx).Info("Published expert", "reference", to.Reference, "artifact", published.Digest, "digest", m.Digest, "skill", m.Skill)
	return contract.Termination{Expert: &contract.ExpertResult{
		Digest: m.Digest, SizeBytes: m.SizeBytes, BaseDigest: m.BaseDigest, DecompositionDigest: m.DecompositionDigest,
		Pass1Digest: m.Pass1Digest, Activation: m.Activation, Artifact: published.Digest,
	}}, nil
}
