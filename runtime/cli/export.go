package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/export"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// weightSuffix follows a projection's name in a checkpoint, biasSuffix that of its bias.
const (
	weightSuffix = ".weight"
	biasSuffix   = ".bias"
)

type exportFlags struct {
	modelFlags
	adapter    string
	peft       bool
	out        string
	shardBytes int64
}

// newExportCommand returns `t2 export`.
func newExportCommand(env *Env) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export --model DIR --expert EXPERT --out DIR",
		Short: "Write a composed model as a plain Hugging Face checkpoint",
		Long: `Export composes experts into the weights of their base model, W' = U·diag(σ⊙z)·Vᵀ,
or merges an adapter in PEFT's format into them, and writes the result as a
checkpoint that vLLM, llama.cpp and transformers read: the same tensors in the
same number formats, configuration and tokenizer copied. What went into it is in
the metadata of the weights.

The logits are those that serving the same experts merged gives, within what the
base model's number format rounds.`,
		Example: `  t2 export --model ./model --expert ./math.safetensors --decomposition ./dec --out ./math-model
  t2 export --model ./model --expert ./math:0.7 --expert ./code:0.3 --out ./mixed-model
  t2 export --model ./model --adapter ./lora --out ./lora-model`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.model == "" || f.out == "" || (len(f.experts) == 0) == (f.adapter == "") {
				return usagef("--model, --out and either --expert or --adapter are needed")
			}
			if f.shardBytes < 1 {
				return usagef("--shard-bytes %d: a file holds at least one byte", f.shardBytes)
			}
			return jobs.Run(cmd.Context(), env.JobOptions("export", ""), f.export)
		},
	}
	flags := cmd.Flags()
	f.registerMixture(flags)
	f.compute.register(flags)
	flags.StringVar(&f.adapter, "adapter", "", "merge the LoRA, DoRA or IA3 adapter in `DIR`, in PEFT's format, instead of experts")
	flags.BoolVar(&f.peft, "peft", false, "write the one expert, of LoRA, DoRA or IA3, as an adapter in PEFT's format instead of a model")
	flags.StringVar(&f.out, "out", "", "write the model to `DIR`, which must not be there yet (required)")
	flags.Int64Var(&f.shardBytes, "shard-bytes", export.DefaultShardBytes, "split weights that are larger than this into files of this size")
	return cmd
}

// exportAdapter writes the one expert in PEFT's format.
func (f *exportFlags) exportAdapter() error {
	mixture, err := f.whole()
	if err != nil {
		return err
	}
	if len(mixture) != 1 || f.adapter != "" {
		return usagef("--peft writes one --expert, and there are %d: mixtures have no form in PEFT's format", len(mixture))
	}
	a, err := mixture[0].Adapter.PEFT(f.model)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.out), artifact.DirMode); err != nil {
		return fmt.Errorf("exporting to %s: %w", f.out, err)
	}
	if err := os.Mkdir(f.out, artifact.DirMode); err != nil {
		return failure.Permanent(contract.ReasonUsage, fmt.Errorf("exporting to %s: %w", f.out, err))
	}
	return peft.Write(f.out, a)
}

func (f *exportFlags) export(ctx context.Context, p *jobs.Progress) (result contract.Termination, err error) {
	if f.peft {
		return result, f.exportAdapter()
	}
	p.Phase("Verifying", 0, 0)
	base, err := checkpoint.OpenDir(f.model)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	be, err := f.compute.openAsked()
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	p.Device(be.Name())
	var replace map[string]export.Compute
	var note map[string]string
	if f.adapter != "" {
		replace, note, err = f.merged(ctx, base)
	} else {
		replace, note, err = f.composed(ctx, be, base)
	}
	if err != nil {
		return result, err
	}
	err = export.Write(ctx, base, f.out, replace, export.Options{ShardBytes: f.shardBytes, Note: note, Progress: byteProgress(p, "Exporting")})
	if err != nil {
		return result, err
	}
	p.Phase("Verifying", 0, 0)
	m, err := checkpoint.BuildManifest(f.out)
	if err != nil {
		return result, err
	}
	result.Model = &contract.ModelResult{Digest: m.Digest, SizeBytes: m.SizeBytes, FileCount: len(m.Files), Architecture: m.Architecture}
	jobs.Logger(ctx).Info("Exported model", "digest", m.Digest, "matrices", len(replace), "out", f.out)
	return result, nil
}

// whole reads the experts of a mixture that acts on prompts and answers alike: what else
// computes with a model, or an adapter, knows no other.
func (f *exportFlags) whole() ([]placed, error) {
	mixture, err := f.mixture()
	if err != nil {
		return nil, err
	}
	onAnswers, err := expert.OnAnswers(weighted(mixture))
	if err == nil && onAnswers {
		err = fmt.Errorf("expert %s acts on answers alone, and an exported one would act on prompts, too: train one with the activation %s",
			mixture[0].Adapter.Manifest.Digest, contract.ActivationPrompt)
	}
	if err != nil {
		return nil, &UsageError{Err: err}
	}
	return mixture, nil
}

// ingredient is what the note says of an expert.
type ingredient struct {
	Digest string  `json:"digest"`
	Skill  string  `json:"skill,omitempty"`
	Weight float64 `json:"weight"`
}

// composed are the matrices that the experts adapt.
func (f *exportFlags) composed(ctx context.Context, be backend.Backend, base *checkpoint.Checkpoint) (map[string]export.Compute, map[string]string, error) {
	mixture, err := f.whole()
	if err != nil {
		return nil, nil, err
	}
	d, mixed, err := f.mix(ctx, mixture)
	if err != nil {
		return nil, nil, err
	}
	replace := make(map[string]export.Compute, len(mixed))
	for name, one := range mixed {
		replace[name+weightSuffix] = func(ctx context.Context) (*tensor.Tensor, error) {
			return one.Matrix(ctx, be, d, name, func() (*tensor.Tensor, error) { return base.Tensor(name + weightSuffix) })
		}
		if one.Bias != nil && base.Has(name+biasSuffix) {
			replace[name+biasSuffix] = scaledBias(base, name, one.ScaleBias)
		}
	}
	var made []ingredient
	for _, w := range mixture {
		made = append(made, ingredient{Digest: w.Adapter.Manifest.Digest, Skill: w.Adapter.Manifest.Skill, Weight: w.Alpha})
	}
	text, err := json.Marshal(made)
	if err != nil {
		return nil, nil, fmt.Errorf("noting the experts: %w", err)
	}
	return replace, map[string]string{"t2.base": d.Manifest().BaseDigest, "t2.decomposition": d.Manifest().Digest, "t2.experts": string(text)}, nil
}

// merged are the matrices, and biases, that an adapter changes.
func (f *exportFlags) merged(ctx context.Context, base *checkpoint.Checkpoint) (map[string]export.Compute, map[string]string, error) {
	a, err := peft.Read(ctx, f.adapter)
	if err != nil {
		return nil, nil, err
	}
	if err := a.Fits(projections(base)); err != nil {
		return nil, nil, err
	}
	replace := map[string]export.Compute{}
	for name, m := range a.Matrices {
		replace[name+weightSuffix] = func(context.Context) (*tensor.Tensor, error) {
			w, err := base.Tensor(name + weightSuffix)
			if err != nil {
				return nil, err
			}
			return w, m.Merge(w)
		}
		if m.ScalesBias() && base.Has(name+biasSuffix) {
			replace[name+biasSuffix] = scaledBias(base, name, m.MergeBias)
		}
	}
	return replace, map[string]string{"t2.adapter": a.Config.Type()}, nil
}

// scaledBias computes the bias of a projection, which scale scales.
func scaledBias(base *checkpoint.Checkpoint, name string, scale func([]float32) error) export.Compute {
	return func(context.Context) (*tensor.Tensor, error) {
		b, err := base.Tensor(name + biasSuffix)
		if err != nil {
			return nil, err
		}
		return b, scale(b.Data)
	}
}

// projections says which shapes [out, in] the projections of a model have.
func projections(base *checkpoint.Checkpoint) func(name string) (out, in int, ok bool) {
	return func(name string) (out, in int, ok bool) {
		info, ok := base.Info(name + weightSuffix)
		if !ok || len(info.Shape) != 2 || !strings.HasPrefix(name, "model.layers.") || !slices.Contains(expert.Modules(), expert.ModuleOf(name)) {
			return 0, 0, false
		}
		return info.Shape[0], info.Shape[1], true
	}
}
