package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/source"
)

// maxReferrer bounds the file of --referrer, in bytes.
const maxReferrer = 64 << 20

// newPublishCommand returns `t2 publish`.
func newPublishCommand(env *Env) *cobra.Command {
	var specFile, dataDir, referrer string
	cmd := &cobra.Command{
		Use:   "publish [EXPERT oci://REGISTRY/REPOSITORY:TAG]",
		Short: "Push an expert to a registry",
		Long: `Publish pushes an expert to an OCI registry, after checking its files, as an artifact
that t2 import and ExpertVectors take as a source, and that a container runtime
can mount as a volume. The same expert has the same digest whoever pushes it; what
the registry has already is not pushed again.

Beside it goes an evaluation that refers to it (OCI subject), of artifact type
` + source.EvaluationArtifactType + `: the JSON of --referrer
or, without it, the validation scores of the training that made the expert.

EXPERT is the expert's folder or, with --data-dir, its digest. Credentials are those
of Docker's configuration, or the content of ` + contract.EnvDockerConfig + `.
oci+http:// speaks with a registry without TLS.`,
		Example: `  t2 publish ./data/experts/sha256-… oci://registry.example.com/experts/math:v1
  t2 publish sha256:… oci://registry.example.com/experts/math:v1 --data-dir ./data`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if jobs.HasSpec(specFile, env.Getenv) {
				if len(args) > 0 {
					return usagef("give either EXPERT and where it goes or a specification")
				}
				if err := refuseBeside(cmd, "data-dir"); err != nil {
					return err
				}
				return jobs.Run(cmd.Context(), env.JobOptions("publish", specFile), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
					spec, err := jobs.LoadSpec[contract.PublishSpec](specFile, env.Getenv)
					if err != nil {
						return contract.Termination{}, err
					}
					dir, err := contract.ArtifactDir(spec.DataDir, contract.DirExperts, spec.Digest)
					if err != nil {
						return contract.Termination{}, failure.Permanent(contract.ReasonUsage, err)
					}
					return publish(ctx, env, p, dir, spec.To, referrer)
				})
			}
			dir, to, err := publication(env, args, dataDir)
			if err != nil {
				return err
			}
			return jobs.Run(cmd.Context(), env.JobOptions("publish", ""), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
				return publish(ctx, env, p, dir, to, referrer)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&specFile, "spec", "", "read the specification (JSON) from `FILE`")
	flags.StringVar(&dataDir, "data-dir", "", "`DIR` that holds models, decompositions and experts")
	flags.StringVar(&referrer, "referrer", "", "push the JSON in `FILE` as the expert's evaluation")
	return cmd
}

// publication reads what arguments say: an expert's folder, and where it goes.
func publication(env *Env, args []string, dataDir string) (string, contract.OCISource, error) {
	var none contract.OCISource
	if len(args) != 2 {
		return "", none, usagef("EXPERT and oci://REGISTRY/REPOSITORY:TAG are needed")
	}
	to, err := source.Parse(args[1], env.Getenv)
	if err != nil {
		return "", none, &UsageError{Err: err}
	}
	if to.OCI == nil {
		return "", none, usagef("%s is no place in a registry: it must be oci://REGISTRY/REPOSITORY:TAG", args[1])
	}
	dir := args[0]
	if contract.ValidDigest(dir) {
		if dataDir == "" {
			return "", none, usagef("EXPERT is a digest: --data-dir says where it is")
		}
		if dir, err = contract.ArtifactDir(dataDir, contract.DirExperts, dir); err != nil {
			return "", none, &UsageError{Err: err}
		}
	}
	return dir, *to.OCI, nil
}

func publish(ctx context.Context, env *Env, p *jobs.Progress, dir string, to contract.OCISource, referrer string) (contract.Termination, error) {
	const phase = "Publishing"
	p.Phase(phase, 0, 0)
	var evaluation []byte
	if referrer != "" {
		var err error
		if evaluation, err = artifact.ReadBounded(referrer, maxReferrer); err != nil {
			return contract.Termination{}, failure.Permanent(contract.ReasonUsage, fmt.Errorf("reading --referrer: %w", err))
		}
	}
	o := source.FromEnvironment(env.Getenv)
	o.Progress = byteProgress(p, phase)
	published, err := source.PublishExpert(ctx, dir, to, evaluation, o)
	if err != nil {
		return contract.Termination{}, err
	}
	m := published.Expert
	jobs.Logger(ctx).Info("Published expert", "reference", to.Reference, "artifact", published.Digest, "evaluation", published.Evaluation,
		"digest", m.Digest, "skill", m.Skill)
	return contract.Termination{Expert: &contract.ExpertResult{
		Digest: m.Digest, SizeBytes: m.SizeBytes, BaseDigest: m.BaseDigest, DecompositionDigest: m.DecompositionDigest,
		Pass1Digest: m.Pass1Digest, Activation: m.Activation, Artifact: published.Digest, Evaluation: published.Evaluation,
	}}, nil
}
