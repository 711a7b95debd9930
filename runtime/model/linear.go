package model

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// linear is a projection, dense or factored: exactly one of dense and u is set. Beside
// its matrix it may have gains and low-rank pairs. Their rows are the model's own in the
// first, and those of mixtures behind it.
type linear struct {
	info  LinearInfo
	dense backend.Weight // [Out, In]

	u, vt  backend.Weight // [Out, R], [R, In]
	scales *bank          // Rows [R].

	in, out *bank    // Gains: rows [In] and [Out]; nil where there are none.
	low     *lowRank // Likewise.
	bias    *bank    // Likewise: rows [Out], those of mixtures where there are gains of outputs.
}

func (l *linear) factored() bool { return l.dense == nil }

// adapted reports that the projection computes with more than a dense matrix.
func (l *linear) adapted() bool { return l.factored() || l.beside() }

// beside reports that it has something beside its matrix.
func (l *linear) beside() bool { return l.in != nil || l.out != nil || l.low != nil }

// gainsBias reports that mixtures have biases of their own.
func (l *linear) gainsBias() bool { return l.bias != nil && l.out != nil }

func (l *linear) rank() int { return l.u.In() }

// seen is the projection as the backend sees it, with each row's own scale where
// rows have such.
func (l *linear) seen(p *pass, s rowsScaling) backend.Linear {
	seen := backend.Linear{W: l.dense}
	if l.factored() {
		seen = backend.Linear{U: l.u, Vt: l.vt, Scales: l.scales.of(s.index)}
	}
	if l.in != nil {
		seen.In = l.in.of(s.index)
	}
	if l.out != nil {
		seen.Out = l.out.of(s.index)
	}
	if l.low != nil {
		seen.Low = l.low.seen(p, s, l.info.Name)
	}
	return seen
}

func newFactored(m *Model, as backend.DType, info LinearInfo, f StoredFactors) (*linear, error) {
	rank := len(f.S)
	if rank == 0 {
		return nil, errors.New("factors without singular values")
	}
	read := sync.OnceValues(func() (Factors, error) {
		read, err := f.Read()
		if err != nil {
			return read, err
		}
		if read.U == nil || read.Vt == nil || len(read.S) != rank || !read.U.HasShape(info.Out, rank) || !read.Vt.HasShape(rank, info.In) {
			return read, fmt.Errorf("factors of shapes %v, [%d] and %v do not make a matrix [%d %d]",
				shapeOf(read.U), len(read.S), shapeOf(read.Vt), info.Out, info.In)
		}
		return read, nil
	})
	weight := func(name string, out, in int, which func(Factors) *tensor.Tensor) (backend.Weight, error) {
		return backend.SharedWeight(m.be, originOf(f.Digest, info.Name+name), as, out, in, func() ([]float32, error) {
			read, err := read()
			if err != nil {
				return nil, err
			}
			return which(read).Data, nil
		})
	}
	u, err := weight(".U", info.Out, rank, func(f Factors) *tensor.Tensor { return f.U })
	if err != nil {
		return nil, err
	}
	vt, err := weight(".Vt", rank, info.In, func(f Factors) *tensor.Tensor { return f.Vt })
	if err != nil {
		return nil, err
	}
	scales, err := newBank(m.be, f.S)
	if err != nil {
		return nil, err
	}
	return &linear{info: info, u: u, vt: vt, scales: scales}, nil
}

// projection is y [n, Out] = W·x, or with add that added to y.
func (p *pass) projection(l *linear, y backend.Buffer, s rowsScaling, add bool) backend.Projection {
	made := backend.Projection{Linear: l.seen(p, s), Y: y, Add: add}
	if l.gainsBias() {
		made.Bias = l.bias.of(s.index)
	} else if l.bias != nil {
		made.Bias = l.bias.of(nil)
	}
	return made
}

// keep computes projections of x that do not need each other and returns what their
// gradients need.
func (p *pass) keep(x backend.Buffer, n int, all ...backend.Projection) []backend.Kept {
	kept := make([]backend.Kept, len(all))
	p.do(func() error {
		made, err := p.ProjectKeep(x, n, all...)
		copy(kept, made)
		return err
	})
	return kept
}

// backward takes dy [n, Out] back through the projection. It writes dx [n, In], or
// adds to it (unless dx is nil), and writes the gradients of its parameters to g. x is
// its input, which those of gains and of low-rank pairs need.
func (l *linear) backward(p *pass, g *gradient, dx, dy, x backend.Buffer, kept backend.Kept, n int, add bool) {
	l.matrixBackward(p, g, dx, dy, x, kept, n, add)
	if l.gainsBias() {
		one := p.ones(n)
		p.outerSums(g.bias, one, dy, n)
		p.free(one)
	}
	if l.low == nil {
		return
	}
	scales := l.low.scales.of(nil)
	dh := p.alloc(n * l.low.a.Out())
	p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dh, X: dy, W: l.low.b}) })
	p.do(func() error { return p.ScaleColumns(dh, dh, *scales, n) })
	p.do(func() error { return p.ScaleColumns(kept.Low, kept.Low, *scales, n) })
	p.outerSums(g.a, dh, x, n)
	p.outerSums(g.bt, kept.Low, dy, n)
	if dx != nil {
		p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dx, X: dh, W: l.low.a, Add: true}) })
	}
	p.free(dh)
}

// matrixBackward is backward without the low-rank pairs.
func (l *linear) matrixBackward(p *pass, g *gradient, dx, dy, x backend.Buffer, kept backend.Kept, n int, add bool) {
	if l.out != nil {
		p.do(func() error { return p.ColumnDots(g.out, dy, kept.Plain, n) })
		through := p.alloc(n * l.info.Out)
		defer func() { p.free(through) }()
		p.do(func() error { return p.ScaleColumns(through, dy, *l.out.of(nil), n) })
		dy = through
	}
	if l.in == nil {
		l.innerBackward(p, g, dx, dy, kept.Inner, n, add)
		return
	}
	// The gradient with respect to In ⊙ x, from which both of them follow.
	scaled := p.alloc(n * l.info.In)
	l.innerBackward(p, g, scaled, dy, kept.Inner, n, false)
	p.do(func() error { return p.ColumnDots(g.in, scaled, x, n) })
	if dx != nil {
		target := dx
		if add {
			target = scaled
		}
		p.do(func() error { return p.ScaleColumns(target, scaled, *l.in.of(nil), n) })
		if add {
			p.do(func() error { return p.Add(dx, scaled) })
		}
	}
	p.free(scaled)
}

// innerBackward takes dy back through the matrix alone. It writes the gradient of the
// scale, ds[i] = Σₙ (uᵢᵀdyₙ)(vᵢᵀxₙ), of a factored one, of which h is Vᵀ·x.
func (l *linear) innerBackward(p *pass, g *gradient, dx, dy, h backend.Buffer, n int, add bool) {
	if !l.factored() {
		if dx != nil {
			p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dx, X: dy, W: l.dense, Add: add}) })
		}
		return
	}
	dh := p.alloc(n * l.rank())
	p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dh, X: dy, W: l.u}) })
	p.do(func() error { return p.ColumnDots(g.s, dh, h, n) })
	if dx != nil {
		p.do(func() error {
			return p.MatMulBackward(n, backend.Product{Y: dx, X: dh, W: l.vt, Scales: l.scales.of(nil), Add: add})
		})
	}
	p.free(dh)
}

// needsInput reports that the gradients need the projection's input.
func (l *linear) needsInput() bool { return l.in != nil || l.low != nil }

// compose writes the matrix U·diag(s)·Vᵀ of a factored projection, with its own scale,
// into a weight.
func (l *linear) compose(ctx context.Context, be backend.Backend, dst backend.Weight) error {
	own, err := l.scales.own(be)
	if err != nil {
		return err
	}
	return be.Compose(ctx, dst, l.u, l.vt, own)
}

// merged returns the dense projection, kept as this type, that equals an adapted one.
func (l *linear) merged(ctx context.Context, be backend.Backend, as backend.DType) (*linear, error) {
	if l.beside() || !l.factored() {
		return l.folded(ctx, be, as)
	}
	dst, err := be.NewWeight(as, l.info.Out, l.info.In, nil)
	if err != nil {
		return nil, err
	}
	if err := l.compose(ctx, be, dst); err != nil {
		return nil, err
	}
	return &linear{info: l.info, dense: dst, bias: l.bias}, nil
}

// folded is merged of any projection. It is computed in float32 and rounded once.
func (l *linear) folded(ctx context.Context, be backend.Backend, as backend.DType) (*linear, error) {
	if !l.adapted() && l.dense.Type() == as {
		return l, nil
	}
	inner := linear{info: l.info, dense: l.dense, u: l.u, vt: l.vt, scales: l.scales}
	data, err := inner.matrix(ctx, be)
	if err != nil {
		return nil, err
	}
	in, err := l.in.host(be)
	if err != nil {
		return nil, err
	}
	out, err := l.out.host(be)
	if err != nil {
		return nil, err
	}
	for o := range l.info.Out {
		row := data[o*l.info.In:][:l.info.In]
		for i := range row {
			if in != nil {
				row[i] *= in[i]
			}
			if out != nil {
				row[i] *= out[o]
			}
		}
	}
	if l.low != nil {
		if data, err = l.low.addTo(be, data, l.info); err != nil {
			return nil, err
		}
	}
	dst, err := be.NewWeight(as, l.info.Out, l.info.In, data)
	if err != nil {
		return nil, err
	}
	bias := l.bias
	if l.gainsBias() { // What becomes of it later is nothing to this one.
		if bias, err = l.bias.clone(be); err != nil {
			return nil, err
		}
	}
	return &linear{info: l.info, dense: dst, bias: bias}, nil
}

// addTo returns w [Out, In] + B·diag(scale)·A with the model's own scale. It takes w.
func (l *lowRank) addTo(be backend.Backend, w []float32, info LinearInfo) ([]float32, error) {
	scale, err := l.scales.host(be)
	if err != nil {
		return nil, err
	}
	b, err := be.WeightData(l.b)
	if err != nil {
		return nil, err
	}
	a, err := be.WeightData(l.a)
	if err != nil {
		return nil, err
	}
	r := len(scale)
	for i := range b {
		b[i] *= scale[i%r]
	}
	vt, err := be.NewWeight(backend.F32, info.In, r, transposed(a, r, info.In))
	if err != nil {
		return nil, err
	}
	x, err := be.Give(b)
	if err != nil {
		return nil, err
	}
	defer be.Free(x)
	y, err := be.Give(w)
	if err != nil {
		return nil, err
	}
	if err := be.MatMul(info.Out, backend.Product{Y: y, X: x, W: vt, Add: true}); err != nil {
		be.Free(y)
		return nil, err
	}
	return be.Take(y)
}

// transposed returns a matrix [rows, columns] turned.
func transposed(m []float32, rows, columns int) []float32 {
	out := make([]float32, len(m))
	for i := range rows {
		for j := range columns {
			out[j*rows+i] = m[i*columns+j]
		}
	}
	return out
}

// matrix returns a host copy of W.
func (l *linear) matrix(ctx context.Context, be backend.Backend) ([]float32, error) {
	if l.adapted() {
		var err error
		if l, err = l.merged(ctx, be, backend.F32); err != nil {
			return nil, err
		}
	}
	return be.WeightData(l.dense)
}

// banks are those that the projection has; nil where it has none of a kind.
func (l *linear) banks() [5]*bank {
	all := [5]*bank{l.scales, l.in, l.out}
	if l.low != nil {
		all[3] = l.low.scales
	}
	if l.gainsBias() {
		all[4] = l.bias
	}
	return all
}

// parts are the weights and banks that the projection consists of, with the device memory
// that each takes, but for rows of others than its own.
func (l *linear) parts() map[any]int64 {
	parts := map[any]int64{}
	weights := []backend.Weight{l.dense, l.u, l.vt}
	if l.low != nil {
		weights = append(weights, l.low.a, l.low.b)
		for _, each := range l.low.each {
			weights = append(weights, each.a, each.b)
		}
	}
	for _, w := range weights {
		if w != nil {
			parts[w] = weightBytes(w)
		}
	}
	for _, b := range l.banks() {
		if b != nil {
			parts[b] = b.rowBytes()
		}
	}
	return parts
}

func weightBytes(w backend.Weight) int64 { return w.Type().Bytes(w.Out(), w.In()) }

// shapeOf describes a tensor that may be missing.
func shapeOf(t *tensor.Tensor) []int {
	if t == nil {
		return nil
	}
	return t.Shape
}
