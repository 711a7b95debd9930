package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// linear is a projection, dense or factored: exactly one of dense and u is set.
// The scales belong to this linear alone.
type linear struct {
	info  LinearInfo
	dense backend.Weight // [Out, In]

	u, vt  backend.Weight // [Out, R], [R, In]
	scales *bank          // Rows [R]; the first is the linear's own.
}

func (l *linear) factored() bool { return l.dense == nil }

func (l *linear) rank() int { return l.u.In() }

// seen is the projection as the backend sees it, with each row's own scale where
// rows have such.
func (l *linear) seen(index backend.Index) backend.Linear {
	if !l.factored() {
		return backend.Linear{W: l.dense}
	}
	return backend.Linear{U: l.u, Vt: l.vt, Scales: l.scales.of(index)}
}

func newFactored(m *Model, as backend.DType, info LinearInfo, f Factors) (*linear, error) {
	rank := len(f.S)
	if f.U == nil || f.Vt == nil || rank == 0 || !f.U.HasShape(info.Out, rank) || !f.Vt.HasShape(rank, info.In) {
		return nil, fmt.Errorf("factors of shapes %v, [%d] and %v do not make a matrix [%d %d]",
			shapeOf(f.U), rank, shapeOf(f.Vt), info.Out, info.In)
	}
	u, err := m.be.NewWeight(as, info.Out, rank, f.U.Data)
	if err != nil {
		return nil, err
	}
	vt, err := m.be.NewWeight(as, rank, info.In, f.Vt.Data)
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
func (p *pass) projection(l *linear, y backend.Buffer, index backend.Index, bias backend.Buffer, add bool) backend.Projection {
	return backend.Projection{Linear: l.seen(index), Y: y, Bias: bias, Add: add}
}

// keep computes projections of x that do not need each other and returns h = Vᵀ·x
// [n, R] of those that are factored, which backward needs.
func (p *pass) keep(x backend.Buffer, n int, all ...backend.Projection) []backend.Buffer {
	inner := make([]backend.Buffer, len(all))
	p.do(func() error {
		kept, err := p.ProjectKeep(x, n, all...)
		copy(inner, kept)
		return err
	})
	return inner
}

// backward takes dy [n, Out] back through the projection. It writes dx [n, In], or
// adds to it (unless dx is nil), and writes the gradient with respect to the scale,
// ds[i] = Σₙ (uᵢᵀdyₙ)(vᵢᵀxₙ), of a factored one.
func (l *linear) backward(p *pass, ds, dx, dy, h backend.Buffer, n int, add bool) {
	if !l.factored() {
		if dx != nil {
			p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dx, X: dy, W: l.dense, Add: add}) })
		}
		return
	}
	dh := p.alloc(n * l.rank())
	p.do(func() error { return p.MatMulBackward(n, backend.Product{Y: dh, X: dy, W: l.u}) })
	p.do(func() error { return p.ColumnDots(ds, dh, h, n) })
	if dx != nil {
		p.do(func() error {
			return p.MatMulBackward(n, backend.Product{Y: dx, X: dh, W: l.vt, Scales: l.scales.of(nil), Add: add})
		})
	}
	p.free(dh)
}

// compose writes the matrix U·diag(s)·Vᵀ of a factored projection, with its own scale,
// into a weight.
func (l *linear) compose(ctx context.Context, be backend.Backend, dst backend.Weight) error {
	own, err := l.scales.own(be)
	if err != nil {
		return err
	}
	return be.Compose(ctx, dst, l.u, l.vt, own)
}

// merged returns the dense projection, kept as this type, that equals a factored one.
func (l *linear) merged(ctx context.Context, be backend.Backend, as backend.DType) (*linear, error) {
	dst, err := be.NewWeight(as, l.info.Out, l.info.In, nil)
	if err != nil {
		return nil, err
	}
	if err := l.compose(ctx, be, dst); err != nil {
		return nil, err
	}
	return &linear{info: l.info, dense: dst}, nil
}

// matrix returns a host copy of W.
func (l *linear) matrix(ctx context.Context, be backend.Backend) ([]float32, error) {
	if l.factored() {
		var err error
		if l, err = l.merged(ctx, be, backend.F32); err != nil {
			return nil, err
		}
	}
	return be.WeightData(l.dense)
}

// checkScale says why numbers are no scale of this projection.
func (l *linear) checkScale(s []float32) error {
	if !l.factored() {
		return errors.New("it is not factored")
	}
	if len(s) != l.rank() {
		return fmt.Errorf("%d values, its rank is %d", len(s), l.rank())
	}
	return nil
}

// bytes is the projection's device memory, but for scales of others than its own.
func (l *linear) bytes() int64 {
	if !l.factored() {
		return weightBytes(l.dense)
	}
	return weightBytes(l.u) + weightBytes(l.vt) + backend.F32.Bytes(1, l.rank())
}

func weightBytes(w backend.Weight) int64 { return w.Type().Bytes(w.Out(), w.In()) }

// shapeOf describes a tensor that may be missing.
func shapeOf(t *tensor.Tensor) []int {
	if t == nil {
		return nil
	}
	return t.Shape
}
