package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/server"
)

// diagnosis is the result of `t2 doctor --json`.
type diagnosis struct {
	Backend string         `json:"backend"`
	Facts   []backend.Fact `json:"facts"`
	Model   *modelFit      `json:"model,omitempty"`
}

// modelFit says whether a model fits the device.
type modelFit struct {
	Path        string          `json:"path"`
	DType       string          `json:"dtype"`
	Activations string          `json:"activations"`
	KV          string          `json:"kv"`
	CacheTokens int             `json:"cacheTokens"`
	MaxBatch    int             `json:"maxBatch"`
	Needs       model.Footprint `json:"needsBytes"`
	// Budgets are those of what experts and requests' bodies take, and Process and Swap are
	// what the process and making a mixture do.
	Experts int64 `json:"expertBytes"`
	Bodies  int64 `json:"bodyBytes"`
	Process int64 `json:"processBytes"`
	Swap    int64 `json:"swapBytes"`
	// Loading is what reading the model takes for a while, before most others.
	Loading int64 `json:"loadingBytes"`
	// OneMerged is one mixture merged, and AllUnmerged the factors of all.
	OneMerged   int64  `json:"oneMergedBytes"`
	AllUnmerged int64  `json:"allUnmergedBytes"`
	Limit       int64  `json:"limitBytes"` // 0: not known.
	Source      string `json:"limitSource"`
	Merged      int    `json:"fitsMerged"` // Mixtures.
	Unmerged    bool   `json:"fitsUnmerged"`
	Fits        bool   `json:"fits"`
	Reason      string `json:"reason,omitempty"`
}

// errDoesNotFit makes `t2 doctor` end with status 1 after it has printed.
var errDoesNotFit = errors.New("the model does not fit the device")

// newDoctorCommand returns `t2 doctor`.
func newDoctorCommand(env *Env) *cobra.Command {
	var f modelFlags
	var context, batch int
	var cache, memory host.Size
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what computes here, and whether a model fits it, before anything is loaded",
		Example: `  t2 doctor
  t2-cuda doctor --model ./model --dtype bf16 --context-length 8192 --max-batch 16`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) (err error) {
			be, err := f.compute.openAsked()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, be.Close()) }()
			d := diagnosis{Backend: be.Name(), Facts: backend.Facts(be)}
			if f.model != "" {
				if d.Model, err = fitOf(&f, be, memory, engine.Wish{ContextLength: context, MaxBatch: batch, CacheBytes: int64(cache)}); err != nil {
					return err
				}
			}
			if asJSON {
				err = env.PrintJSON(d)
			} else {
				err = d.print(env.Stdout)
			}
			if err == nil && d.Model != nil && !d.Model.Fits {
				err = errDoesNotFit
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.model, "model", "", "folder of a model, to say whether it fits")
	flags.IntVar(&context, "context-length", 0, "tokens of a prompt and its answer; 0 means what the model was made for")
	flags.IntVar(&batch, "max-batch", 0, "sequences that are computed together; 0 means 16")
	flags.Var(&cache, "kv-cache", "what the cache of keys and values may take, a `SIZE` such as 4Gi; 0 means what t2 serve gives it")
	registerMemory(flags, &memory)
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	f.registerCompute(flags)
	f.compute.registerSolver(flags)
	return cmd
}

// registerMemory defines the flag that says how much memory there is.
func registerMemory(flags *pflag.FlagSet, memory *host.Size) {
	flags.Var(memory, "memory", "what the process may have, a `SIZE` such as 16Gi; 0 means its container's limit, or three quarters of what the machine has without one")
}

// fitOf plans as t2 serve does, for experts of all projections.
func fitOf(f *modelFlags, be backend.Backend, memory host.Size, asked engine.Wish) (*modelFit, error) {
	if asked.ContextLength < 0 || asked.MaxBatch < 0 {
		return nil, usagef("--context-length %d and --max-batch %d must not be negative", asked.ContextLength, asked.MaxBatch)
	}
	storage, err := f.storage(be)
	if err != nil {
		return nil, err
	}
	ck, err := checkpoint.OpenDir(f.model)
	if err != nil {
		return nil, err
	}
	w := server.Wish(ck.Config(), asked.ContextLength)
	w.DType, w.Storage, w.MaxBatch, w.CacheBytes, w.Experts = f.dtype, storage, asked.MaxBatch, asked.CacheBytes, true
	w.Memory = engine.Memory{Host: server.MemoryLimit(int64(memory)), Device: be.Memory().Free}
	plan := engine.PlanOf(ck.Config(), w)
	if err := ck.Close(); err != nil {
		return nil, err
	}
	fit := &modelFit{
		Path: f.model, DType: f.dtype.String(), Activations: storage.Activations.String(), KV: storage.Cache.String(), CacheTokens: plan.CacheTokens, MaxBatch: plan.MaxBatch,
		Needs: plan.Footprint, Experts: plan.Experts, Bodies: plan.Bodies, Process: plan.Process, Swap: plan.Swap, Loading: plan.Loading, OneMerged: plan.Merged, AllUnmerged: plan.Unmerged,
		Fits: plan.Fits(), Merged: plan.MergedFit(), Unmerged: plan.UnmergedFits(),
	}
	fit.Limit, fit.Source = plan.Limit()
	if err := plan.Err(); err != nil {
		fit.Fits, fit.Reason = false, err.Error()
	}
	return fit, nil
}

func (d diagnosis) print(w io.Writer) error {
	var errs []error
	line := func(name, format string, args ...any) {
		_, err := fmt.Fprintf(w, "%-14s %s\n", name, fmt.Sprintf(format, args...))
		errs = append(errs, err)
	}
	line("Backend", "%s", d.Backend)
	for _, f := range d.Facts {
		line(f.Name, "%s", f.Value)
	}
	if m := d.Model; m != nil {
		size := host.SizeText
		line("Model", "%s as %s, activations as %s, a cache of %d tokens as %s, batches of %d", m.Path, m.DType, m.Activations, m.CacheTokens, m.KV, m.MaxBatch)
		line("It takes", "%s: weights %s, cache %s, a step %s", size(m.Needs.Total()), size(m.Needs.Weights), size(m.Needs.Cache), size(m.Needs.Activations))
		line("Beside it", "the process %s, requests' bodies %s, making a mixture %s; before these two, reading the model %s", size(m.Process), size(m.Bodies), size(m.Swap), size(m.Loading))
		line("Experts", "one mixture merged %s, all unmerged %s", size(m.OneMerged), size(m.AllUnmerged))
		switch {
		case m.Limit == 0:
			line("Fits", "not known: nothing says how much memory there is")
		case !m.Fits:
			line("Fits", "no: %s", m.Reason)
		default:
			forms := "not unmerged"
			if m.Unmerged {
				forms = "or all unmerged"
			}
			line("Fits", "in %s (%s), with %s for experts: %d mixtures merged, %s", size(m.Limit), m.Source, size(m.Experts), m.Merged, forms)
		}
	}
	return errors.Join(errs...)
}
