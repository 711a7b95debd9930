package cpu

import (
	"errors"
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

// packed is a matrix W [out, k] in panels of nr rows: panel p holds, for each
// column i, W[p·nr … p·nr+nr−1, i], so that a product reads it front to back and
// computes nr outputs at once. The last panel is filled up with zeros.
type packed struct {
	panels     []float32
	out, k, nr int
}

func newPacked(out, k, nr int) *packed {
	return &packed{panels: make([]float32, (out+nr-1)/nr*nr*k), out: out, k: k, nr: nr}
}

// eachPanel calls body for every panel with its memory, its first row and how
// many rows of the matrix it has.
func (p *packed) eachPanel(workers *pool, body func(panel []float32, first, rows int)) {
	size := p.nr * p.k
	workers.rows(len(p.panels)/size, size, func(from, to int) {
		for i := from; i < to; i++ {
			body(p.panels[i*size:][:size], i*p.nr, min(p.nr, p.out-i*p.nr))
		}
	})
}

// pack copies a matrix [out, k].
func pack(workers *pool, data []float32, out, k, nr int) *packed {
	p := newPacked(out, k, nr)
	p.eachPanel(workers, func(panel []float32, first, rows int) {
		for r := range rows {
			row := data[(first+r)*k:][:k]
			for i, v := range row {
				panel[i*nr+r] = v
			}
		}
	})
	return p
}

// packTransposed copies the transpose [out, k] of a matrix [k, out].
func packTransposed(workers *pool, data []float32, out, k, nr int) *packed {
	p := newPacked(out, k, nr)
	p.eachPanel(workers, func(panel []float32, first, rows int) {
		for i := range k {
			copy(panel[i*nr:][:rows], data[i*out+first:])
		}
	})
	return p
}

// unpack returns the matrix [out, k].
func (p *packed) unpack(workers *pool) []float32 {
	data := make([]float32, p.out*p.k)
	p.eachPanel(workers, func(panel []float32, first, rows int) {
		for r := range rows {
			row := data[(first+r)*p.k:][:p.k]
			for i := range row {
				row[i] = panel[i*p.nr+r]
			}
		}
	})
	return data
}

// copyRow copies row r of the matrix to dst.
func (p *packed) copyRow(dst []float32, r int) {
	column := p.panels[r/p.nr*p.nr*p.k+r%p.nr:]
	for i := range dst {
		dst[i] = column[i*p.nr]
	}
}

// weight is a constant matrix. The layout for the backward product is made when
// it is first needed: inference never pays for it.
type weight struct {
	forward *packed

	once       sync.Once
	transposed *packed
}

// Out implements backend.Weight.
func (w *weight) Out() int { return w.forward.out }

// In implements backend.Weight.
func (w *weight) In() int { return w.forward.k }

// backward returns Wᵀ packed.
func (w *weight) backward(workers *pool) *packed {
	w.once.Do(func() {
		f := w.forward
		w.transposed = packTransposed(workers, f.unpack(workers), f.k, f.out, f.nr)
	})
	return w.transposed
}

// NewWeight implements backend.Device.
func (b *Backend) NewWeight(out, in int, data []float32) (backend.Weight, error) {
	if out <= 0 || in <= 0 || len(data)/out != in || len(data)%out != 0 {
		return nil, fmt.Errorf("new weight [%d, %d]: %d elements given", out, in, len(data))
	}
	return &weight{forward: pack(b.pool, data, out, in, b.kernels.nr)}, nil
}

// WeightData implements backend.Device.
func (b *Backend) WeightData(w backend.Weight) ([]float32, error) {
	own, err := b.weight("weight data", w)
	if err != nil {
		return nil, err
	}
	return own.forward.unpack(b.pool), nil
}

// weight returns an operation's weight argument, or an error when it is of
// another backend, or of another path of this one with panels of another width.
func (b *Backend) weight(op string, w backend.Weight) (*weight, error) {
	own, ok := w.(*weight)
	if !ok || own == nil {
		return nil, fmt.Errorf("%s: %w", op, errForeignWeight)
	}
	if own.forward.nr != b.kernels.nr {
		return nil, fmt.Errorf("%s: %w", op, errForeignWeight)
	}
	return own, nil
}

var errForeignWeight = errors.New("the weight belongs to another backend")
