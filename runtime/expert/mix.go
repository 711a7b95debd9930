package expert

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Identity returns the expert that leaves every matrix as it is: in a mixture, its weight
// is the share of the base weights. Its digest is contract.BaseName; it is in no file.
func Identity() Adapter {
	return Adapter{Manifest: contract.ExpertManifest{Digest: contract.BaseName}}
}

// Weighted is an expert and its share α in a mixture.
type Weighted struct {
	Adapter Adapter
	Alpha   float64
	// Layers, where it is not nil, has a share for each layer of the model instead of
	// Alpha.
	Layers []float64
}

// OnAnswers reports whether the experts of a mixture act on answers alone
// (contract.ActivationAnswer). All of them must, or none; the base takes part in either.
func OnAnswers(parts []Weighted) (bool, error) {
	first, on := "", false
	for _, p := range parts {
		of := p.Adapter.Manifest
		answers := of.Activation == contract.ActivationAnswer
		switch {
		case of.Digest == contract.BaseName:
		case first == "":
			first, on = of.Digest, answers
		case answers != on:
			return false, fmt.Errorf("experts %s and %s cannot be mixed: one acts on answers alone, and one on prompts, too", first, of.Digest)
		}
	}
	return on, nil
}

// share is α of the expert in a matrix.
func (w Weighted) share(matrix string) (float64, error) {
	if w.Layers == nil {
		return w.Alpha, nil
	}
	layer := layerOf(matrix)
	if layer < 0 || layer >= len(w.Layers) {
		return 0, fmt.Errorf("has no weight of expert %s, which gives weights of %d layers", w.Adapter.Manifest.Digest, len(w.Layers))
	}
	return w.Layers[layer], nil
}

// Shares are all of the expert's shares: one, or one for each layer.
func (w Weighted) Shares() []float64 {
	if w.Layers == nil {
		return []float64{w.Alpha}
	}
	return w.Layers
}

// Mixed is what a mixture does to one matrix: W' = diag(Out)·W_Z·diag(In) + Σ α·B·A,
// where what is nil leaves it as it is.
type Mixed struct {
	// Z multiplies the singular values.
	Z []float32
	// In and Out are gains of inputs and outputs, and Bias of a bias, where there is one: of
	// IA3, whose gains of outputs are behind it, while DoRA's are of the matrix alone.
	In, Out, Bias []float32
	// Low are shares in low-rank pairs, in the mixture's order.
	Low []Share
}

// Share is the part that an expert's low-rank pair has.
type Share struct {
	// Digest is the expert's.
	Digest string
	// Pair has the expert's scale and gains in it: its own Scale is α.
	Pair model.LowRank
}

// Mix returns W' = W + Σₖ αₖ·(W'ₖ − W), matrix by matrix. For SVF it is
// z' = Σₖ αₖ·zₖ (section 3.2 of the paper), also where the weights do not add up to 1,
// which then scales the whole matrix; a vector that does not scale a matrix counts there
// as ones: it leaves the matrix as it is.
//
// Refused is what is no mixture of that kind: experts of two bases or decompositions;
// SVF beside another method with weights that do not add up to 1, of which the methods
// would make two things; and two kinds of factors of one matrix, whose mixture is not
// the product of their mixtures.
//
// Weights may differ by layer: each matrix is mixed by those of its layer.
func Mix(mixture []Weighted) (map[string]Mixed, error) {
	whole, err := checkMixture(mixture)
	if err != nil {
		return nil, fmt.Errorf("mixing experts: %w", err)
	}
	matrices := map[string]struct{}{}
	for _, w := range mixture {
		for _, name := range w.Adapter.Matrices() {
			matrices[name] = struct{}{}
		}
	}
	mixed := make(map[string]Mixed, len(matrices))
	for name := range matrices {
		alpha, total, err := sharesIn(name, mixture)
		if err == nil && whole && math.Abs(total-1) > hair {
			err = fmt.Errorf("has weights of %s and another method that add up to %v: make it 1, by which both mean the same", SVF, total)
		}
		var one Mixed
		if err == nil {
			one, err = mixMatrix(name, mixture, alpha, total)
		}
		if err != nil {
			return nil, fmt.Errorf("mixing experts: %s %w", name, err)
		}
		mixed[name] = one
	}
	return mixed, nil
}

// hair is what weights that add up to 1 may miss it by.
const hair = 1e-6

// checkMixture reports whether the weights have to add up to 1, as they have where SVF
// is mixed with another method.
func checkMixture(mixture []Weighted) (whole bool, err error) {
	var base, decomposition, method string
	scaled, first := false, true
	for i, w := range mixture {
		for _, alpha := range w.Shares() {
			if math.IsNaN(alpha) || math.IsInf(alpha, 0) {
				return false, fmt.Errorf("weight %d is %v", i, alpha)
			}
		}
		m := w.Adapter.Manifest
		if len(w.Adapter.Matrices()) == 0 {
			continue // The base, of whatever model.
		}
		if !first && m.BaseDigest != base {
			return false, fmt.Errorf("one is of base model %s, another of %s", base, m.BaseDigest)
		}
		base, first = m.BaseDigest, false
		if len(w.Adapter.Z) == 0 {
			method = string(w.Adapter.Method)
			continue
		}
		if scaled && m.DecompositionDigest != decomposition {
			return false, fmt.Errorf("one is of decomposition %s, another of %s", decomposition, m.DecompositionDigest)
		}
		scaled, decomposition = true, m.DecompositionDigest
	}
	return scaled && method != "", nil
}

// sharesIn are the weights of a mixture in a matrix, and their sum.
func sharesIn(matrix string, mixture []Weighted) (alpha []float64, total float64, err error) {
	alpha = make([]float64, len(mixture))
	for i, w := range mixture {
		if alpha[i], err = w.share(matrix); err != nil {
			return nil, 0, err
		}
		total += alpha[i]
	}
	return alpha, total, nil
}

func mixMatrix(name string, mixture []Weighted, alpha []float64, total float64) (Mixed, error) {
	var mixed Mixed
	kinds := 0
	for _, each := range []struct {
		what string
		of   func(Adapter) map[string][]float32
		base float64
		to   *[]float32
	}{
		{"singular values", func(v Adapter) map[string][]float32 { return v.Z }, total, &mixed.Z},
		{"inputs", func(v Adapter) map[string][]float32 { return v.In }, 1, &mixed.In},
		{"outputs", func(v Adapter) map[string][]float32 { return v.Out }, 1, &mixed.Out},
		{"outputs", Adapter.biasGains, 1, &mixed.Bias},
	} {
		// Sum deviations from 1, so that a mixture of ones is exactly ones.
		var sum []float64
		for k, w := range mixture {
			values, ok := each.of(w.Adapter)[name]
			if !ok {
				continue
			}
			if sum == nil {
				sum = make([]float64, len(values))
			}
			if len(sum) != len(values) {
				return mixed, fmt.Errorf("is scaled by %d and by %d numbers of its %s", len(sum), len(values), each.what)
			}
			for i, x := range values {
				sum[i] += alpha[k] * (float64(x) - 1)
			}
		}
		if sum == nil {
			continue
		}
		if each.to != &mixed.Bias {
			kinds++
		}
		*each.to = make([]float32, len(sum))
		for i := range sum {
			(*each.to)[i] = float32(each.base + sum[i])
		}
	}
	if kinds > 1 && len(mixture) > 1 {
		return mixed, errors.New("is scaled in more than one way, of its singular values, inputs and outputs: such experts do not mix")
	}
	for k, w := range mixture {
		if _, ok := w.Adapter.Low[name]; ok && alpha[k] != 0 {
			pair := w.Adapter.Pair(name)
			pair.Scale = float32(alpha[k])
			mixed.Low = append(mixed.Low, Share{Digest: w.Adapter.Manifest.Digest, Pair: pair})
		}
	}
	return mixed, nil
}

// biasGains are the gains of outputs that multiply biases, too.
func (v Adapter) biasGains() map[string][]float32 {
	if v.Method == IA3 {
		return v.Out
	}
	return nil
}

// Pair returns an expert's low-rank pair of a matrix with its scale, and the expert's gains
// of that matrix, in it; the zero value if it has none.
func (v Adapter) Pair(name string) model.LowRank {
	low, ok := v.Low[name]
	if !ok {
		return model.LowRank{}
	}
	a, b := low.A, tensor.New(low.B.Shape...)
	r := low.B.Shape[1]
	out, in := v.Out[name], v.In[name]
	for i, x := range low.B.Data {
		x *= low.Scale
		if out != nil {
			x *= out[i/r]
		}
		b.Data[i] = x
	}
	if in != nil {
		a = tensor.New(low.A.Shape...)
		for i, x := range low.A.Data {
			a.Data[i] = x * in[i%len(in)]
		}
	}
	return model.LowRank{A: a, B: b, Scale: 1}
}

// Branch is what the mixture does to a matrix whose low-rank pairs are those of experts
// with these digests, in this order.
func (x Mixed) Branch(pairs []string) (model.Branch, error) {
	b := model.Branch{Z: x.Z, In: x.In, Out: x.Out, Bias: x.Bias}
	if len(x.Low) == 0 {
		return b, nil
	}
	b.Low = make([]float32, len(pairs))
	for _, share := range x.Low {
		at := slices.Index(pairs, share.Digest)
		if at < 0 {
			return b, fmt.Errorf("the low-rank pair of expert %s is not loaded", share.Digest)
		}
		b.Low[at] += share.Pair.Scale
	}
	return b, nil
}

// Compose returns a model in which every matrix of a mixture is dense; everything else is
// shared with m. It holds the factors of one matrix at a time, so that it needs little
// more memory than the result.
func Compose(ctx context.Context, m *model.Model, d *Decomposition, mixture map[string]Mixed) (*model.Model, error) {
	composed := m
	for _, name := range slices.SortedFunc(maps.Keys(mixture), compareMatrices) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("composing: %w", context.Cause(ctx))
		}
		fold, err := mixture[name].fold(ctx, d, name)
		if err != nil {
			return nil, fmt.Errorf("composing: %w", err)
		}
		if composed, err = composed.Folded(ctx, map[string]model.Fold{name: fold}); err != nil {
			return nil, fmt.Errorf("composing: %w", err)
		}
	}
	return composed, nil
}

// Matrix returns what the mixture makes of a matrix W [Out, In], on the host, in float32:
// bit for bit what Compose puts into a model of the same backend that keeps its
// matrices as float32, if nothing but singular values is scaled. Where they are not, base
// returns W, which is taken.
func (x Mixed) Matrix(ctx context.Context, be backend.Backend, d *Decomposition, name string, base func() (*tensor.Tensor, error)) (*tensor.Tensor, error) {
	w, err := x.scaledMatrix(ctx, be, d, name, base)
	if err != nil {
		return nil, fmt.Errorf("composing %s: %w", name, err)
	}
	out, in := w.Rows(), w.Cols()
	if x.In != nil && len(x.In) != in || x.Out != nil && len(x.Out) != out {
		return nil, fmt.Errorf("composing %s: gains of %d inputs and %d outputs for a matrix %v", name, len(x.In), len(x.Out), w.Shape)
	}
	for _, share := range x.Low {
		if share.Pair.A.Cols() != in || share.Pair.B.Rows() != out {
			return nil, fmt.Errorf("composing %s: low-rank matrices %v and %v for a matrix %v", name, share.Pair.A.Shape, share.Pair.B.Shape, w.Shape)
		}
	}
	sum := make([]float64, in)
	for o := range out {
		row := w.Row(o)
		for i, v := range row {
			sum[i] = float64(v)
			if x.In != nil {
				sum[i] *= float64(x.In[i])
			}
			if x.Out != nil {
				sum[i] *= float64(x.Out[o])
			}
		}
		for _, share := range x.Low {
			for r, b := range share.Pair.B.Row(o) {
				scaled := float64(share.Pair.Scale) * float64(b)
				for i, a := range share.Pair.A.Row(r) {
					sum[i] += scaled * float64(a)
				}
			}
		}
		for i, v := range sum {
			row[i] = float32(v)
		}
	}
	return w, nil
}

// ScaleBias multiplies the bias [Out] of the matrix by what the mixture makes of it.
func (x Mixed) ScaleBias(bias []float32) error {
	if x.Bias == nil {
		return nil
	}
	if len(bias) != len(x.Bias) {
		return fmt.Errorf("a bias of %d elements, of which %d are scaled", len(bias), len(x.Bias))
	}
	for i := range bias {
		bias[i] *= x.Bias[i]
	}
	return nil
}

// scaledMatrix is W with its singular values scaled, if they are.
func (x Mixed) scaledMatrix(ctx context.Context, be backend.Backend, d *Decomposition, name string, base func() (*tensor.Tensor, error)) (*tensor.Tensor, error) {
	if x.Z == nil {
		return base()
	}
	f, err := d.Factors(ctx, name)
	if err == nil {
		f.S, err = ScaledSigma(f.S, x.Z)
	}
	if err != nil {
		return nil, err
	}
	return composeOn(ctx, be, f)
}

func composeOn(ctx context.Context, be backend.Backend, f model.Factors) (*tensor.Tensor, error) {
	out, in, rank := f.U.Rows(), f.Vt.Cols(), len(f.S)
	u, err := be.NewWeight(backend.F32, out, rank, f.U.Data)
	if err != nil {
		return nil, err
	}
	vt, err := be.NewWeight(backend.F32, rank, in, f.Vt.Data)
	if err != nil {
		return nil, err
	}
	dst, err := be.NewWeight(backend.F32, out, in, nil)
	if err != nil {
		return nil, err
	}
	s, err := be.Alloc(backend.F32, rank)
	if err != nil {
		return nil, err
	}
	defer be.Free(s)
	if err := be.Upload(s, f.S); err != nil {
		return nil, err
	}
	if err := be.Compose(ctx, dst, u, vt, s); err != nil {
		return nil, err
	}
	data, err := be.WeightData(dst)
	if err != nil {
		return nil, err
	}
	return tensor.FromSlice(data, out, in)
}

func (x Mixed) fold(ctx context.Context, d *Decomposition, name string) (model.Fold, error) {
	fold := model.Fold{In: x.In, Out: x.Out, Bias: x.Bias}
	for _, share := range x.Low {
		fold.Low = append(fold.Low, share.Pair)
	}
	if x.Z == nil {
		return fold, nil
	}
	f, err := d.Factors(ctx, name)
	if err != nil {
		return fold, err
	}
	if f.S, err = ScaledSigma(f.S, x.Z); err != nil {
		return fold, fmt.Errorf("%s: %w", name, err)
	}
	fold.Factors = &f
	return fold, nil
}
