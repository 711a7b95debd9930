//go:build cuda

package cuda

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda/cumath"
)

// byLibrary reports whether cuBLAS computes a product of n rows with a weight of a type.
// Never of few: their bits decide what a decode step answers, whoever else is in it, and
// ours reads the weight as fast.
func (b *Backend) byLibrary(n int, kind backend.DType, back bool) bool {
	if b.blas == nil || n <= skinnyRows || kind == backend.Int8 {
		return false
	}
	return back || b.blasUse == backend.LibraryAlways
}

// scratch is memory that operations which are queued read and write. It is given back
// behind them: whoever gets it next is queued later.
type scratch struct {
	backend *Backend
	held    []*held
}

func (s *scratch) take(bytes int64) (address, error) {
	h, err := s.backend.hold(bytes)
	if err != nil {
		return 0, err
	}
	s.held = append(s.held, h)
	return h.at(), nil
}

func (s *scratch) give() {
	for _, h := range s.held {
		h.giver.give()
	}
}

// libraryProducts are products that cuBLAS computes one behind the other. Those that read
// the same share what has to be made of it.
type libraryProducts struct {
	*Backend
	n       int
	scratch scratch
	last    *multiplication
	input   cumath.Matrix
}

func (b *Backend) libraryProducts(n int) *libraryProducts {
	return &libraryProducts{Backend: b, n: n, scratch: scratch{backend: b}}
}

// multiply queues a product whose result is y.
func (l *libraryProducts) multiply(p *multiplication, y cumath.Matrix) error {
	if l.n == 0 {
		return nil
	}
	if l.last == nil || !p.readsAs(l.last) || p.w.kind != l.last.w.kind {
		var err error
		if l.input, err = l.inputOf(p); err != nil {
			return err
		}
		l.last = p
	}
	product := cumath.Product{
		N: l.n, M: p.outputs(), K: p.inputs(), Y: y, X: l.input, Plain: p.plain, Add: p.add,
		W: cumath.Matrix{At: uint64(p.w.at()), Pitch: p.w.pitch, Type: elementType(p.w.kind)},
	}
	block := p.w.block // Kept until it is read.
	l.launches.Add(1)
	return l.later(func() error {
		_ = block
		return l.blas.Multiply(product)
	})
}

// inputOf is x, scaled as the product says and rounded as its weight says.
func (l *libraryProducts) inputOf(p *multiplication) (cumath.Matrix, error) {
	columns := p.inputs()
	x := *p.x
	if p.bank != 0 {
		scaled, err := l.scaled(p)
		if err != nil {
			return cumath.Matrix{}, err
		}
		x.start = scaled
	}
	switch as := p.w.kind; {
	case x.kind == as:
		return cumath.Matrix{At: uint64(x.start), Pitch: columns, Type: elementType(as)}, nil
	case as == backend.BF16:
		rounded, err := l.newMatrix(backend.BF16, l.n, columns)
		if err != nil {
			return cumath.Matrix{}, err
		}
		l.scratch.held = append(l.scratch.held, rounded.block)
		return cumath.Matrix{At: uint64(rounded.at()), Pitch: rounded.pitch, Type: cumath.BFloat16}, l.pack(&rounded, 0, l.n, x.start)
	default:
		wide := buffer{kind: backend.F32, n: x.n}
		var err error
		if wide.start, err = l.scratch.take(wide.bytes()); err != nil {
			return cumath.Matrix{}, err
		}
		return cumath.Matrix{At: uint64(wide.start), Pitch: columns, Type: cumath.Float32}, l.convert(&wide, &x)
	}
}

// scaled is x, each row scaled by the row of the bank that is its own, and stored as x is.
func (l *libraryProducts) scaled(p *multiplication) (address, error) {
	n, columns := l.n, p.inputs()
	out, err := l.scratch.take(p.x.kind.Bytes(n, columns))
	if err != nil {
		return 0, err
	}
	return out, l.launch(l.kernelOf(opScaleColumns, p.x.kind), l.rowsOfVectors(n, columns), 0, out, p.x.start, p.bank, p.index, whole(n), whole(columns))
}

// widenForLibrary makes y float32 where cuBLAS cannot write what it is: it writes
// bfloat16 of bfloat16 alone.
func (b *Backend) widenForLibrary(op string, p *multiplication) (*buffer, error) {
	if p.y.kind == p.w.kind || p.y.kind == backend.F32 {
		return nil, nil
	}
	return b.roundAfterwards(op, p)
}

// elementType is how cuBLAS calls a type of weights.
func elementType(t backend.DType) cumath.Type {
	if t == backend.BF16 {
		return cumath.BFloat16
	}
	return cumath.Float32
}

// multiplyByLibrary computes those products that are cuBLAS's, and returns the others.
func (b *Backend) multiplyByLibrary(n int, all []multiplication) (others []multiplication, err error) {
	l := b.libraryProducts(n)
	defer l.scratch.give()
	for i := range all {
		p := &all[i]
		if !p.library {
			others = append(others, *p)
		} else if err := l.multiply(p, p.result()); err != nil {
			return nil, err
		}
	}
	return others, nil
}

// result is y as cuBLAS takes it.
func (p *multiplication) result() cumath.Matrix {
	return cumath.Matrix{At: uint64(p.y.start), Pitch: p.outputs(), Type: elementType(p.y.kind)}
}

// composesInto reports whether cuBLAS composes a weight in place: what it multiplies
// becomes what the weight stores, rounded once.
func (b *Backend) composesInto(dst, u, vt *weight) bool {
	to, by := dst.matrix.kind, vt.matrix.kind
	if b.blas == nil || dst.Out() <= skinnyRows || u.matrix.kind == backend.Int8 {
		return false
	}
	return by == backend.BF16 && to != backend.Int8 || by == backend.F32 && to == backend.F32
}

// composeRows writes rows of a weight from the first on: us [n, R], scaled, times vt.
func (b *Backend) composeRows(dst *matrix, first, n int, us *buffer, vt *weight, s address) error {
	l := b.libraryProducts(n)
	defer l.scratch.give()
	at := dst.at() + address(int64(first)*int64(dst.pitch)*elementBytes(dst.kind))
	return l.multiply(&multiplication{x: us, w: &vt.matrix, bank: s, plain: true},
		cumath.Matrix{At: uint64(at), Pitch: dst.pitch, Type: elementType(dst.kind)})
}
