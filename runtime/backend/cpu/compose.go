package cpu

import (
	"context"
	"fmt"
	"runtime"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// A matrix is composed so many rows at a time: as many as take some hundredths of a
// second, between which a composition that nobody wants any more ends, and no fewer
// than fill the processors.
const (
	composeProducts = 1 << 30
	fewestComposed  = 64
)

// Compose implements backend.LinearOps.
func (b *Backend) Compose(ctx context.Context, dst, u, vt backend.Weight, s backend.Buffer) error {
	const op = "compose"
	var own [3]*weight
	for i, w := range []backend.Weight{dst, u, vt} {
		var err error
		if own[i], err = b.weight(op, w); err != nil {
			return err
		}
	}
	rank, in := u.In(), vt.In()
	if err := check.Compose(op, dst, u, vt); err != nil {
		return err
	}
	if own[0].shared != nil {
		return fmt.Errorf("%s: the weight is shared with other processes: %w", op, backend.ErrUnsupported)
	}
	leave, err := b.enter()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer leave()
	if _, err := operands(op, operand{"s", s, rank}); err != nil {
		return err
	}
	return b.composeRows(ctx, own[0], own[1], vt, s, roundUp(max(composeProducts/(rank*in), fewestComposed), b.kernels.width(dst.Type())))
}

// composeRows composes so many rows at a time, a multiple of a panel's.
func (b *Backend) composeRows(ctx context.Context, dst, u *weight, vt backend.Weight, s backend.Buffer, rows int) error {
	const op = "compose"
	rank, in := u.In(), vt.In()
	defer dst.changed()
	most := min(rows, dst.Out())
	var memory [2]backend.Buffer // From the pool: new memory costs more than it computes.
	for i, size := range []int{most * rank, most * in} {
		var err error
		if memory[i], err = b.Alloc(backend.F32, size); err != nil {
			return err
		}
		defer b.Free(memory[i])
	}
	args, err := operands(op, operand{"rows of U", memory[0], -1}, operand{"rows", memory[1], -1})
	if err != nil {
		return err
	}
	left, w := args[0], args[1]
	for first := 0; first < dst.Out(); first += rows {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(rows, dst.Out()-first)
		b.pool.rows(n, 4*rank, func(from, to int) {
			for r := from; r < to; r++ {
				u.forward.copyRow(left[r*rank:][:rank], first+r)
			}
		})
		product := backend.Product{Y: bufferOf(w[:n*in]), X: bufferOf(left[:n*rank]), W: vt, Scales: &backend.Scales{Bank: s}}
		if err := b.MatMulBackward(n, product); err != nil {
			return err
		}
		if i := unfit(b.pool, dst.Type(), w[:n*in], n, in); i >= 0 {
			return check.Unfit(op, dst.Type(), dst.Out(), in, first+i/in, i%in, w[i])
		}
		b.pool.still.Lock()
		dst.forward.setRows(b.pool, w[:n*in], first)
		b.pool.still.Unlock()
	}
	return nil
}

// setRows stores rows of the matrix, from the first of a panel on.
func (p *packed) setRows(workers *pool, data []float32, first int) {
	size, n := p.steps*p.stepWords, len(data)/p.k
	workers.rows((n+p.nr-1)/p.nr, p.nr*p.k, func(from, to int) {
		for i := from; i < to; i++ {
			panel := p.panels[(first/p.nr+i)*size:][:size]
			clear(panel) // Formats of several elements a word add to it.
			for r := i * p.nr; r < min(n, (i+1)*p.nr); r++ {
				formats[p.kind].pack(panel, data[r*p.k:][:p.k], r-i*p.nr, p.nr)
			}
		}
	})
	runtime.KeepAlive(p)
}
