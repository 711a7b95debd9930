package model

import (
	"context"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// pass runs a sequence of operations and remembers the first error: after it,
// nothing more is computed. So a forward pass reads as its formulas, and the
// error is looked at once, at the end. It also knows every buffer that is still
// allocated, so that release gives all of them back.
type pass struct {
	be     backend.Backend
	err    error
	live   map[backend.Buffer]struct{}
	scales *rowScales // Of rows that have their own; nil means none has.
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

// alloc returns a buffer of n elements, or nil after an error.
func (p *pass) alloc(n int) backend.Buffer {
	if p.err != nil {
		return nil
	}
	return p.own(p.be.Alloc(n))
}

// own makes release give a new buffer back.
func (p *pass) own(b backend.Buffer, err error) backend.Buffer {
	if err != nil {
		p.err = err
		return nil
	}
	if p.live == nil {
		p.live = map[backend.Buffer]struct{}{}
	}
	p.live[b] = struct{}{}
	return b
}

// clone returns a copy of a buffer.
func (p *pass) clone(x backend.Buffer) backend.Buffer {
	if p.err != nil {
		return nil
	}
	y := p.alloc(x.Len())
	p.do(func() error { return p.be.Copy(y, x) })
	return y
}

// replace frees a buffer of rows of c elements and returns some of its rows.
func (p *pass) replace(x backend.Buffer, rows []int32, c int) backend.Buffer {
	y := p.pick(x, rows, c)
	p.free(x)
	return y
}

// pick returns a copy of some rows of c elements.
func (p *pass) pick(x backend.Buffer, rows []int32, c int) backend.Buffer {
	y := p.alloc(len(rows) * c)
	p.do(func() error { return p.be.SelectRows(y, x, rows, c) })
	return y
}

// spread is the opposite: n rows of c elements, zero but for these.
func (p *pass) spread(x backend.Buffer, rows []int32, n, c int) backend.Buffer {
	y := p.zeros(n * c)
	p.do(func() error { return p.be.ScatterRows(y, x, rows, c) })
	return y
}

// zeros returns a cleared buffer.
func (p *pass) zeros(n int) backend.Buffer {
	b := p.alloc(n)
	p.do(func() error { return p.be.Zero(b) })
	return b
}

// free gives buffers of this pass back; nil is ignored.
func (p *pass) free(buffers ...backend.Buffer) {
	for _, b := range buffers {
		if b != nil {
			delete(p.live, b)
			p.be.Free(b)
		}
	}
}

// release gives back whatever is still allocated.
func (p *pass) release() {
	for b := range p.live {
		p.be.Free(b)
	}
	p.live = nil
}

// host ends a buffer [rows, cols] and returns it as a tensor.
func (p *pass) host(b backend.Buffer, rows, cols int) *tensor.Tensor {
	if p.err != nil {
		return nil
	}
	delete(p.live, b)
	data, err := p.be.Take(b)
	if err != nil {
		p.err = err
		return nil
	}
	return &tensor.Tensor{Shape: []int{rows, cols}, Data: data}
}

// device is the opposite: it makes a buffer of data that nobody uses after.
func (p *pass) device(data []float32) backend.Buffer {
	if p.err != nil {
		return nil
	}
	return p.own(p.be.Give(data))
}

// upload copies host data to a new buffer.
func upload(be backend.Backend, data []float32) (backend.Buffer, error) {
	b, err := be.Alloc(len(data))
	if err != nil {
		return nil, err
	}
	if err := be.Upload(b, data); err != nil {
		be.Free(b)
		return nil, err
	}
	return b, nil
}
