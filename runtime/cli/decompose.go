package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
)

// newDecomposeCommand returns `t2 decompose`.
func newDecomposeCommand(env *Env) *cobra.Command {
	var specFile, fetched, model string
	var spec contract.DecomposeSpec
	var compute computeFlags
	cmd := &cobra.Command{
		Use:   "decompose",
		Short: "Factor a model's weight matrices, W = U·diag(σ)·Vᵀ",
		Long: `Decompose computes the full singular value decomposition of the chosen
projections of every layer and publishes the factors in
DATA/decompositions/sha256-…

A backend that decomposes does so; for others the processor does, with one
thread a matrix, or several on a large one.

It can be interrupted: matrices that are done stay done. It reports the largest
relative error ‖W − U·diag(σ)·Vᵀ‖ / ‖W‖ of the factors as they are stored.`,
		Example: `  t2 decompose --model ./model --data-dir ./data
  t2 decompose --model ./model --data-dir ./data --modules gate_proj,up_proj,down_proj --dtype BF16`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkDecompose(cmd, jobs.HasSpec(specFile, env.Getenv)); err != nil {
				return err
			}
			return jobs.Run(cmd.Context(), env.JobOptions("decompose", specFile), func(ctx context.Context, p *jobs.Progress) (contract.Termination, error) {
				if jobs.HasSpec(specFile, env.Getenv) {
					var err error
					if spec, err = jobs.LoadSpec[contract.DecomposeSpec](specFile, env.Getenv); err != nil {
						return contract.Termination{}, err
					}
					spec.Backend = cmp.Or(spec.Backend, contract.BackendCPU)
				}
				return decompose(ctx, p, spec, compute, model, handover(fetched, jobs.Managed(specFile, env.Getenv)))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&specFile, "spec", "", "read the specification (JSON) from `FILE`")
	flags.StringVar(&model, "model", "", "model folder `DIR`")
	flags.StringVar(&spec.BaseDigest, "base-digest", "", "or the digest of a model in the data folder (`sha256:…`)")
	flags.StringVar(&spec.DataDir, "data-dir", "", "`DIR` that holds models, decompositions and experts")
	flags.StringSliceVar(&spec.Modules, "modules", expert.Modules(), "projections to factor")
	flags.StringVar(&spec.DType, "dtype", "F32", "how factors are stored: F32 or BF16")
	compute.registerBackend(flags)
	compute.registerSolver(flags)
	flags.StringVar(&fetched, "fetched", "", "take the model, and the part of the result about it, from `FILE` that t2 fetch wrote")
	return cmd
}

// checkDecompose checks that the flags say which model, once, or leave that to a specification.
func checkDecompose(cmd *cobra.Command, specified bool) error {
	given := cmd.Flags().Changed
	switch {
	case specified:
		return refuseBeside(cmd, "base-digest", "data-dir", "modules", "dtype")
	case !given("data-dir"):
		return usagef("--data-dir is missing: it is the folder that holds models, decompositions and experts")
	case given("model") && given("base-digest"), !given("model") && !given("base-digest") && !given("fetched"):
		return usagef("one of --model and --base-digest is needed, or what t2 fetch wrote by --fetched")
	}
	return nil
}

func decompose(ctx context.Context, p *jobs.Progress, spec contract.DecomposeSpec, compute computeFlags, model, handover string,
) (result contract.Termination, err error) {
	result, err = readFetched(handover)
	if err != nil {
		return result, err
	}
	if spec.BaseDigest == "" && model == "" {
		if result.Model == nil {
			return result, failure.Permanentf(contract.ReasonUsage, "no model is given: the specification has no baseDigest and no fetch has left a result")
		}
		spec.BaseDigest = result.Model.Digest
	}
	dir := model
	if dir == "" {
		if dir, err = contract.ArtifactDir(spec.DataDir, contract.DirModels, spec.BaseDigest); err != nil {
			return result, failure.Permanent(contract.ReasonUsage, err)
		}
		if dir, err = checkpoint.Locate(ctx, dir); err != nil {
			return result, err
		}
	} else {
		m, err := checkpoint.BuildManifest(dir)
		if err != nil {
			return result, err
		}
		spec.BaseDigest = m.Digest
	}
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		return result, err
	}
	defer func() { _ = ck.Close() }() // Nothing was written.
	be, err := compute.open(spec.Backend)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	p.Phase("Decomposing", 0, 0)
	begun := false
	on, _ := be.(backend.Decomposer) // Where it has none, the processor decomposes.
	m, err := expert.Decompose(ctx, ck, spec.DataDir, spec, on, func(done, total int) {
		if !begun {
			begun = true
			p.Device(be.Name())
			p.Phase("Decomposing", 0, int64(total))
		}
		p.Done(int64(done))
	})
	if err != nil {
		return result, err
	}
	jobs.Logger(ctx).Info("Decomposed model", "digest", m.Digest, "matrices", m.Matrices,
		"singularValues", m.SingularValues, "maxRelativeError", m.MaxRelativeError)
	m.Files = nil // A termination message is small.
	result.Decomposition = &m
	return result, nil
}

// readFetched reads what fetch left; an empty result if there is nothing.
func readFetched(path string) (contract.Termination, error) {
	var t contract.Termination
	if path == "" {
		return t, nil
	}
	b, err := artifact.ReadBounded(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("reading the result of fetch: %w", err)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("reading the result of fetch in %s: %w", filepath.Base(path), err)
	}
	return t, nil
}
