package expert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
)

// Decomposition is an opened decomposition. Its methods may be called
// concurrently.
type Decomposition struct {
	dir      string
	manifest contract.DecompositionManifest
	names    []string
	shapes   map[string][2]int // [out, in] of each matrix.

	mu     sync.Mutex
	keep   bool
	kept   map[string]model.Factors
	sigmas map[string][]float32 // Those that were read.
}

// OpenDecomposition opens the decomposition in dir. It checks that the manifest
// is whole, has the digest that it claims, and that every file is there with
// the right structure; the files' own digests are checked as they are read.
func OpenDecomposition(dir string) (*Decomposition, error) {
	m, err := artifact.ReadManifest[contract.DecompositionManifest](dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no decomposition (t2 decompose makes one): %w", dir, err)
	}
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidModel, err)
	}
	if err := checkManifest(dir, m); err != nil {
		return nil, failure.Permanent(contract.ReasonInvalidModel, err)
	}
	d := &Decomposition{dir: dir, manifest: m, shapes: map[string][2]int{}}
	for _, entry := range m.Files {
		name := strings.TrimSuffix(entry.Path, ".safetensors")
		shape, err := d.peek(entry, name)
		if err != nil {
			return nil, err
		}
		d.names = append(d.names, name)
		d.shapes[name] = shape
	}
	slices.SortFunc(d.names, compareMatrices)
	return d, nil
}

// checkManifest verifies that a manifest agrees with itself.
func checkManifest(dir string, m contract.DecompositionManifest) error {
	for _, f := range m.Files {
		if f.Path != filepath.Base(f.Path) || !strings.HasSuffix(f.Path, ".safetensors") {
			return fmt.Errorf("manifest of %s names %q, which is no factor file", dir, f.Path)
		}
	}
	if got := decompositionDigest(m); got != m.Digest {
		return fmt.Errorf("manifest of %s says its digest is %s, but it is %s: the manifest was changed", dir, m.Digest, got)
	}
	return nil
}

// peek reads the header of a factor file: the shape of its matrix.
func (d *Decomposition) peek(entry contract.FileEntry, name string) (shape [2]int, err error) {
	path := filepath.Join(d.dir, entry.Path)
	stat, err := os.Stat(path)
	if err != nil {
		return shape, fmt.Errorf("opening decomposition: %w", err)
	}
	if stat.Size() != entry.SizeBytes {
		return shape, failure.Permanentf(contract.ReasonInvalidModel, "%s has %d bytes, its manifest says %d: %w; %s",
			path, stat.Size(), entry.SizeBytes, artifact.ErrDamaged, artifact.Remedy(d.dir))
	}
	f, err := checkpoint.Open(path)
	if err != nil && !failure.System(err) {
		return shape, fmt.Errorf("%w; %s", err, artifact.Remedy(d.dir))
	}
	if err != nil {
		return shape, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	u, _ := f.Info(tensorU)
	vt, _ := f.Info(tensorVt)
	if len(u.Shape) != 2 || len(vt.Shape) != 2 {
		return shape, failure.Permanentf(contract.ReasonInvalidModel, "%s is no factor file; %s", path, artifact.Remedy(d.dir))
	}
	if err := checkFactorFile(f, name, u.Shape[0], vt.Shape[1]); err != nil {
		return shape, failure.Permanent(contract.ReasonInvalidModel, fmt.Errorf("%s: %w; %s", path, err, artifact.Remedy(d.dir)))
	}
	return [2]int{u.Shape[0], vt.Shape[1]}, nil
}

// checkFactorFile verifies the structure of a factor file of a matrix [out, in].
func checkFactorFile(f *checkpoint.File, name string, out, in int) error {
	if got := f.Metadata()[metaFormat]; got != factorFormat {
		return fmt.Errorf("has format %q, want %q", got, factorFormat)
	}
	if got := f.Metadata()[metaMatrix]; got != name {
		return fmt.Errorf("holds the factors of %q, want %q", got, name)
	}
	r := min(out, in)
	for tensorName, want := range map[string][]int{tensorU: {out, r}, tensorS: {r}, tensorVt: {r, in}} {
		if info, ok := f.Info(tensorName); !ok || !slices.Equal(info.Shape, want) {
			return fmt.Errorf("%s has shape %v, want %v", tensorName, info.Shape, want)
		}
	}
	return nil
}

// Manifest describes the decomposition.
func (d *Decomposition) Manifest() contract.DecompositionManifest { return d.manifest }

// Matrices lists the decomposed matrices, by layer and then by module.
func (d *Decomposition) Matrices() []string { return slices.Clone(d.names) }

// Shapes lists [out, in] of the matrices, in the order of Matrices.
func (d *Decomposition) Shapes() [][2]int {
	shapes := make([][2]int, len(d.names))
	for i, name := range d.names {
		shapes[i] = d.shapes[name]
	}
	return shapes
}

// Rank returns the number of singular values of a matrix, 0 if it is not
// decomposed.
func (d *Decomposition) Rank(name string) int { return min(d.shapes[name][0], d.shapes[name][1]) }

// Keep makes d hold the factors that it reads in memory from now on. Training
// composes in each iteration and wants that; serving composes seldom.
func (d *Decomposition) Keep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep = true
	if d.kept == nil {
		d.kept = map[string]model.Factors{}
	}
}

// Factors reads the factors of a matrix after verifying its file's digest. The
// caller must not change them: they may be shared.
func (d *Decomposition) Factors(ctx context.Context, name string) (model.Factors, error) {
	d.mu.Lock()
	f, ok := d.kept[name]
	keep := d.keep
	d.mu.Unlock()
	if ok {
		return f, nil
	}
	f, err := d.read(ctx, name)
	if err != nil {
		return model.Factors{}, err
	}
	if keep {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.kept[name] = f
	}
	return f, nil
}

func (d *Decomposition) read(ctx context.Context, name string) (model.Factors, error) {
	file, err := d.open(ctx, name)
	if err != nil {
		return model.Factors{}, err
	}
	defer func() { _ = file.Close() }() // Nothing was written.
	u, err := file.Tensor(tensorU)
	if err == nil {
		err = ctx.Err() // U and Vᵀ of a large model take a while each.
	}
	if err != nil {
		return model.Factors{}, err
	}
	s, err := readSigma(file, name)
	if err != nil {
		return model.Factors{}, err
	}
	vt, err := file.Tensor(tensorVt)
	if err != nil {
		return model.Factors{}, err
	}
	return model.Factors{U: u, S: s, Vt: vt}, nil
}

// open verifies the digest of a matrix' file, and opens it.
func (d *Decomposition) open(ctx context.Context, name string) (*checkpoint.File, error) {
	i := slices.IndexFunc(d.manifest.Files, func(f contract.FileEntry) bool { return f.Path == factorFile(name) })
	if i < 0 {
		return nil, failure.Permanentf(contract.ReasonDecompositionMismatch,
			"%s is not among the %d matrices of decomposition %s (modules %s)", name, len(d.names), d.manifest.Digest, strings.Join(d.manifest.Modules, ", "))
	}
	if err := artifact.VerifyContext(ctx, d.dir, d.manifest.Files[i:i+1]); err != nil {
		return nil, failure.Content(contract.ReasonDigestMismatch, fmt.Errorf("decomposition: %w", err))
	}
	return checkpoint.Open(filepath.Join(d.dir, factorFile(name)))
}

// readSigma reads the singular values in a matrix' file.
func readSigma(file *checkpoint.File, name string) ([]float32, error) {
	s, err := file.Tensor(tensorS)
	if err != nil {
		return nil, err
	}
	for k, v := range s.Data {
		if v < 0 || math.IsInf(float64(v), 0) {
			return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s: singular value %d is %v", factorFile(name), k, v)
		}
	}
	return s.Data, nil
}

// Sigma returns the singular values of a matrix, in descending order; the caller must not
// change them. Of the factors it reads nothing else, but to verify the file's digest, once.
func (d *Decomposition) Sigma(name string) ([]float32, error) {
	d.mu.Lock()
	s, ok := d.sigmas[name]
	if f, kept := d.kept[name]; kept {
		s, ok = f.S, true
	}
	d.mu.Unlock()
	if ok {
		return s, nil
	}
	file, err := d.open(context.Background(), name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // Nothing was written.
	if s, err = readSigma(file, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sigmas == nil {
		d.sigmas = map[string][]float32{}
	}
	d.sigmas[name] = s
	return s, nil
}

// compareMatrices orders "model.layers.2.…" before "model.layers.10.…", and
// modules canonically within a layer.
func compareMatrices(a, b string) int {
	la, lb := layerOf(a), layerOf(b)
	if la != lb {
		return la - lb
	}
	if c := moduleOrder(a) - moduleOrder(b); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// moduleOrder numbers modules canonically; unknown ones come last.
func moduleOrder(name string) int {
	order := Modules()
	if i := slices.Index(order, ModuleOf(name)); i >= 0 {
		return i
	}
	return len(order)
}

// layerOf returns the layer number in a matrix' name, or -1.
func layerOf(name string) int {
	var layer int
	if _, err := fmt.Sscanf(name, "model.layers.%d.", &layer); err != nil {
		return -1
	}
	return layer
}
