package model

import (
	"context"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// pass runs a sequence of operations and remembers the first error: after it,
// nothing more is computed. So a forward pass reads as its formulas, and the
// error is looked at once, at the end. Its buffers are those of an arena, so that
// release gives all of them back.
type pass struct {
	backend.Parts
	err error
}

// newPass begins a pass of this model whose buffers an arena has.
func (m *Model) newPass(arena backend.Arena) *pass {
	return &pass{Parts: backend.Parts{Backend: m.be, Arena: arena, Storage: m.storage.Activations}}
}

// do runs one operation unless an earlier one failed.
func (p *pass) do(operation func() error) {
	if p.err == nil {
		p.err = operation()
	}
}

// check makes the pass fail when the context has ended.
func (p *pass) check(ctx context.Context) {
	p.do(ctx.Err)
}

// alloc returns a buffer of n activations, or nil after an error.
func (p *pass) alloc(n int) backend.Buffer { return p.allocAs(p.Storage, n) }

// allocAs is alloc of numbers that are stored otherwise: logits and gradients of
// scales are float32, whatever activations are.
func (p *pass) allocAs(t backend.DType, n int) (b backend.Buffer) {
	p.do(func() (err error) {
		b, err = p.Arena.Alloc(t, n)
		return err
	})
	if p.err != nil {
		return nil // And no interface with a nil pointer in it.
	}
	return b
}

// clone returns a copy of a buffer.
func (p *pass) clone(x backend.Buffer) backend.Buffer {
	if p.err != nil {
		return nil
	}
	y := p.allocAs(x.Type(), x.Len())
	p.do(func() error { return p.Copy(y, x) })
	return y
}

// outerSums writes Σₙ aₙ·bₙᵀ to a gradient.
func (p *pass) outerSums(d, a, b backend.Buffer, n int) {
	p.do(func() error { return p.OuterSums(d, a, b, n) })
}

// replace frees a buffer of rows of c elements and returns some of its rows.
func (p *pass) replace(x backend.Buffer, rows backend.Index, c int) backend.Buffer {
	y := p.pick(x, rows, c)
	p.free(x)
	return y
}

// pick returns a copy of some rows of c elements.
func (p *pass) pick(x backend.Buffer, rows backend.Index, c int) backend.Buffer {
	if p.err != nil {
		return nil
	}
	y := p.allocAs(x.Type(), rows.Len()*c)
	p.do(func() error { return p.SelectRows(y, x, rows, c) })
	return y
}

// spread is the opposite: n rows of c elements, zero but for these.
func (p *pass) spread(x backend.Buffer, rows backend.Index, n, c int) backend.Buffer {
	y := p.zeros(n * c)
	p.do(func() error { return p.ScatterRows(y, x, rows, c) })
	return y
}

// part returns the first rows, of c elements, of a buffer that is not the pass's.
func (p *pass) part(x backend.Buffer, c, rows int) (part backend.Buffer) {
	p.do(func() (err error) {
		part, err = p.Rows(x, c, 0, rows)
		return err
	})
	if p.err != nil {
		return nil
	}
	return part
}

// zeros returns a cleared buffer.
func (p *pass) zeros(n int) backend.Buffer {
	b := p.alloc(n)
	p.do(func() error { return p.Zero(b) })
	return b
}

// ones returns a buffer of n ones.
func (p *pass) ones(n int) backend.Buffer {
	b := p.alloc(n)
	p.do(func() error { return p.Upload(b, ones(n)) })
	return b
}

// free gives buffers of this pass back; nil is ignored.
func (p *pass) free(buffers ...backend.Buffer) {
	for _, b := range buffers {
		if b != nil {
			p.Arena.Free(b)
		}
	}
}

// release gives back whatever is still allocated.
func (p *pass) release() { p.Arena.Reset() }

// host ends a buffer [rows, cols] and returns it as a tensor.
func (p *pass) host(b backend.Buffer, rows, cols int) *tensor.Tensor {
	if p.err != nil {
		return nil
	}
	p.Arena.Release(b)
	data, err := p.Take(b)
	if err != nil {
		p.err = err
		return nil
	}
	return &tensor.Tensor{Shape: []int{rows, cols}, Data: data}
}

// upload copies host data to a new buffer.
func upload(be backend.Backend, data []float32) (backend.Buffer, error) {
	b, err := be.Alloc(backend.F32, len(data))
	if err != nil {
		return nil, err
	}
	if err := be.Upload(b, data); err != nil {
		be.Free(b)
		return nil, err
	}
	return b, nil
}
