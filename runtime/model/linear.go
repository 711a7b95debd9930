package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// linear is a projection, dense or factored: exactly one of dense and u is set.
// The scale's buffer belongs to this linear alone.
type linear struct {
	info  LinearInfo
	dense backend.Weight // [Out, In]

	u, vt backend.Weight // [Out, R], [R, In]
	scale backend.Buffer // [R]
}

func (l *linear) factored() bool { return l.dense == nil }

func (l *linear) rank() int { return l.u.In() }

// own is the scale of all rows that have no other.
func (l *linear) own() *backend.Scales { return &backend.Scales{Of: []backend.Buffer{l.scale}} }

func newFactored(be backend.Backend, as backend.DType, info LinearInfo, f Factors) (*linear, error) {
	rank := len(f.S)
	if f.U == nil || f.Vt == nil || rank == 0 || !f.U.HasShape(info.Out, rank) || !f.Vt.HasShape(rank, info.In) {
		return nil, fmt.Errorf("factors of shapes %v, [%d] and %v do not make a matrix [%d %d]",
			shapeOf(f.U), rank, shapeOf(f.Vt), info.Out, info.In)
	}
	u, err := be.NewWeight(as, info.Out, rank, f.U.Data)
	if err != nil {
		return nil, err
	}
	vt, err := be.NewWeight(as, rank, info.In, f.Vt.Data)
	if err != nil {
		return nil, err
	}
	scale, err := upload(be, f.S)
	if err != nil {
		return nil, err
	}
	return &linear{info: info, u: u, vt: vt, scale: scale}, nil
}

// product is y [n, Out] = W·x for a projection's W, or with add that added to y.
type product struct {
	*linear
	y, x backend.Buffer
	add  bool
}

// forward computes projections that do not need each other, with each row's own
// scale where the pass has such. With keep it returns h = Vᵀ·x [n, R] of those that
// are factored, which backward needs.
func forward(p *pass, n int, keep bool, all ...product) []backend.Buffer {
	inner := make([]backend.Buffer, len(all))
	var first, second []backend.Product
	for i, l := range all {
		if !l.factored() {
			second = append(second, backend.Product{Y: l.y, X: l.x, W: l.dense, Add: l.add})
			continue
		}
		inner[i] = p.alloc(n * l.rank())
		first = append(first, backend.Product{Y: inner[i], X: l.x, W: l.vt})
		second = append(second, backend.Product{Y: l.y, X: inner[i], W: l.u, Scales: p.scales.of(l.linear), Add: l.add})
	}
	if len(first) > 0 {
		p.do(func() error { return p.be.MatMul(n, first...) })
	}
	p.do(func() error { return p.be.MatMul(n, second...) })
	if !keep {
		p.free(inner...)
		return nil
	}
	return inner
}

// backward takes dy [n, Out] back through the projection. It writes dx [n, In], or
// adds to it (unless dx is nil), and returns the gradient with respect to the scale,
// ds[i] = Σₙ (uᵢᵀdyₙ)(vᵢᵀxₙ), or nil for a dense projection.
func (l *linear) backward(p *pass, dx, dy, h backend.Buffer, n int, add bool) []float32 {
	if !l.factored() {
		if dx != nil {
			p.do(func() error { return p.be.MatMulBackward(n, backend.Product{Y: dx, X: dy, W: l.dense, Add: add}) })
		}
		return nil
	}
	dh := p.alloc(n * l.rank())
	p.do(func() error { return p.be.MatMulBackward(n, backend.Product{Y: dh, X: dy, W: l.u}) })
	ds := p.alloc(l.rank())
	p.do(func() error { return p.be.ColumnDots(ds, dh, h, n) })
	gradient := make([]float32, l.rank())
	p.do(func() error { return p.be.Download(gradient, ds) })
	if dx != nil {
		p.do(func() error {
			return p.be.MatMulBackward(n, backend.Product{Y: dx, X: dh, W: l.vt, Scales: l.own(), Add: add})
		})
	}
	p.free(dh, ds)
	return gradient
}

// A matrix is computed so many rows at a time: as many as take some hundredths
// of a second, between which a composition that nobody wants any more ends, and no
// fewer than fill the processors.
const (
	matrixProducts = 1 << 30
	matrixRows     = 64
)

// matrix returns a host copy of W, composing U·diag(s)·Vᵀ on the device when
// the projection is factored: the rows of U·diag(s) times Vᵀ, which is the
// backward product with the weight Vᵀ.
func (l *linear) matrix(ctx context.Context, be backend.Backend) ([]float32, error) {
	if !l.factored() {
		return be.WeightData(l.dense)
	}
	return l.product(ctx, be, max(matrixProducts/(l.rank()*l.info.In), matrixRows))
}

// product is the matrix of a factored projection, so many rows at a time. Each
// row is computed the same whatever rows are beside it.
func (l *linear) product(ctx context.Context, be backend.Backend, rows int) ([]float32, error) {
	left, err := be.WeightData(l.u)
	if err != nil {
		return nil, err
	}
	data := make([]float32, l.info.Out*l.info.In)
	p := &pass{be: be}
	for first := 0; first < l.info.Out && p.err == nil; first += rows {
		n := min(rows, l.info.Out-first)
		us, w := p.alloc(n*l.rank()), p.alloc(n*l.info.In)
		p.check(ctx)
		p.do(func() error { return be.Upload(us, left[first*l.rank():(first+n)*l.rank()]) })
		p.do(func() error {
			return be.MatMulBackward(n, backend.Product{Y: w, X: us, W: l.vt, Scales: l.own()})
		})
		p.do(func() error { return be.Download(data[first*l.info.In:(first+n)*l.info.In], w) })
		p.free(us, w)
	}
	return data, p.err
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

// bytes is the projection's device memory.
func (l *linear) bytes() int64 {
	if !l.factored() {
		return weightBytes(l.dense)
	}
	return weightBytes(l.u) + weightBytes(l.vt) + bytesOf(l.rank())
}

func weightBytes(w backend.Weight) int64 { return w.Type().Bytes(w.Out(), w.In()) }

// bytesOf is the memory of numbers in a buffer.
func bytesOf(numbers int) int64 {
	const bytesPerNumber = 4
	return bytesPerNumber * int64(numbers)
}

// shapeOf describes a tensor that may be missing.
func shapeOf(t *tensor.Tensor) []int {
	if t == nil {
		return nil
	}
	return t.Shape
}
