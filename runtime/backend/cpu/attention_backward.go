package cpu

import (
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// AttentionBackward implements backend.SequenceOps. A task is one sequence and
// one key-value head, because the rows of a sequence add to the same dk and dv.
func (b *Backend) AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) error {
	const op = "attention backward"
	all, rows, _, err := spansOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	groups, err := check.Groups(op, all.first, all.count)
	if err != nil {
		return err
	}
	n, width, kvWidth := len(all.count), s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	args, err := operands(op, operand{"dq", dq, n * width}, operand{"dk", dk, rows * kvWidth}, operand{"dv", dv, rows * kvWidth},
		operand{"dOut", dOut, n * width}, operand{"out", out, n * width}, operand{"lse", lse, n * s.Heads},
		operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	clear(args[0])
	clear(args[1])
	clear(args[2])
	g := attentionGradient{
		kernels: b.kernels, shape: s, keys: all,
		dq: args[0], dk: args[1], dv: args[2], dOut: args[3], out: args[4], lse: args[5],
		q: args[6], k: args[7], v: args[8],
	}
	b.pool.run(len(groups)*s.KVHeads, func(task int) {
		m, _ := b.gradients.Get().(*gradientMemory)
		if m == nil {
			m = &gradientMemory{}
		}
		group := groups[task/s.KVHeads]
		g.sequence(b, interval{group.From, group.To}, task%s.KVHeads, m)
		b.gradients.Put(m)
	})
	return nil
}

type attentionGradient struct {
	kernels                             *kernels
	shape                               backend.AttentionShape
	keys                                spans
	dq, dk, dv, dOut, out, lse, q, k, v []float32
}

// gradientMemory is what the gradients of a block of queries are computed in: as
// many queries as a panel has columns, n, which attend to k rows of keys.
type gradientMemory struct {
	p, ds          []float32 // [k, n]: probabilities, and the gradient of scores.
	qt, dOutt, dqt []float32 // [D, n]
	q, dOut        []float32 // The rows, in panels of n columns.
	kt             []float32 // [D, k] of the whole sequence.
	lse, along     []float32 // [n], negative.
}

// sequence adds the gradients of one sequence's rows in one key-value head.
// With p the attention probabilities and D = ⟨dOut, out⟩: dvⱼ += pⱼ·dOut,
// dSⱼ = pⱼ·(⟨dOut, vⱼ⟩ − D)·scale, dq += dSⱼ·kⱼ, dkⱼ += dSⱼ·q. These are products of
// matrices, of a block of queries each.
func (g *attentionGradient) sequence(b *Backend, rows interval, kvHead int, m *gradientMemory) {
	s := g.shape
	share, stride := s.Heads/s.KVHeads, s.KVHeads*s.HeadDim
	first := int(g.keys.first[rows.from])*stride + kvHead*s.HeadDim
	longest := 0
	for _, count := range g.keys.count[rows.from:rows.to] {
		longest = max(longest, int(count))
	}
	m.kt = resized(m.kt, s.HeadDim*longest)
	transpose(m.kt, longest, g.k[first:], stride, longest, s.HeadDim, 1)
	for from := rows.from; from < rows.to; from += b.kernels.nr {
		block := interval{from, min(rows.to, from+b.kernels.nr)}
		for h := kvHead * share; h < (kvHead+1)*share; h++ {
			g.block(b, block, h, first, longest, m)
		}
	}
}

// block adds the gradients of one head of a block of rows, whose keys begin at an
// element of k and v.
func (g *attentionGradient) block(b *Backend, rows interval, head, first, longest int, m *gradientMemory) {
	s, nr, n := g.shape, b.kernels.nr, rows.to-rows.from
	d, width, stride := s.HeadDim, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	at := rows.from*width + head*d
	q, dOut, out := g.q[at:], g.dOut[at:], g.out[at:]
	count := 0
	m.lse, m.along = resized(m.lse, nr), resized(m.along, nr)
	for i := range nr {
		m.lse[i], m.along[i] = lowest[0], 0 // A column without a row: no probability.
		if i < n {
			count = max(count, int(g.keys.count[rows.from+i]))
			m.lse[i] = -g.lse[(rows.from+i)*s.Heads+head]
			m.along[i] = -b.kernels.dot(dOut[i*width:][:d], out[i*width:][:d])
		}
	}
	m.qt, m.dOutt, m.dqt = resized(m.qt, d*nr), resized(m.dOutt, d*nr), resized(m.dqt, d*nr)
	clear(m.qt)
	clear(m.dOutt)
	transpose(m.qt, nr, q, width, n, d, s.Scale)
	transpose(m.dOutt, nr, dOut, width, n, d, 1)
	m.q, m.dOut = b.kernels.panelsOf(m.q, q, width, n, d, s.Scale), b.kernels.panelsOf(m.dOut, dOut, width, n, d, 1)

	m.p, m.ds = resized(m.p, count*nr), resized(m.ds, count*nr)
	for j := range count {
		copy(m.p[j*nr:], m.lse)
		copy(m.ds[j*nr:], m.along)
	}
	b.productOf(m.p, nr, g.k[first:], stride, count, m.qt, nr, d)
	b.kernels.expShifted(m.p, m.p, 0)
	for i := range n { // A row does not attend to what comes after it.
		for j := int(g.keys.count[rows.from+i]); j < count; j++ {
			m.p[j*nr+i] = 0
		}
	}
	b.productOf(m.ds, nr, g.v[first:], stride, count, m.dOutt, nr, d)
	b.kernels.mul(m.ds, m.ds, m.p)

	b.productOf(g.dv[first:], stride, m.p, nr, count, m.dOut, d, n)
	b.productOf(g.dk[first:], stride, m.ds, nr, count, m.q, d, n)
	clear(m.dqt)
	b.productOf(m.dqt, nr, m.kt, longest, d, m.ds, nr, count)
	transpose(g.dq[at:], width, m.dqt, nr, d, n, s.Scale)
}

// productOf adds a [rows, steps]·w to c [rows, out], where w [steps, out] is in
// panels.
func (b *Backend) productOf(c []float32, ldc int, a []float32, lda, rows int, w []float32, out, steps int) {
	nr := b.kernels.nr
	p := packed{kind: backend.F32, panels: w, out: out, k: steps, nr: nr, steps: steps, stepWords: nr}
	b.block(multiplication{
		kernels: b.kernels, product: &b.kernels.products[backend.F32], packed: &p,
		c: c, a: a, ldc: ldc, lda: lda, add: true,
	}, 0, rows, 0, p.count())
}

// transpose writes the transpose of x [rows, columns], times a factor. It writes
// runs that are as long as a cache line.
func transpose(y []float32, ldy int, x []float32, ldx, rows, columns int, factor float32) {
	for from := 0; from < rows; from += vectorStep {
		n := min(vectorStep, rows-from)
		for j := range columns {
			run, source := y[j*ldy+from:][:n], x[from*ldx+j:]
			for i := range run {
				run[i] = factor * source[i*ldx]
			}
		}
	}
}

// panelsOf returns x [rows, columns], times a factor, in panels.
func (k *kernels) panelsOf(panels, x []float32, ldx, rows, columns int, factor float32) []float32 {
	panels = resized(panels, roundUp(columns, k.nr)*rows)
	clear(panels)
	for i := range rows {
		for j := 0; j < columns; j += k.nr {
			row := x[i*ldx+j:][:min(k.nr, columns-j)]
			k.axpy(panels[j*rows+i*k.nr:][:len(row)], factor, row)
		}
	}
	return panels
}
