package peft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/torch"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Bounds of an adapter's files. One of rank 64 on every projection of a 405-billion
// model has 3 GB in BF16.
const (
	maxConfigBytes  = 4 << 20
	maxWeightsBytes = 8 << 30
)

// Read reads an adapter's folder. Weights in PyTorch's own format, which old versions
// wrote, are read without executing anything. What is malformed, or cannot be computed,
// is contract.ReasonInvalidExpert.
func Read(ctx context.Context, dir string) (*Adapter, error) {
	a, err := read(ctx, dir)
	if err != nil {
		err = fmt.Errorf("adapter %s: %w", dir, err)
		if failure.System(err) {
			return nil, err
		}
		return nil, failure.Permanent(contract.ReasonInvalidExpert, err)
	}
	return a, nil
}

func read(ctx context.Context, dir string) (*Adapter, error) {
	b, err := artifact.ReadBounded(filepath.Join(dir, ConfigFile), maxConfigBytes)
	if err != nil {
		return nil, err
	}
	config, err := ParseConfig(b)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, WeightsFile)
	stat, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return readPickle(ctx, config, filepath.Join(dir, PickleFile))
	}
	if err != nil {
		return nil, err
	}
	if stat.Size() > maxWeightsBytes {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", WeightsFile, stat.Size(), int64(maxWeightsBytes))
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	return assemble(ctx, config, f)
}

// assemble reads the tensors of a safetensors file.
func assemble(ctx context.Context, config *Config, f *checkpoint.File) (*Adapter, error) {
	p := newParts(config)
	for _, name := range f.Names() {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		// The name first: what is not wanted need not be loadable.
		if _, _, err := split(name); err != nil {
			return nil, fmt.Errorf("tensor %q %w", name, err)
		}
		info, _ := f.Info(name)
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		if err := p.add(name, tensor.DType(info.DType), t); err != nil {
			return nil, fmt.Errorf("tensor %q %w", name, err)
		}
	}
	a, err := p.adapter()
	if err != nil {
		return nil, err
	}
	a.metadata = f.Metadata()
	return a, nil
}

// readPickle reads the tensors of a file of torch.save.
func readPickle(ctx context.Context, config *Config, path string) (*Adapter, error) {
	saved, err := torch.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("has neither %s nor %s: %w", WeightsFile, PickleFile, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	p := newParts(config)
	for _, n := range saved {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		for i, x := range n.Tensor.Data {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, fmt.Errorf("tensor %q: element %d is %v: the weights are damaged", n.Name, i, x)
			}
		}
		if err := p.add(n.Name, n.DType, n.Tensor); err != nil {
			return nil, fmt.Errorf("tensor %q %w", n.Name, err)
		}
	}
	return p.adapter()
}

// parts are an adapter in the making: the tensors of each matrix, by the ends of their
// names.
type parts struct {
	config *Config
	byEnd  map[string]map[string]*tensor.Tensor
	forms  map[string]form
}

func newParts(config *Config) *parts {
	return &parts{config: config, byEnd: map[string]map[string]*tensor.Tensor{}, forms: map[string]form{}}
}

// add takes a tensor. The error goes on after the tensor's name.
func (p *parts) add(name string, dtype tensor.DType, t *tensor.Tensor) error {
	matrix, end, err := split(name)
	if err != nil {
		return err
	}
	if (end == endVector) != (p.config.kind == IA3) {
		return fmt.Errorf("does not belong to an adapter of peft_type %s", p.config.kind)
	}
	if !p.config.adapts(matrix) {
		return fmt.Errorf("is of a module that target_modules, exclude_modules or layers_to_transform leave out: PEFT would ignore it")
	}
	p.forms[name] = form{dtype: dtype, shape: t.Shape}
	if end == endMagnitudeWeight {
		end = endMagnitude
	}
	if p.byEnd[matrix] == nil {
		p.byEnd[matrix] = map[string]*tensor.Tensor{}
	}
	if p.byEnd[matrix][end] != nil {
		return errors.New("is there twice, with and without .weight")
	}
	p.byEnd[matrix][end] = t
	return nil
}

// adapter checks that every matrix is complete.
func (p *parts) adapter() (*Adapter, error) {
	a := &Adapter{Config: p.config, Matrices: make(map[string]Matrix, len(p.byEnd)), forms: p.forms}
	for matrix, tensors := range p.byEnd {
		m, err := p.config.matrix(matrix, tensors)
		if err != nil {
			return nil, fmt.Errorf("%s %w", matrix, err)
		}
		a.Matrices[matrix] = m
	}
	if len(a.Matrices) == 0 {
		return nil, errors.New("changes no matrix")
	}
	return a, nil
}

// matrix puts the tensors of a matrix together. The error goes on after its name.
func (c *Config) matrix(name string, tensors map[string]*tensor.Tensor) (Matrix, error) {
	if c.kind == IA3 {
		return c.vector(name, tensors[endVector])
	}
	a, b, magnitude := tensors[endA], tensors[endB], tensors[endMagnitude]
	if a == nil || b == nil {
		return Matrix{}, errors.New("has not both lora_A and lora_B")
	}
	if len(a.Shape) != 2 || len(b.Shape) != 2 {
		return Matrix{}, fmt.Errorf("has lora_A %v and lora_B %v: adapters of convolutions are not computed", a.Shape, b.Shape)
	}
	r := c.Rank(name)
	if a.Rows() != r || b.Cols() != r || slices.Contains(a.Shape, 0) || slices.Contains(b.Shape, 0) {
		return Matrix{}, fmt.Errorf("has lora_A %v and lora_B %v, its rank is %d", a.Shape, b.Shape, r)
	}
	m := Matrix{A: a, B: b, Scale: c.Scale(name)}
	if math.IsInf(m.Scale, 0) || math.IsNaN(m.Scale) {
		return Matrix{}, fmt.Errorf("is scaled by %v", m.Scale)
	}
	switch {
	case c.dora && magnitude == nil:
		return Matrix{}, errors.New("has no lora_magnitude_vector, though use_dora is true")
	case !c.dora && magnitude != nil:
		return Matrix{}, errors.New("has a lora_magnitude_vector, though use_dora is false")
	case c.dora && (len(magnitude.Shape) != 1 || magnitude.Shape[0] != b.Rows()):
		return Matrix{}, fmt.Errorf("has lora_magnitude_vector %v for %d outputs", magnitude.Shape, b.Rows())
	case c.dora:
		m.Magnitude = magnitude.Data
	}
	return m, nil
}

// vector is matrix for IA3. PEFT keeps what scales outputs as a column and what scales
// inputs as a row.
func (c *Config) vector(name string, t *tensor.Tensor) (Matrix, error) {
	if len(t.Shape) != 2 || t.Shape[0] != 1 && t.Shape[1] != 1 || len(t.Data) == 0 {
		return Matrix{}, fmt.Errorf("has ia3_l %v; [outputs 1] and [1 inputs] are read", t.Shape)
	}
	inputs := t.Shape[0] == 1
	if told := !c.feed.none() && !c.feed.open(); told {
		want := c.feed.feedforward(name)
		if want != inputs && len(t.Data) > 1 {
			return Matrix{}, fmt.Errorf("has ia3_l %v, but feedforward_modules say that it scales %s", t.Shape, map[bool]string{true: "inputs", false: "outputs"}[want])
		}
		inputs = want
	}
	return Matrix{Vector: t.Data, Feedforward: inputs}, nil
}
