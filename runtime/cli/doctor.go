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
	Path            string          `json:"path"`
	DType           string          `json:"dtype"`
	Tokens          int             `json:"cacheTokens"`
	MaxBatch        int             `json:"maxBatch"`
	Needs           model.Footprint `json:"needsBytes"`
	Free            int64           `json:"freeBytes"` // 0: not known.
	FitsMerged      bool            `json:"fitsMerged"`
	FitsUnmerged    bool            `json:"fitsUnmerged"`
	LargestContext  int             `json:"largestContextLength,omitempty"`
	SmallerDTypeFit string          `json:"smallerDtypeThatFits,omitempty"`
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
		Example: `  t2-cuda doctor
  t2-cuda doctor --model ./model --dtype bf16 --context-length 8192 --max-batch 16`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) (err error) {
			be, err := f.compute.open("")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, be.Close()) }()
			d := diagnosis{Backend: be.Name()}
			if described, ok := be.(backend.Describer); ok {
				d.Facts = described.Describe()
			}
			if f.model != "" {
				if d.Model, err = fitOf(f.model, be, f.dtype, context, batch); err != nil {
					return err
				}
			}
			if asJSON {
				err = env.PrintJSON(d)
			} else {
				err = d.print(env.Stdout)
			}
			if err == nil && d.Model != nil && !d.Model.FitsMerged {
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
	return cmd
}

func fitOf(path string, be backend.Backend, dtype backend.DType, context, batch int) (*modelFit, error) {
	ck, err := checkpoint.OpenDir(path)
	if err != nil {
		return nil, err
	}
	c := ck.Config()
	if err := ck.Close(); err != nil {
		return nil, err
	}
	if context < 0 || batch < 0 {
		return nil, usagef("--context-length %d and --max-batch %d must not be negative", context, batch)
	}
	if context == 0 {
		context = c.MaxPositions
	}
	if batch == 0 {
		batch = engine.DefaultMaxBatch
	}
	fit := &modelFit{Path: path, DType: dtype.String(), Tokens: context * batch, MaxBatch: batch, Free: be.Memory().Free}
	fit.Needs = model.FootprintOf(c, dtype, fit.Tokens, max(engine.DefaultStepTokens, batch))
	unknown := fit.Free == 0
	fit.FitsUnmerged = unknown || fit.Needs.Total() <= fit.Free
	fit.FitsMerged = unknown || fit.Needs.Total()-fit.Needs.Factors <= fit.Free
	if fit.FitsMerged {
		return fit, nil
	}
	left := fit.Free - (fit.Needs.Total() - fit.Needs.Factors - fit.Needs.Cache)
	if perToken := fit.Needs.Cache / int64(fit.Tokens); left > 0 && perToken > 0 {
		fit.LargestContext = int(left / perToken / int64(batch))
	}
	for _, smaller := range backend.DTypes() {
		if need := model.FootprintOf(c, smaller, fit.Tokens, max(engine.DefaultStepTokens, batch)); need.Weights < fit.Needs.Weights && need.Total()-need.Factors <= fit.Free {
			fit.SmallerDTypeFit = smaller.String()
			break
		}
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
		line("Model", "%s as %s, a cache of %d tokens, batches of %d", m.Path, m.DType, m.Tokens, m.MaxBatch)
		line("It needs", "%s: weights %s, cache %s, a step %s; unmerged experts %s more", bytesText(m.Needs.Total()-m.Needs.Factors),
			bytesText(m.Needs.Weights), bytesText(m.Needs.Cache), bytesText(m.Needs.Activations), bytesText(m.Needs.Factors))
		switch {
		case m.Free == 0:
			line("Fits", "not known: this backend does not say how much memory is free")
		case m.FitsUnmerged:
			line("Fits", "yes, in %s that are free, with experts in unmerged form, too", bytesText(m.Free))
		case m.FitsMerged:
			line("Fits", "in %s that are free with one merged mixture; not in unmerged form", bytesText(m.Free))
		default:
			line("Fits", "no: %s are free, %s are missing", bytesText(m.Free), bytesText(m.Needs.Total()-m.Needs.Factors-m.Free))
			if m.LargestContext > 0 {
				line("", "a context length of %d would fit", m.LargestContext)
			}
			if m.SmallerDTypeFit != "" {
				line("", "--dtype %s would fit", m.SmallerDTypeFit)
			}
		}
	}
	return errors.Join(errs...)
}

// bytesText writes a size in the largest unit that leaves it above one.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGT"
	for value >= unit && len(units) > 1 {
		value /= unit
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
