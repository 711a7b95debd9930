package cpu

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// packed is a matrix W [out, k] in panels of nr rows: panel p holds, for each
// step, the columns of rows p·nr … p·nr+nr−1 as its format lays them out, so that a
// product reads it front to back and computes nr outputs at once. For float32 a
// step is one column. The last panel is filled up with zeros.
//
// Panels are not of Go's heap: they are there for as long as packed is reachable, and who
// reads them keeps it so.
type packed struct {
	kind             backend.DType
	panels           []float32
	out, k, nr       int
	steps, stepWords int // Of a panel.
	after            *successor

	of      span // Of memory that has the panels, if one has.
	cleanup runtime.Cleanup
}

// layout is a packed matrix without memory.
func layout(kind backend.DType, out, k, nr int) *packed {
	f := &formats[kind]
	return &packed{kind: kind, out: out, k: k, nr: nr, steps: (k + f.columns - 1) / f.columns, stepWords: f.lines * nr, after: &successor{}}
}

// words is how many there are in all panels.
func (p *packed) words() int { return p.count() * p.steps * p.stepWords }

// newPacked returns a matrix of zeros, in Go's heap where there is no other memory.
func newPacked(memory *memory, kind backend.DType, out, k, nr int) *packed {
	p := layout(kind, out, k, nr)
	if memory == nil {
		p.panels = make([]float32, p.words())
		return p
	}
	if p.panels, p.of = memory.take(p.words()); p.of.chunk != nil {
		p.cleanup = runtime.AddCleanup(p, memory.give, p.of)
	}
	return p
}

// release gives the panels back at once, and not when Go's collector finds that nobody
// refers to them any more: nobody may.
func (p *packed) release(memory *memory) {
	if p.of.chunk != nil {
		p.cleanup.Stop()
		memory.give(p.of)
	}
	p.panels, p.of = nil, span{}
}

// count returns the number of panels.
func (p *packed) count() int { return (p.out + p.nr - 1) / p.nr }

// eachPanel calls body for every panel with its memory, its first row and how
// many rows of the matrix it has.
func (p *packed) eachPanel(workers *pool, body func(panel []float32, first, rows int)) {
	size := p.steps * p.stepWords
	workers.rows(p.count(), p.nr*p.k, func(from, to int) {
		for i := from; i < to; i++ {
			body(p.panels[i*size:][:size], i*p.nr, min(p.nr, p.out-i*p.nr))
		}
	})
	runtime.KeepAlive(p)
}

// pack copies a matrix [out, k].
func pack(workers *pool, memory *memory, kind backend.DType, data []float32, out, k, nr int) *packed {
	p := newPacked(memory, kind, out, k, nr)
	p.eachPanel(workers, func(panel []float32, first, rows int) {
		for r := range rows {
			formats[kind].pack(panel, data[(first+r)*k:][:k], r, nr)
		}
	})
	return p
}

// turnedRows is how many rows of a matrix are turned at a time, a multiple of the columns
// that a step of floats has: unpacked, they are to stay near the processor.
const turnedRows = 64

// packTransposed copies the transpose of a packed matrix, whose steps are of float32 or
// bfloat16, in panels of nr. The matrix as float32, which is larger than both, is never
// there whole.
func packTransposed(workers *pool, memory *memory, kind backend.DType, f *packed, nr int) *packed {
	p := newPacked(memory, kind, f.k, f.out, nr)
	size, columns := p.steps*p.stepWords, formats[kind].columns
	workers.rows((f.out+turnedRows-1)/turnedRows, turnedRows*f.k, func(from, to int) {
		rows, turned := make([]float32, turnedRows*f.k), make([]float32, turnedRows)
		for first := from * turnedRows; first < min(to*turnedRows, f.out); first += turnedRows {
			n := min(turnedRows, f.out-first)
			for r := range n {
				f.copyRow(rows[r*f.k:][:f.k], first+r)
			}
			for column := range f.k {
				for r := range n {
					turned[r] = rows[r*f.k+column]
				}
				panel := p.panels[column/p.nr*size:][:size]
				formats[kind].pack(panel[first/columns*p.stepWords:], turned[:n], column%p.nr, p.nr)
			}
		}
	})
	runtime.KeepAlive(p)
	return p
}

// unpack returns the matrix [out, k].
func (p *packed) unpack(workers *pool) []float32 {
	data := make([]float32, p.out*p.k)
	p.eachPanel(workers, func(panel []float32, first, rows int) {
		for r := range rows {
			formats[p.kind].unpack(data[(first+r)*p.k:][:p.k], panel, r, p.nr)
		}
	})
	return data
}

// copyRow copies row r of the matrix to dst.
func (p *packed) copyRow(dst []float32, r int) {
	size := p.steps * p.stepWords
	formats[p.kind].unpack(dst, p.panels[r/p.nr*size:][:size], r%p.nr, p.nr)
	runtime.KeepAlive(p)
}

// weight is a constant matrix. The layout for the backward product is made when it
// is first needed: inference never pays for it. It is bfloat16 for bfloat16 and
// float32 for the other types: blocks of int8 go along rows, not columns.
type weight struct {
	forward *packed
	shared  *sharedMatrix // What it is of a set; nil where it is this process's own.

	mu         sync.Mutex
	transposed *packed
}

// Type implements backend.Weight.
func (w *weight) Type() backend.DType { return w.forward.kind }

// Out implements backend.Weight.
func (w *weight) Out() int { return w.forward.out }

// In implements backend.Weight.
func (w *weight) In() int { return w.forward.k }

// backward returns Wᵀ packed, as a backend's kernels want it.
func (w *weight) backward(workers *pool, memory *memory, by *kernels) *packed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.transposed == nil {
		f, kind := w.forward, backend.F32
		if f.kind == backend.BF16 {
			kind = backend.BF16
		}
		nr := by.width(kind)
		turn := func() (*packed, error) {
			return packTransposed(workers, memory, kind, f, nr), nil
		}
		if w.shared == nil {
			w.transposed, _ = turn()
		} else {
			w.transposed, _ = w.shared.turned().get(memory, layout(kind, f.k, f.out, nr), turn)
		}
	}
	return w.transposed
}

// changed says that the matrix is another now.
func (w *weight) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.transposed = nil
}

// NewWeight implements backend.Device.
func (b *Backend) NewWeight(t backend.DType, out, in int, data []float32) (backend.Weight, error) {
	if out <= 0 || in <= 0 || data != nil && (len(data)/out != in || len(data)%out != 0) {
		return nil, fmt.Errorf("new weight [%d, %d]: %d elements given", out, in, len(data))
	}
	if int(t) >= len(formats) {
		return nil, fmt.Errorf("new weight of type %s: %w", t, backend.ErrUnsupported)
	}
	leave, err := b.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if data == nil {
		return &weight{forward: newPacked(b.weights, t, out, in, b.kernels.width(t))}, nil
	}
	if i := unfit(b.pool, t, data, out, in); i >= 0 {
		return nil, check.Unfit("new weight", t, out, in, i/in, i%in, data[i])
	}
	return &weight{forward: pack(b.pool, b.weights, t, data, out, in, b.kernels.width(t))}, nil
}

// unfit returns the index of the first element that a type cannot hold, or −1.
func unfit(workers *pool, t backend.DType, data []float32, out, in int) int {
	if t == backend.F32 {
		return -1
	}
	var mu sync.Mutex
	first := -1
	workers.rows(out, in, func(from, to int) {
		if at := check.Fits(t, data[from*in:to*in]); at >= 0 {
			mu.Lock()
			defer mu.Unlock()
			if at += from * in; first < 0 || at < first {
				first = at
			}
		}
	})
	return first
}

// WeightData implements backend.Device.
func (b *Backend) WeightData(w backend.Weight) ([]float32, error) {
	own, err := b.weight("weight data", w)
	if err != nil {
		return nil, err
	}
	leave, err := b.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return own.forward.unpack(b.pool), nil
}

// weight returns an operation's weight argument, or an error when it is of
// another backend, or of another path of this one with panels of another width.
func (b *Backend) weight(op string, w backend.Weight) (*weight, error) {
	own, ok := w.(*weight)
	if !ok || own == nil {
		return nil, fmt.Errorf("%s: %w", op, errForeignWeight)
	}
	if own.forward.nr != b.kernels.width(own.forward.kind) {
		return nil, fmt.Errorf("%s: %w", op, errForeignWeight)
	}
	return own, nil
}

var errForeignWeight = errors.New("the weight belongs to another backend")
