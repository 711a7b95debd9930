package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/torch"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/source"
)

// inspection is the result of `t2 inspect --json`. One of the parts after Path
// is set.
type inspection struct {
	Kind          string                          `json:"kind"` // model, decomposition, expert, adapter or weights
	Path          string                          `json:"path"`
	Model         *contract.ModelManifest         `json:"model,omitempty"`
	Decomposition *contract.DecompositionManifest `json:"decomposition,omitempty"`
	Expert        *expertInspection               `json:"expert,omitempty"`
	Adapter       *adapterInspection              `json:"adapter,omitempty"`
	Weights       *weightsInspection              `json:"weights,omitempty"`
	// Fit is set when something to compare with was given.
	Fit *fit `json:"fit,omitempty"`
}

type expertInspection struct {
	contract.ExpertManifest
	// Method is how the expert adapts its base.
	Method string `json:"method"`
	// Matrices and Values count what the expert adapts, and the numbers that it has.
	Matrices int                       `json:"matrices"`
	Values   int                       `json:"values"`
	Modules  []expert.ModuleStatistics `json:"modules"`
}

// adapterInspection describes an adapter in PEFT's format.
type adapterInspection struct {
	Type string `json:"type"`
	DoRA bool   `json:"dora"`
	// Base is what the adapter calls its base model.
	Base string `json:"base,omitempty"`
	// Ranks are all that its matrices have, none for IA3.
	Ranks      []int    `json:"ranks,omitempty"`
	Modules    []string `json:"modules"`
	Matrices   int      `json:"matrices"`
	Parameters int64    `json:"parameters"`
}

type weightsInspection struct {
	Tensors  int               `json:"tensors"`
	Elements int64             `json:"elements"`
	DTypes   []string          `json:"dtypes"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

type fit struct {
	Against string `json:"against"`
	Fits    bool   `json:"fits"`
	Reason  string `json:"reason,omitempty"`
}

// errNoFit makes `t2 inspect` end with status 1 after it has printed.
var errNoFit = errors.New("it does not fit")

// newInspectCommand returns `t2 inspect`.
func newInspectCommand(env *Env) *cobra.Command {
	var base, decomposition string
	cmd := &cobra.Command{
		Use:   "inspect PATH",
		Short: "Say what a model, decomposition or expert is, and whether it fits",
		Long: `Inspect opens a model folder, a decomposition, an expert (its folder or its
expert.safetensors), an adapter in PEFT's format, a safetensors file or one of
PyTorch's, verifies it, and describes it.

With --base or --decomposition it also says whether it belongs to that, and ends
with status 1 if it does not.`,
		Example: `  t2 inspect ./expert.safetensors
  t2 inspect ./data/experts/sha256-… --decomposition ./data/decompositions/sha256-… --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := inspect(cmd.Context(), args[0], base, decomposition)
			if err != nil {
				return err
			}
			if env.JSON {
				err = env.PrintJSON(found)
			} else {
				err = found.print(env.Stdout)
			}
			if err == nil && found.Fit != nil && !found.Fit.Fits {
				return errNoFit
			}
			return err
		},
	}
	cmd.Flags().StringVar(&base, "base", "", "model folder `DIR` that it should belong to")
	cmd.Flags().StringVar(&decomposition, "decomposition", "", "decomposition folder `DIR` that it should belong to")
	return cmd
}

func inspect(ctx context.Context, path, base, decomposition string) (*inspection, error) {
	found := &inspection{Path: path}
	if err := found.read(ctx, path); err != nil {
		return nil, err
	}
	var err error
	switch {
	case decomposition != "":
		found.Fit, err = found.fitsDecomposition(decomposition)
	case base != "":
		found.Fit, err = found.fitsBase(ctx, base)
	}
	return found, err
}

// read finds out what is at path and opens it.
func (i *inspection) read(ctx context.Context, path string) error {
	stat, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("inspecting: %w", err)
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	switch {
	case !stat.IsDir():
		return i.readFile(path)
	case has(expert.File):
		return i.readExpert(path)
	case has(peft.ConfigFile): // Before a model: some leave the base's configuration beside it.
		return i.readAdapter(ctx, path)
	case has(checkpoint.ConfigFile):
		m, err := source.CheckModel(path)
		i.Kind, i.Model = "model", &m
		return err
	case has(contract.ManifestFile):
		d, err := expert.OpenDecomposition(path)
		if err != nil {
			return err
		}
		m := d.Manifest()
		i.Kind, i.Decomposition = "decomposition", &m
		return nil
	default:
		return fmt.Errorf("%s is neither a model (%s), nor a decomposition (%s), nor an expert (%s), nor an adapter (%s)",
			path, checkpoint.ConfigFile, contract.ManifestFile, expert.File, peft.ConfigFile)
	}
}

func (i *inspection) readFile(path string) error {
	saved, err := expert.IsReference(path)
	if err != nil {
		return err
	}
	if saved {
		return i.readSaved(path)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	if expert.IsAdapter(f) {
		return i.readExpert(path)
	}
	w := &weightsInspection{Metadata: f.Metadata()}
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		w.Tensors++
		w.Elements += info.Elements()
		if !slices.Contains(w.DTypes, info.DType) {
			w.DTypes = append(w.DTypes, info.DType)
		}
	}
	i.Kind, i.Weights = "weights", w
	return nil
}

// readSaved describes what torch.save wrote.
func (i *inspection) readSaved(path string) error {
	all, err := torch.Open(path)
	if err != nil {
		return err
	}
	w := &weightsInspection{Tensors: len(all)}
	for _, n := range all {
		w.Elements += int64(len(n.Tensor.Data))
		if !slices.Contains(w.DTypes, string(n.DType)) {
			w.DTypes = append(w.DTypes, string(n.DType))
		}
	}
	i.Kind, i.Weights = "weights", w
	return nil
}

func (i *inspection) readAdapter(ctx context.Context, path string) error {
	a, err := peft.Read(ctx, path)
	if err != nil {
		return err
	}
	found := &adapterInspection{
		Type: a.Config.Type(), DoRA: a.Config.DoRA(), Base: a.Config.Base(), Matrices: len(a.Matrices), Parameters: a.Parameters(),
	}
	for name, m := range a.Matrices {
		found.Modules = append(found.Modules, expert.ModuleOf(name))
		if m.A != nil {
			found.Ranks = append(found.Ranks, m.A.Rows())
		}
	}
	slices.Sort(found.Modules)
	slices.Sort(found.Ranks)
	found.Modules, found.Ranks = slices.Compact(found.Modules), slices.Compact(found.Ranks)
	i.Kind, i.Adapter = "adapter", found
	return nil
}

func (i *inspection) readExpert(path string) error {
	v, err := expert.Read(path)
	if err != nil {
		return err
	}
	e := &expertInspection{ExpertManifest: v.Manifest, Method: string(v.Method), Matrices: len(v.Matrices()), Values: v.Parameters(), Modules: v.Statistics()}
	i.Kind, i.Expert = "expert", e
	return nil
}

func (i *inspection) fitsDecomposition(dir string) (*fit, error) {
	d, err := expert.OpenDecomposition(dir)
	if err != nil {
		return nil, err
	}
	result := &fit{Against: d.Manifest().Digest}
	switch {
	case i.Expert != nil:
		v, err := expert.Read(i.Path)
		if err != nil {
			return nil, err
		}
		err = v.Fits(d)
		if result.Fits = err == nil; err != nil {
			result.Reason = err.Error()
		}
	case i.Model != nil:
		result.compare("model", i.Model.Digest, "decomposition is of", d.Manifest().BaseDigest)
	default:
		return nil, usagef("only an expert or a model can be compared with a decomposition, this is %s", i.Kind)
	}
	return result, nil
}

func (i *inspection) fitsBase(ctx context.Context, dir string) (*fit, error) {
	if i.Adapter != nil {
		return i.adapterFits(ctx, dir)
	}
	m, err := checkpoint.BuildManifest(dir)
	if err != nil {
		return nil, err
	}
	result := &fit{Against: m.Digest}
	switch {
	case i.Expert != nil:
		result.compare("base model", m.Digest, "expert was made for", i.Expert.BaseDigest)
	case i.Decomposition != nil:
		result.compare("base model", m.Digest, "decomposition is of", i.Decomposition.BaseDigest)
	default:
		return nil, usagef("only an expert, a decomposition or an adapter can be compared with a base model, this is %s", i.Kind)
	}
	return result, nil
}

// adapterFits compares shapes: an adapter does not say which model's weights it is of.
func (i *inspection) adapterFits(ctx context.Context, dir string) (_ *fit, err error) {
	base, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	a, err := peft.Read(ctx, i.Path)
	if err != nil {
		return nil, err
	}
	result := &fit{Against: dir, Fits: true}
	if err := a.Fits(projections(base)); err != nil {
		result.Fits, result.Reason = false, err.Error()
	}
	return result, nil
}

func (f *fit) compare(what, digest, madeFor, want string) {
	if f.Fits = digest == want; !f.Fits {
		f.Reason = fmt.Sprintf("%s is %s, %s %s", what, digest, madeFor, want)
	}
}

// print describes the finding for people.
func (i *inspection) print(w io.Writer) error {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", label, fmt.Sprintf(format, args...))
	}
	switch {
	case i.Model != nil:
		a := i.Model.Architecture
		line("Model", "%s", i.Model.Digest)
		line("Architecture", "%s, %d layers, hidden size %d, vocabulary %d, %d parameters", a.Family, a.Layers, a.HiddenSize, a.VocabularySize, a.Parameters)
		for _, f := range i.Model.Files {
			line("", "%12d  %s", f.SizeBytes, f.Path)
		}
	case i.Decomposition != nil:
		d := i.Decomposition
		line("Decomposition", "%s", d.Digest)
		line("Base model", "%s", d.BaseDigest)
		line("Modules", "%s, stored as %s", strings.Join(d.Modules, ", "), d.DType)
		line("Size", "%d matrices, %d singular values", d.Matrices, d.SingularValues)
		line("Error", "at most %.3g of a matrix' norm", d.MaxRelativeError)
	case i.Expert != nil:
		e := i.Expert
		line("Expert", "%s", e.Digest)
		line("Skill", "%s", e.Skill)
		line("Base model", "%s", e.BaseDigest)
		line("Decomposition", "%s", e.DecompositionDigest)
		if e.Pass1Digest != "" {
			line("Dispatches", "for the question of pass 1 %s", e.Pass1Digest)
		}
		line("Score", "%.4f on validation (base %.4f)", e.Score, e.BaselineScore)
		if e.Method != string(expert.SVF) {
			line("Method", "%s, %d numbers for %d matrices", e.Method, e.Values, e.Matrices)
			break
		}
		line("Scales", "%d singular values of %d matrices", e.Values, e.Matrices)
		line("z", "%-10s %8s %9s %9s %9s %9s", "module", "values", "min", "mean", "max", "rms(z-1)")
		for _, s := range e.Modules {
			line("", "%-10s %8d %9.5f %9.5f %9.5f %9.5f", s.Module, s.Values, s.Min, s.Mean, s.Max, s.Deviation)
		}
	case i.Adapter != nil:
		a := i.Adapter
		kind := a.Type
		if a.DoRA {
			kind += " (DoRA)"
		}
		line("Adapter", "%s, as PEFT saves it", kind)
		line("Base model", "%s", cmp.Or(a.Base, "not said"))
		if len(a.Ranks) > 0 {
			line("Rank", "%s", strings.Trim(fmt.Sprint(a.Ranks), "[]"))
		}
		line("Changes", "%d matrices (%s), %d parameters", a.Matrices, strings.Join(a.Modules, ", "), a.Parameters)
	case i.Weights != nil:
		line("Weights", "%d tensors, %d elements, %s", i.Weights.Tensors, i.Weights.Elements, strings.Join(i.Weights.DTypes, ", "))
	}
	if f := i.Fit; f != nil && f.Fits {
		line("Fits", "yes: %s", f.Against)
	} else if f != nil {
		line("Fits", "no: %s", f.Reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
