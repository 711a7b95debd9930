package model

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Branch is what an adapter, or a mixture of several, does to one projection with a
// matrix W [Out, In]:
//
//	y = Out ⊙ (W'·(In ⊙ x)) + Σₚ Low[p]·Bₚ·(Aₚ·x) + Bias ⊙ b,   W' = U·diag(σ⊙Z)·Vᵀ
//
// Members that are nil have no part in it. What a projection has Z, In, Out and Low for
// is what its model was made with: WithFactors, WithGains, WithLowRank.
type Branch struct {
	// Z [R] multiplies the own scale of a factored projection (SVF).
	Z []float32
	// In [In] and Out [Out] multiply inputs and outputs (IA3; the magnitudes of DoRA).
	In, Out []float32
	// Bias [Out] multiplies the bias of a projection with gains of its outputs, if it has
	// one: of IA3 as Out does, of DoRA it is nil.
	Bias []float32
	// Low are the scales of the projection's low-rank pairs (LoRA), in their order.
	Low []float32
}

// LowRank is a pair of low-rank matrices (LoRA, arXiv 2106.09685): beside its own
// matrix a projection computes Scale·B·(A·x).
type LowRank struct {
	// A is [r, In], B [Out, r].
	A, B *tensor.Tensor
	// Scale is what the model's own computation takes; Scales have their own.
	Scale float32
}

// fits reports whether the matrices make one of the shape of a projection's.
func (p LowRank) fits(info LinearInfo) bool {
	return p.A != nil && p.B != nil && len(p.A.Shape) == 2 && p.A.Shape[0] > 0 &&
		p.A.HasShape(p.A.Shape[0], info.In) && p.B.HasShape(info.Out, p.A.Shape[0])
}

// Parameters are what a model's own computation is adapted by, and what Backward
// differentiates by; see Branch. What a projection has not is nil.
type Parameters struct {
	// S [R] is the scale of a factored projection, σ⊙z.
	S []float32
	// A [r, In] and B [Out, r] are its low-rank pairs, behind each other.
	A, B []float32
	// In [In] and Out [Out] are its gains.
	In, Out []float32
	// Bias [Out] is its bias, where it has one and gains of its outputs.
	Bias []float32
}

// WithLowRank returns a model whose named projections have these pairs beside their
// matrix, and which shares everything else with m. Pairs are kept as float32 where
// projections are, else as bfloat16.
func (m *Model) WithLowRank(pairs map[string][]LowRank) (*Model, error) {
	return replaced(m, pairs, func(info LinearInfo, pairs []LowRank) (*linear, error) {
		l, err := m.find(info.Name)
		if err != nil {
			return nil, err
		}
		other := *l
		other.low, err = newLowRank(m.be, m.lowRankType(), info, pairs)
		return &other, err
	})
}

// lowRankType is what low-rank matrices are kept as: their elements are few, and int8
// would round what little they say.
func (m *Model) lowRankType() backend.DType {
	if m.projectionType == backend.F32 {
		return backend.F32
	}
	return backend.BF16
}

// WithGains returns a model whose named projections have gains of their inputs and of
// their outputs, ones for its own computation; it shares everything else with m.
func (m *Model) WithGains(in, out []string) (*Model, error) {
	named := map[string][2]bool{}
	for i, names := range [][]string{in, out} {
		for _, name := range names {
			which := named[name]
			which[i] = true
			named[name] = which
		}
	}
	return replaced(m, named, func(info LinearInfo, which [2]bool) (*linear, error) {
		l, err := m.find(info.Name)
		if err != nil {
			return nil, err
		}
		other := *l
		if which[0] {
			if other.in, err = newBank(m.be, ones(info.In)); err != nil {
				return nil, err
			}
		}
		if which[1] {
			if other.out, err = newBank(m.be, ones(info.Out)); err != nil {
				return nil, err
			}
			if l.bias != nil { // From now on there are others than that of m.
				if other.bias, err = l.bias.clone(m.be); err != nil {
					return nil, err
				}
			}
		}
		return &other, nil
	})
}

func ones(n int) []float32 { return slices.Repeat([]float32{1}, n) }

// SetParameters replaces what a projection is adapted by in the model's own computation;
// members that are nil stay. The values are copied. It must not run at the same time as a
// computation of this model, nor between Forward and Backward.
func (m *Model) SetParameters(name string, p Parameters) error {
	l, err := m.find(name)
	if err == nil {
		err = l.setParameters(m.be, p)
	}
	if err != nil {
		return fmt.Errorf("set the parameters of %s: %w", name, err)
	}
	return nil
}

func (l *linear) setParameters(be backend.Backend, p Parameters) error {
	rows, err := l.rows(p.S, p.In, p.Out, p.Bias)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := r.bank.replaceOwn(be, r.values); err != nil {
			return err
		}
	}
	if p.A == nil && p.B == nil {
		return nil
	}
	if l.low == nil {
		return fmt.Errorf("it has no low-rank pair")
	}
	return l.low.replace(be, p.A, p.B)
}

// bankRow are numbers for a row of a bank.
type bankRow struct {
	bank   *bank
	values []float32
}

// rows are those of the given scale, gains and bias, nil where there is none; or why they
// are none of this projection's.
func (l *linear) rows(scale, in, out, bias []float32) ([]bankRow, error) {
	var rows []bankRow
	var ofBias *bank
	if l.gainsBias() {
		ofBias = l.bias
	}
	for _, each := range []struct {
		what string
		bankRow
	}{{"scale", bankRow{l.scales, scale}}, {"input gain", bankRow{l.in, in}}, {"output gain", bankRow{l.out, out}}, {"bias", bankRow{ofBias, bias}}} {
		switch {
		case each.values == nil:
			continue
		case each.bank == nil:
			return nil, fmt.Errorf("it has no %s", each.what)
		case len(each.values) != each.bank.columns:
			return nil, fmt.Errorf("%d values of its %s, which has %d", len(each.values), each.what, each.bank.columns)
		}
		rows = append(rows, each.bankRow)
	}
	return rows, nil
}

// check says why a branch is none of this projection.
func (l *linear) check(b Branch) error {
	bias := b.Bias
	if l.bias == nil {
		bias = nil // Nothing is multiplied.
	}
	if _, err := l.rows(b.Z, b.In, b.Out, bias); err != nil {
		return err
	}
	if b.Low == nil {
		return nil
	}
	if l.low == nil {
		return fmt.Errorf("it has no low-rank pair")
	}
	if len(b.Low) != len(l.low.ranks) {
		return fmt.Errorf("%d scales for its %d low-rank pairs", len(b.Low), len(l.low.ranks))
	}
	return nil
}

// put writes a branch into a row of the projection's banks, and returns the memory that
// a row of them takes.
func (l *linear) put(be backend.Backend, row int, b Branch) (bytes int64, err error) {
	values := [...][]float32{b.Z, b.In, b.Out, nil, b.Bias}
	if l.low != nil {
		values[3] = l.low.spread(b.Low)
	}
	for i, bank := range l.banks() {
		if bank == nil {
			continue
		}
		// Of these Z and Bias are by how much the own row is multiplied.
		if err := bank.set(be, row, values[i], bank == l.scales || bank == l.bias); err != nil {
			return 0, err
		}
		bytes += bank.rowBytes()
	}
	return bytes, nil
}

// Bias returns the bias [Out] of a projection's own computation, or nil if it has none.
func (m *Model) Bias(name string) ([]float32, error) {
	l, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return l.bias.host(m.be)
}

// RowSquares returns the squared norms [Out] of the rows of a dense projection's matrix.
func (m *Model) RowSquares(name string) ([]float64, error) {
	l, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if l.factored() {
		return nil, fmt.Errorf("norms of the rows of %s: it is factored", name)
	}
	data, err := m.be.WeightData(l.dense)
	if err != nil {
		return nil, fmt.Errorf("norms of the rows of %s: %w", name, err)
	}
	out := make([]float64, l.info.Out)
	for o := range out {
		for _, w := range data[o*l.info.In:][:l.info.In] {
			out[o] += float64(w) * float64(w)
		}
	}
	return out, nil
}

// RowNorms returns the Euclidean norms [Out] of the rows of W + Scale·B·A, for the
// matrix of a dense projection, of which own are RowSquares: what DoRA divides by
// (arXiv 2402.09353). The matrix that they are norms of is never made.
func (m *Model) RowNorms(name string, own []float64, low LowRank) ([]float32, error) {
	norms, err := m.rowNorms(name, own, low)
	if err != nil {
		return nil, fmt.Errorf("norms of the rows of %s: %w", name, err)
	}
	return norms, nil
}

func (m *Model) rowNorms(name string, own []float64, low LowRank) ([]float32, error) {
	l, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if l.factored() {
		return nil, fmt.Errorf("it is factored")
	}
	out, in := l.info.Out, l.info.In
	if len(own) != out {
		return nil, fmt.Errorf("%d squared norms of its %d rows", len(own), out)
	}
	if !low.fits(l.info) {
		return nil, fmt.Errorf("low-rank matrices of shapes %v and %v are none of a matrix [%d %d]", shapeOf(low.A), shapeOf(low.B), out, in)
	}
	// ‖w + s·b·A‖² = ‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·b, a row w of W and b of B at a time.
	r := low.A.Shape[0]
	crossed, gram, err := m.products(l, low.A, r)
	if err != nil {
		return nil, err
	}
	norms, s := make([]float32, out), float64(low.Scale)
	for o := range out {
		sum, b := own[o], low.B.Data[o*r:][:r]
		for i, bi := range b {
			sum += 2 * s * float64(bi) * float64(crossed[i*out+o])
			for j, bj := range b {
				sum += s * s * float64(bi) * float64(bj) * float64(gram[i*r+j])
			}
		}
		norms[o] = float32(math.Sqrt(max(sum, 0)))
	}
	return norms, nil
}

// products returns A·Wᵀ [r, Out] and A·Aᵀ [r, r].
func (m *Model) products(l *linear, a *tensor.Tensor, r int) (crossed, gram []float32, err error) {
	p := m.newPass(m.be.NewArena())
	defer p.release()
	x := p.allocAs(backend.F32, r*l.info.In)
	y, g := p.allocAs(backend.F32, r*l.info.Out), p.allocAs(backend.F32, r*r)
	p.do(func() error { return p.Upload(x, a.Data) })
	p.do(func() error { return p.MatMul(r, backend.Product{Y: y, X: x, W: l.dense}) })
	p.do(func() error { return p.MatMulBuffers(g, x, x, r, r, l.info.In, false) })
	crossed, gram = make([]float32, r*l.info.Out), make([]float32, r*r)
	p.do(func() error { return p.Download(crossed, y) })
	p.do(func() error { return p.Download(gram, g) })
	return crossed, gram, p.err
}

// Fold is what a projection's matrix is made of, to be kept as one:
//
//	W' = diag(Out)·W·diag(In) + Σ Scale·B·A
//
// with W = U·diag(S)·Vᵀ where there are Factors, else the model's own. Bias multiplies the
// bias, where there is one.
type Fold struct {
	Factors       *Factors
	In, Out, Bias []float32
	Low           []LowRank
}

// fold returns the dense projection that a fold of another one makes.
func (m *Model) fold(info LinearInfo, f Fold) (*linear, error) {
	own, err := m.find(info.Name)
	if err != nil {
		return nil, err
	}
	l := *own
	if f.Factors != nil {
		made, err := newFactored(m, backend.F32, info, f.Factors.stored())
		if err != nil {
			return nil, err
		}
		l = *made
	}
	if l.low, err = newLowRank(m.be, backend.F32, info, f.Low); err != nil {
		return nil, err
	}
	if l.bias, err = own.bias.scaled(m.be, f.Bias); err != nil {
		return nil, fmt.Errorf("its bias: %w", err)
	}
	l.in, l.out = nil, nil
	for _, gain := range []struct {
		what   string
		values []float32
		n      int
		bank   **bank
	}{{"input", f.In, info.In, &l.in}, {"output", f.Out, info.Out, &l.out}} {
		if gain.values == nil {
			continue
		}
		if len(gain.values) != gain.n {
			return nil, fmt.Errorf("%d gains of its %ss, which are %d", len(gain.values), gain.what, gain.n)
		}
		if *gain.bank, err = newBank(m.be, gain.values); err != nil {
			return nil, err
		}
	}
	return &l, nil
}

// adapted lists the projections that Parameters may change, in the order of the
// computation.
func (m *Model) adapted() []*linear {
	var all []*linear
	for i := range m.layers {
		for _, l := range m.layers[i].linears {
			if l.adapted() {
				all = append(all, l)
			}
		}
	}
	return all
}

// sortedKeys are those of a map's projections in order, so that errors are the same each time.
func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
