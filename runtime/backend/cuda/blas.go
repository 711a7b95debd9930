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
	memory *memory
	held   []*held
}

func (s *scratch) take(bytes int64) (address, error) {
	h, err := s.memory.hold(bytes)
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
	return &libraryProducts{Backend: b, n: n, scratch: scratch{memory: b.memory}}
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
	return l.owner.later(func() error {
		_ = block
		return l.blas.Multiply(product)
	})
}

// inputOf is x, scaled as the product says and rounded as its weight says.
func (l *libraryProducts) inputOf(p *multiplication) (cumath.Matrix, error) {
	const size = 4
	columns := p.inputs()
	x := p.x
	if p.bank != 0 {
		scaled, err := l.scratch.take(int64(l.n) * int64(columns) * size)
		if err == nil {
			err = l.scaleInto(scaled, p)
		}
		if err != nil {
			return cumath.Matrix{}, err
		}
		x = scaled
	}
	if p.w.kind != backend.BF16 {
		return cumath.Matrix{At: uint64(x), Pitch: columns, Type: cumath.Float32}, nil
	}
	rounded, err := l.newMatrix(backend.BF16, l.n, columns)
	if err != nil {
		return cumath.Matrix{}, err
	}
	l.scratch.held = append(l.scratch.held, rounded.block)
	return cumath.Matrix{At: uint64(rounded.at()), Pitch: rounded.pitch, Type: cumath.BFloat16}, l.pack(&rounded, 0, l.n, x)
}

// scaleInto writes x, each row scaled by the row of the bank that is its own.
func (l *libraryProducts) scaleInto(scaled address, p *multiplication) error {
	n, columns := l.n, p.inputs()
	bank := p.bank
	if p.index != 0 {
		// The rows' scales behind each other: then all is one row.
		if err := l.launch(l.kernelOf(opSelect, backend.F32), l.rowsOfVectors(n, columns), 0, scaled, bank, p.index, whole(n), whole(columns)); err != nil {
			return err
		}
		n, columns, bank = 1, n*columns, scaled
	}
	return l.launch(l.kernelOf(opScaleColumns, backend.F32), l.rowsOfVectors(n, columns), 0, scaled, p.x, bank, whole(n), whole(columns))
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
	return cumath.Matrix{At: uint64(p.y), Pitch: p.outputs(), Type: cumath.Float32}
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
func (b *Backend) composeRows(dst *matrix, first, n int, us address, vt *weight, s address) error {
	l := b.libraryProducts(n)
	defer l.scratch.give()
	at := dst.at() + address(int64(first)*int64(dst.pitch)*elementBytes(dst.kind))
	return l.multiply(&multiplication{x: us, w: &vt.matrix, bank: s, plain: true},
		cumath.Matrix{At: uint64(at), Pitch: dst.pitch, Type: elementType(dst.kind)})
}
