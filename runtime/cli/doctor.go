package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
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
	Free        int64           `json:"freeBytes"` // 0: not known.
	Fits        bool            `json:"fits"`
	Unmerged    bool            `json:"fitsUnmerged"`
	Reason      string          `json:"reason,omitempty"`
}

// errDoesNotFit makes `t2 doctor` end with status 1 after it has printed.
var errDoesNotFit = errors.New("the model does not fit the device")

// newDoctorCommand returns `t2 doctor`.
func newDoctorCommand(env *Env) *cobra.Command {
	var f modelFlags
	var context, batch int
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
			d := diagnosis{Backend: be.Name()}
			if described, ok := be.(backend.Describer); ok {
				d.Facts = described.Describe()
			}
			if f.model != "" {
				if d.Model, err = fitOf(&f, be, context, batch); err != nil {
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
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	f.registerCompute(flags)
	f.compute.registerSolver(flags)
	return cmd
}

func fitOf(f *modelFlags, be backend.Backend, context, batch int) (*modelFit, error) {
	if context < 0 || batch < 0 {
		return nil, usagef("--context-length %d and --max-batch %d must not be negative", context, batch)
	}
	storage, err := f.storage(be)
	if err != nil {
		return nil, err
	}
	ck, err := checkpoint.OpenDir(f.model)
	if err != nil {
		return nil, err
	}
	plan := engine.PlanOf(ck.Config(), f.dtype, storage, be.Memory().Free, context, batch, 0)
	if err := ck.Close(); err != nil {
		return nil, err
	}
	fit := &modelFit{
		Path: f.model, DType: f.dtype.String(), Activations: storage.Activations.String(), KV: storage.Cache.String(), CacheTokens: plan.CacheTokens, MaxBatch: plan.MaxBatch, Needs: plan.Footprint, Free: plan.Free,
		Fits: plan.Fits(), Unmerged: plan.FitsUnmerged(),
	}
	if err := plan.Err(); err != nil {
		fit.Reason = err.Error()
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
		size := engine.SizeText
		line("Model", "%s as %s, activations as %s, a cache of %d tokens as %s, batches of %d", m.Path, m.DType, m.Activations, m.CacheTokens, m.KV, m.MaxBatch)
		line("It takes", "%s: weights %s, cache %s, a step %s; unmerged experts %s more", size(m.Needs.Total()-m.Needs.Factors),
			size(m.Needs.Weights), size(m.Needs.Cache), size(m.Needs.Activations), size(m.Needs.Factors))
		switch {
		case m.Free == 0:
			line("Fits", "not known: this backend does not say how much memory is free")
		case m.Unmerged:
			line("Fits", "yes, in %s that are free, with experts in unmerged form, too", size(m.Free))
		case m.Fits:
			line("Fits", "in %s that are free with one merged mixture; not in unmerged form", size(m.Free))
		default:
			line("Fits", "no: %s", m.Reason)
		}
	}
	return errors.Join(errs...)
}
