package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/source"
)

// newFetchCommand returns `t2 fetch`.
func newFetchCommand(env *Env) *cobra.Command {
	var specFile, fetched string
	var spec contract.FetchSpec
	var signed verifyFlags
	cmd := &cobra.Command{
		Use:   "fetch [SOURCE]",
		Short: "Bring a model to a data folder, verified",
		Long: `Fetch copies a model in Hugging Face layout to DATA/models/sha256-…

SOURCE is a folder, a .tar, .tar.gz or .tgz of one, or where either is:
  http(s)://…                       a server; a folder's files are asked for by name
  hf://ORG/NAME[@REVISION][/PATH]   a Hugging Face hub
  s3://BUCKET/PREFIX                a bucket
  oci://REGISTRY/REPOSITORY:TAG     a registry: an artifact of ORAS or ModelPack, or an image

` + credentialsHelp + `

What arrives is opened and checked before it becomes visible: config, tensor
headers, tokenizer, and that they fit together. With --digest it must be exactly
what is asked for, and is not fetched again if it is there.`,
		Example: `  t2 fetch ./Llama-3.2-1B-Instruct --data-dir ./data
  t2 fetch hf://HuggingFaceTB/SmolLM2-135M-Instruct --data-dir ./data
  t2 fetch https://models.example.com/demo.tar.gz --data-dir ./data --digest sha256:…`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if jobs.HasSpec(specFile, env.Getenv) {
				if len(args) > 0 {
					return usagef("give either SOURCE or a specification")
				}
				if err := refuseBeside(cmd, "data-dir", "digest", flagCosignKey, flagModelSigningKey); err != nil {
					return err
				}
			} else {
				if len(args) == 0 || spec.DataDir == "" {
					return usagef("SOURCE and --data-dir are needed")
				}
				var err error
				if spec.Source, err = source.Parse(args[0], env.Getenv); err != nil {
					return &UsageError{Err: err}
				}
				if spec.Verify, err = signed.verification(); err != nil {
					return err
				}
			}
			return jobs.Run(cmd.Context(), env.JobOptions("fetch", specFile), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
				if jobs.HasSpec(specFile, env.Getenv) {
					var err error
					if spec, err = jobs.LoadSpec[contract.FetchSpec](specFile, env.Getenv); err != nil {
						return contract.Termination{}, err
					}
				}
				return fetch(ctx, env, p, spec, handover(fetched, jobs.Managed(specFile, env.Getenv)))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&specFile, "spec", "", "read the specification (JSON) from `FILE`")
	flags.StringVar(&spec.DataDir, "data-dir", "", "`DIR` that holds models, decompositions and experts")
	flags.StringVar(&spec.Digest, "digest", "", "what the model's digest must be (`sha256:…`)")
	signed.register(flags)
	flags.StringVar(&fetched, "fetched", "", "write the result as JSON to `FILE` for t2 decompose --fetched")
	return cmd
}

// sourceOptions are the credentials of the environment, for a hub also its token under the
// name that its other clients know: nobody else is to see that.
func sourceOptions(env *Env, p *jobs.Progress, from contract.Source) source.Options {
	o := source.FromEnvironment(env.Getenv)
	if o.Token == "" && from.HuggingFace != nil {
		o.Token = env.Getenv("HF_TOKEN")
	}
	o.Progress = byteProgress(p, "Fetching")
	return o
}

// credentialsHelp says in the help of commands where credentials come from.
const credentialsHelp = `Credentials come from the environment: a bearer token of a server or a hub from
` + contract.EnvSourceToken + `, of a hub also from HF_TOKEN, keys of S3 from ` + contract.EnvS3AccessKey + ` and
` + contract.EnvS3SecretKey + `, those of a registry from Docker's configuration.
HF_ENDPOINT, AWS_ENDPOINT_URL and AWS_REGION say where a hub and a bucket are.`

// handover returns where fetch leaves its result for decompose: what a flag
// says or, in a pod with a scratch volume, the agreed place.
func handover(flag string, managed bool) string {
	if flag != "" || !managed {
		return flag
	}
	if _, err := os.Stat(contract.MountScratch); err != nil {
		return ""
	}
	return filepath.Join(contract.MountScratch, contract.FetchedFile)
}

func fetch(ctx context.Context, env *Env, p *jobs.Progress, spec contract.FetchSpec, handover string) (contract.Termination, error) {
	p.Phase("Fetching", 0, 0)
	m, err := source.FetchModel(ctx, spec, sourceOptions(env, p, spec.Source))
	if err != nil {
		return contract.Termination{}, err
	}
	result := contract.Termination{Model: &contract.ModelResult{
		Digest: m.Digest, SizeBytes: m.SizeBytes, FileCount: len(m.Files), Architecture: m.Architecture, Revision: m.Revision, Verified: m.Verified,
	}}
	jobs.Logger(ctx).Info("Fetched model", "digest", m.Digest, "bytes", m.SizeBytes, "files", len(m.Files), "revision", m.Revision)
	if handover != "" {
		if err := artifact.WriteJSONAtomic(handover, result); err != nil {
			return contract.Termination{}, fmt.Errorf("handing the result over: %w", err)
		}
	}
	return result, nil
}

// byteProgress reports bytes, and begins the phase anew when more turns out to
// be expected.
func byteProgress(p *jobs.Progress, phase string) func(done, total int64) {
	expected := int64(0)
	return func(done, total int64) {
		if total != expected {
			expected = total
			p.Phase(phase, done, total)
		}
		p.Done(done)
	}
}
