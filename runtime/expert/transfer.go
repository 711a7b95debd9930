package expert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/peft"
)

// TransferHint ends the refusal of an expert of another base.
const TransferHint = "or allow its transfer to a base of equal shape (spec.transfer of an AdaptivePolicy, --allow-transfer at a terminal)"

// ModelDigest identifies the model in a folder: by its manifest where a fetch has left
// one, and by hashing its files on somebody's desk.
func ModelDigest(dir string) (string, error) {
	m, err := artifact.ReadManifest[contract.ModelManifest](dir)
	if errors.Is(err, fs.ErrNotExist) {
		m, err = checkpoint.BuildManifest(dir)
	}
	if err != nil {
		return "", fmt.Errorf("identifying the model: %w", err)
	}
	return m.Digest, nil
}

// OpenDecompositionOf opens the decomposition in dir and checks that it is of the model in
// modelDir: the factors of another one would replace matrices of this.
func OpenDecompositionOf(dir, modelDir string) (*Decomposition, error) {
	d, err := OpenDecomposition(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the decomposition: %w", err)
	}
	digest, err := ModelDigest(modelDir)
	if err != nil {
		return nil, err
	}
	if got := d.Manifest().BaseDigest; got != digest {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch,
			"decomposition %s is of model %s, but the model in %s is %s; decompose this model, or take that one",
			d.Manifest().Digest, got, modelDir, digest)
	}
	return d, nil
}

// Transfer returns an expert that was made for another base as one of the model in
// modelDir, whose decomposition onto is. The method is the paper's (section 4.3): z of a
// matrix scales the singular values of the matrix of the same name, in their order. It
// takes matrices of equal shapes; nothing says that what comes of it is of use.
//
// path is where the expert was read: in a volume, the decomposition that it was made with
// is beside it, and each matrix' shape is compared with that of its namesake. Elsewhere
// the expert alone says what it fits: of SVF the ranks, and that each matrix of its
// modules is scaled. Method DoRA's gains are magnitudes through norms, which are computed
// for this model's weights.
//
// The error, contract.ReasonDecompositionMismatch, names the first matrix that differs and
// both shapes. What LoRA and IA3 do to matrices is left to FitsModel.
func (v Adapter) Transfer(ctx context.Context, onto *Decomposition, modelDir, path string) (Adapter, error) {
	home, err := v.home(path)
	if err != nil {
		return v, err
	}
	if home != nil {
		err = sameShapes(home, onto)
	}
	if err == nil {
		err = v.sameRanks(onto)
	}
	if err != nil {
		return v, failure.Permanent(contract.ReasonDecompositionMismatch, fmt.Errorf(
			"expert cannot be transferred from base model %s to %s: %w", v.Manifest.BaseDigest, onto.manifest.BaseDigest, err))
	}
	if v.Method == DoRA {
		if v.Out, err = v.gainsOn(ctx, modelDir); err != nil {
			return v, fmt.Errorf("transferring an expert of method %s: %w", DoRA, err)
		}
	}
	v.Manifest.BaseDigest, v.Manifest.DecompositionDigest = onto.manifest.BaseDigest, onto.manifest.Digest
	return v, nil
}

// home opens the decomposition that the expert was made with, if it is in the volume that
// the expert's path is in; nil if not.
func (v Adapter) home(path string) (*Decomposition, error) {
	dir, err := DecompositionBeside(path, v.Manifest.DecompositionDigest)
	if err != nil || !artifact.Complete(dir) {
		return nil, nil //nolint:nilerr,nilnil // An expert on somebody's desk may be without.
	}
	d, err := OpenDecomposition(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the decomposition that the expert was made with: %w", err)
	}
	return d, nil
}

// DecompositionBeside is the folder that a decomposition has in the volume in which path
// is the folder of a model or an expert, or a file in it.
func DecompositionBeside(path, digest string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("looking for the decomposition: %w", err)
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	// DATA/models/sha256-… → DATA/decompositions/sha256-…
	return contract.ArtifactDir(filepath.Dir(filepath.Dir(path)), contract.DirDecompositions, digest)
}

// sameShapes compares two bases by the matrices of the modules that both have decomposed.
func sameShapes(home, onto *Decomposition) error {
	all := map[string]struct{}{}
	for _, d := range []*Decomposition{home, onto} {
		for name := range d.shapes {
			if module := ModuleOf(name); slices.Contains(home.manifest.Modules, module) && slices.Contains(onto.manifest.Modules, module) {
				all[name] = struct{}{}
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(all), compareMatrices) {
		was, had := home.shapes[name]
		is, has := onto.shapes[name]
		switch {
		case !has:
			return fmt.Errorf("%s is %v there, and this base has no such matrix: it has fewer layers", name, was)
		case !had:
			return fmt.Errorf("%s is %v here, and its base has no such matrix: it has fewer layers", name, is)
		case was != is:
			return fmt.Errorf("%s is %v there and %v here", name, was, is)
		}
	}
	return nil
}

// sameRanks compares the numbers of scales with those of singular values.
func (v Adapter) sameRanks(onto *Decomposition) error {
	modules := map[string]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(v.Z), compareMatrices) {
		modules[ModuleOf(name)] = true
		switch shape, ok := onto.shapes[name]; {
		case !ok && !slices.Contains(onto.manifest.Modules, ModuleOf(name)):
			return fmt.Errorf("it scales %s by %d numbers, and of this base %v are decomposed: add the module to them", name, len(v.Z[name]), onto.manifest.Modules)
		case !ok:
			return fmt.Errorf("it scales %s by %d numbers, and this base has no such matrix", name, len(v.Z[name]))
		case min(shape[0], shape[1]) != len(v.Z[name]):
			return fmt.Errorf("it scales %s by %d numbers, so it was made for a matrix of rank %d; here it is %v of rank %d",
				name, len(v.Z[name]), len(v.Z[name]), shape, min(shape[0], shape[1]))
		}
	}
	for _, name := range onto.names {
		if _, scaled := v.Z[name]; !scaled && modules[ModuleOf(name)] {
			return fmt.Errorf("%s is %v here, and the expert does not scale it: its base has fewer layers", name, onto.shapes[name])
		}
	}
	return nil
}

// gainsOn are DoRA's gains for the weights of the model in a folder.
func (v Adapter) gainsOn(ctx context.Context, dir string) (gains map[string][]float32, err error) {
	if dir, err = checkpoint.Locate(ctx, dir); err != nil {
		return nil, err
	}
	base, err := checkpoint.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	gains = map[string][]float32{}
	for _, name := range slices.SortedFunc(maps.Keys(v.Low), compareMatrices) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		low := v.Low[name]
		out, in := low.B.Shape[0], low.A.Shape[1]
		info, ok := base.Info(name + ".weight")
		if !ok || !slices.Equal(info.Shape, []int{out, in}) {
			return nil, failure.Permanentf(contract.ReasonDecompositionMismatch, "%s is [%d %d] there and %v here", name, out, in, info.Shape)
		}
		w, err := base.Tensor(name + ".weight")
		if err != nil {
			return nil, err
		}
		m := peft.Matrix{A: low.A, B: low.B, Scale: float64(low.Scale), Magnitude: low.Magnitude}
		gains[name] = m.Gains(w)
	}
	return gains, nil
}
