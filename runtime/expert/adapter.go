package expert

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Method is how an expert adapts its base.
type Method string

// Methods.
const (
	// SVF scales singular values (Transformer², section 3.1).
	SVF Method = "SVF"
	// LoRA adds a product of low-rank matrices (arXiv 2106.09685).
	LoRA Method = "LoRA"
	// DoRA is LoRA, and a magnitude of each row of the sum (arXiv 2402.09353).
	DoRA Method = "DoRA"
	// IA3 scales inputs or outputs (arXiv 2205.05638).
	IA3 Method = "IA3"
)

// Methods lists them.
func Methods() []Method { return []Method{SVF, LoRA, DoRA, IA3} }

func methodNames() string {
	var names []string
	for _, m := range Methods() {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// Adapter is an expert: what it does to matrices of its base, by their names. A matrix W
// becomes
//
//	W' = diag(Out)·(W_Z + Low.Scale·Low.B·Low.A)·diag(In),   W_Z = U·diag(σ⊙Z)·Vᵀ
//
// where what is absent leaves it as it is. IA3's Out multiplies a bias, too.
type Adapter struct {
	Manifest contract.ExpertManifest
	// Method is what made it; empty means SVF.
	Method Method
	// Z has the effective z of each matrix that SVF scales.
	Z map[string][]float32
	// Low has the pairs of LoRA and DoRA.
	Low map[string]LowRank
	// In and Out have the gains of IA3, and Out what DoRA's magnitudes come to: the
	// magnitude of each row through the norm that it has.
	In, Out map[string][]float32
}

// LowRank is a pair of low-rank matrices.
type LowRank struct {
	model.LowRank
	// Magnitude is that of each row, of DoRA: what other programs keep. Nil else.
	Magnitude []float32
}

// Matrices lists what the expert adapts, by layer and then by module.
func (v Adapter) Matrices() []string {
	all := map[string]struct{}{}
	for name := range v.Z {
		all[name] = struct{}{}
	}
	for name := range v.Low {
		all[name] = struct{}{}
	}
	for _, gains := range []map[string][]float32{v.In, v.Out} {
		for name := range gains {
			all[name] = struct{}{}
		}
	}
	return slices.SortedFunc(maps.Keys(all), compareMatrices)
}

// Parameters counts the numbers that the expert consists of.
func (v Adapter) Parameters() int {
	n := 0
	for _, z := range v.Z {
		n += len(z)
	}
	for _, low := range v.Low {
		n += len(low.A.Data) + len(low.B.Data) + len(low.Magnitude)
	}
	for _, gains := range []map[string][]float32{v.In, v.Out} {
		for name, g := range gains {
			if v.Low[name].Magnitude == nil {
				n += len(g)
			}
		}
	}
	return n
}

// Fits checks that the expert scales exactly this decomposition; the error,
// contract.ReasonDecompositionMismatch, says what differs.
func (v Adapter) Fits(d *Decomposition) error {
	mismatch := func(format string, args ...any) error {
		return failure.Permanentf(contract.ReasonDecompositionMismatch, "expert does not fit: "+format, args...)
	}
	m, dm := v.Manifest, d.Manifest()
	if m.BaseDigest != dm.BaseDigest {
		return mismatch("it was made for base model %s, this decomposition is of %s; train or import it for this base, "+TransferHint, m.BaseDigest, dm.BaseDigest)
	}
	if len(v.Z) > 0 && m.DecompositionDigest != dm.Digest {
		return mismatch("it was made for decomposition %s, this one is %s; both are of base model %s, but modules or dtype differ", m.DecompositionDigest, dm.Digest, dm.BaseDigest)
	}
	for _, name := range slices.SortedFunc(maps.Keys(v.Z), compareMatrices) {
		switch rank := d.Rank(name); {
		case rank == 0:
			return mismatch("it scales %s, which the decomposition has not", name)
		case rank != len(v.Z[name]):
			return mismatch("it scales %s by %d numbers, which has %d singular values", name, len(v.Z[name]), rank)
		}
	}
	return nil
}

// FitsModel checks that what the expert does to matrices suits these of a model.
func (v Adapter) FitsModel(linears []model.LinearInfo) error {
	shapes := map[string]model.LinearInfo{}
	for _, info := range linears {
		shapes[info.Name] = info
	}
	mismatch := func(format string, args ...any) error {
		return failure.Permanentf(contract.ReasonDecompositionMismatch, "expert does not fit: "+format, args...)
	}
	for _, name := range v.Matrices() {
		info, ok := shapes[name]
		if !ok {
			return mismatch("it adapts %s, which the model has not", name)
		}
		if low, ok := v.Low[name]; ok && (low.A.Shape[1] != info.In || low.B.Shape[0] != info.Out) {
			return mismatch("its low-rank matrices of %s have the shapes %v and %v, and the matrix is [%d %d]", name, low.A.Shape, low.B.Shape, info.Out, info.In)
		}
		if g, ok := v.In[name]; ok && len(g) != info.In {
			return mismatch("it scales %d inputs of %s, which has %d", len(g), name, info.In)
		}
		if g, ok := v.Out[name]; ok && len(g) != info.Out {
			return mismatch("it scales %d outputs of %s, which has %d", len(g), name, info.Out)
		}
	}
	return nil
}

// The parts of a tensor's name behind the matrix' in File, of all methods but SVF, which
// has one tensor a matrix.
const (
	partA         = ".lora_A"
	partB         = ".lora_B"
	partScale     = ".scale"
	partMagnitude = ".magnitude"
	partIn        = ".in"
	partOut       = ".out"
)

// tensors are those of File.
func (v Adapter) tensors() map[string]*tensor.Tensor {
	all := map[string]*tensor.Tensor{}
	row := func(name string, values []float32) {
		all[name] = &tensor.Tensor{Shape: []int{len(values)}, Data: values}
	}
	for name, z := range v.Z {
		row(name, z)
	}
	for name, low := range v.Low {
		all[name+partA], all[name+partB] = low.A, low.B
		row(name+partScale, []float32{low.Scale})
		if low.Magnitude != nil {
			row(name+partMagnitude, low.Magnitude)
		}
	}
	for name, g := range v.In {
		row(name+partIn, g)
	}
	for name, g := range v.Out {
		row(name+partOut, g)
	}
	return all
}

// readScales reads the tensors of SVF.
func (v *Adapter) readScales(f *checkpoint.File) error {
	v.Z = map[string][]float32{}
	for _, name := range f.Names() {
		z, err := rowOf(f, name)
		if err != nil {
			return err
		}
		v.Z[name] = z
	}
	if len(v.Z) == 0 {
		return errors.New("scales no matrix")
	}
	return nil
}

func rowOf(f *checkpoint.File, name string) ([]float32, error) {
	info, _ := f.Info(name)
	if info.DType != string(tensor.F32) || len(info.Shape) != 1 || info.Shape[0] == 0 {
		return nil, fmt.Errorf("tensor %q is %s %v, scales are F32 and have one dimension", name, info.DType, info.Shape)
	}
	t, err := f.Tensor(name)
	if err != nil {
		return nil, err
	}
	return t.Data, nil
}

// readBranches reads the tensors of the other methods.
func (v *Adapter) readBranches(f *checkpoint.File) error {
	v.Low, v.In, v.Out = map[string]LowRank{}, map[string][]float32{}, map[string][]float32{}
	for _, tensorName := range f.Names() {
		at := strings.LastIndexByte(tensorName, '.')
		if at < 0 {
			return fmt.Errorf("tensor %q is no part of an expert of method %s", tensorName, v.Method)
		}
		name, part := tensorName[:at], tensorName[at:]
		if err := v.readPart(f, tensorName, name, part); err != nil {
			return err
		}
	}
	for name, low := range v.Low {
		if err := low.whole(v.Method == DoRA); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, gained := v.Out[name]; gained != (v.Method == DoRA) {
			return fmt.Errorf("%s: a gain of its outputs is there for method %s, and for no other with low-rank matrices", name, DoRA)
		}
	}
	if len(v.Matrices()) == 0 {
		return errors.New("adapts no matrix")
	}
	return nil
}

func (v *Adapter) readPart(f *checkpoint.File, tensorName, name, part string) error {
	low := v.Low[name]
	allowed := part == partIn || part == partOut
	if v.Method != IA3 {
		allowed = part == partA || part == partB || part == partScale || v.Method == DoRA && (part == partMagnitude || part == partOut)
	}
	if !allowed {
		return fmt.Errorf("tensor %q is no part of an expert of method %s", tensorName, v.Method)
	}
	if part == partA || part == partB {
		info, _ := f.Info(tensorName)
		if info.DType != string(tensor.F32) || len(info.Shape) != 2 || info.Shape[0] == 0 || info.Shape[1] == 0 {
			return fmt.Errorf("tensor %q is %s %v, low-rank matrices are F32 and have two dimensions", tensorName, info.DType, info.Shape)
		}
		t, err := f.Tensor(tensorName)
		if err != nil {
			return err
		}
		if err := finite(tensorName, t.Data); err != nil {
			return err
		}
		if part == partA {
			low.A = t
		} else {
			low.B = t
		}
		v.Low[name] = low
		return nil
	}
	row, err := rowOf(f, tensorName)
	if err != nil {
		return err
	}
	if err := finite(tensorName, row); err != nil {
		return err
	}
	switch part {
	case partIn:
		v.In[name] = row
	case partOut:
		v.Out[name] = row
	case partScale:
		if len(row) != 1 {
			return fmt.Errorf("tensor %q has %d elements, a scale is one", tensorName, len(row))
		}
		low.Scale = row[0]
		v.Low[name] = low
	case partMagnitude:
		low.Magnitude = row
		v.Low[name] = low
	}
	return nil
}

// whole says what a pair lacks.
func (l LowRank) whole(magnitude bool) error {
	switch {
	case l.A == nil || l.B == nil:
		return errors.New("one of its low-rank matrices is missing")
	case l.A.Shape[0] != l.B.Shape[1]:
		return fmt.Errorf("its low-rank matrices have the shapes %v and %v, which make no product", l.A.Shape, l.B.Shape)
	case magnitude && len(l.Magnitude) != l.B.Shape[0]:
		return fmt.Errorf("it has %d magnitudes for %d outputs", len(l.Magnitude), l.B.Shape[0])
	default:
		return nil
	}
}

func finite(name string, values []float32) error {
	for i, x := range values {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return fmt.Errorf("element %d of tensor %q is %v", i, name, x)
		}
	}
	return nil
}
