package model

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Segment is the next run of tokens of one sequence in a cache: a whole prompt,
// or the token sampled last.
type Segment struct {
	// Seq is the sequence in the cache.
	Seq int
	// Tokens continue it; there is at least one.
	Tokens []int32
	// AllLogits asks for the logits after every token instead of the last.
	AllLogits bool
	// Scales are what the model's factored projections are scaled by for this
	// sequence; nil means by their own scale (z = 1 where that is σ). They must be
	// of the model that computes, and the same for all tokens of a sequence: its
	// keys and values in the cache belong to the scales that they were made with.
	Scales *Scales
	// Forks go on behind Tokens, each in a sequence of its own and with the logits
	// after each of its tokens.
	Forks []Fork
}

// Rows returns how many rows of logits a step gives for the segment.
func (s Segment) Rows() int {
	n := 1
	if s.AllLogits {
		n = len(s.Tokens)
	}
	for _, f := range s.Forks {
		n += len(f.Tokens)
	}
	return n
}

// Fork is one of several ways in which a sequence might go on, computed in one step
// with the sequence's own tokens.
type Fork struct {
	// Seq is an empty sequence in the cache. It becomes what the segment's is after
	// the step, and Tokens.
	Seq int
	// Tokens continue it; there is at least one.
	Tokens []int32
}

// batch is a set of segments as rows.
type batch struct {
	rows
	tokens    []int32
	growths   []growth // Of the segments.
	cacheRows []int32  // Where each row's key and value go.
	forked    []int32  // Rows whose key and value forks have for themselves, too,
	forkRows  []int32  // and where those go.
	wanted    []int32  // Rows whose logits are wanted.
	longest   int      // Highest position + 1.
}

// rows are tokens on their way through the layers.
type rows struct {
	positions []int32
	keys      []backend.Pages // What each row attends to.
	scales    rowScales
}

// ends returns the rows that are wanted, which are all that the last layer
// computes beside keys and values.
func (b *batch) ends() *rows {
	if len(b.wanted) == len(b.positions) {
		return &b.rows
	}
	return &rows{positions: selected(b.positions, b.wanted), keys: selected(b.keys, b.wanted), scales: b.scales.selected(b.wanted)}
}

// selected returns the elements with these indices.
func selected[T any](all []T, indices []int32) []T {
	out := make([]T, len(indices))
	for i, index := range indices {
		out[i] = all[index]
	}
	return out
}

// Step appends the segments to their sequences in one ragged batch, prefill and
// decode alike, and returns logits [rows, V]: for each segment in order, one row
// after its last token, or one after each token if AllLogits, and then one after each
// token of its forks. Each sequence is computed with its own Scales. On an error the
// cache's sequences are as they were; a CacheFullError says that there are too few
// free blocks for all of the segments.
func (m *Model) Step(ctx context.Context, c *Cache, segments []Segment) (*tensor.Tensor, error) {
	b, err := m.plan(c, segments)
	if err != nil {
		return nil, err
	}
	table, err := m.rope.upTo(b.longest)
	if err != nil {
		return nil, err
	}
	grown, err := c.grow(b.growths)
	if err != nil {
		return nil, fmt.Errorf("model step of %d tokens: %w", len(b.tokens), err)
	}
	b.place(c)
	p := &pass{be: m.be}
	defer p.release()
	n := len(b.tokens)
	x := p.alloc(n * m.hidden)
	p.do(func() error { return m.be.Gather(x, m.embed, b.tokens) })
	for i := range m.layers {
		p.check(ctx)
		out := &b.rows
		if i == len(m.layers)-1 {
			out = b.ends()
		}
		x = m.layers[i].step(p, m, x, b, out, table, c.k[i], c.v[i])
	}
	logits := p.host(m.logits(p, x, len(b.wanted)), len(b.wanted), m.config.VocabSize)
	if p.err != nil {
		c.blocks.undo(grown)
		return nil, fmt.Errorf("model step of %d tokens: %w", n, p.err)
	}
	for _, g := range b.growths {
		c.lengths[g.seq] = g.end()
		for _, f := range g.forks {
			c.lengths[f.seq] = g.end() + f.n
		}
	}
	return logits, nil
}

// plan validates the segments and lays them out as rows.
func (m *Model) plan(c *Cache, segments []Segment) (*batch, error) {
	if len(segments) == 0 {
		return nil, fmt.Errorf("a model step without segments")
	}
	if !c.fits(m) {
		return nil, fmt.Errorf("the cache was made for another model, or is closed")
	}
	b := &batch{}
	seen := map[int]bool{}
	for _, s := range segments {
		g := growth{seq: s.Seq, from: c.Len(s.Seq), n: len(s.Tokens)}
		if err := b.add(m, c, seen, run{g.seq, g.from, s.Tokens, s.AllLogits, s.Scales}); err != nil {
			return nil, err
		}
		for _, f := range s.Forks {
			if n := c.Len(f.Seq); n > 0 {
				return nil, fmt.Errorf("sequence %d has %d tokens and cannot become a fork of sequence %d", f.Seq, n, s.Seq)
			}
			if err := b.add(m, c, seen, run{f.Seq, g.end(), f.Tokens, true, s.Scales}); err != nil {
				return nil, fmt.Errorf("a fork of sequence %d: %w", s.Seq, err)
			}
			g.forks = append(g.forks, fork{seq: f.Seq, n: len(f.Tokens)})
		}
		b.growths = append(b.growths, g)
	}
	return b, nil
}

// run are tokens of one sequence behind its first from.
type run struct {
	seq, from int
	tokens    []int32
	allLogits bool
	scales    *Scales
}

// add validates a run and lays it out as rows. No sequence may have two.
func (b *batch) add(m *Model, c *Cache, seen map[int]bool, r run) error {
	if err := c.checkSeq(r.seq); err != nil {
		return err
	}
	if seen[r.seq] {
		return fmt.Errorf("sequence %d has two segments in one step", r.seq)
	}
	seen[r.seq] = true
	if len(r.tokens) == 0 {
		return fmt.Errorf("the segment of sequence %d is empty", r.seq)
	}
	if len(r.tokens) > c.maxLen-r.from {
		return fmt.Errorf("%d tokens more than sequence %d can take: %d of %d are used",
			len(r.tokens), r.seq, r.from, c.maxLen)
	}
	if err := m.checkTokens(r.tokens); err != nil {
		return fmt.Errorf("sequence %d: %w", r.seq, err)
	}
	if err := b.scales.add(m, r.scales, len(r.tokens)); err != nil {
		return fmt.Errorf("sequence %d: %w", r.seq, err)
	}
	for i := range r.tokens {
		if r.allLogits || i == len(r.tokens)-1 {
			b.wanted = append(b.wanted, int32(len(b.positions)))
		}
		b.positions = append(b.positions, int32(r.from+i))
	}
	b.tokens = append(b.tokens, r.tokens...)
	b.longest = max(b.longest, r.from+len(r.tokens))
	return nil
}

// place looks up where the rows' keys and values go, and where those are that
// they attend to, once the sequences have the blocks.
func (b *batch) place(c *Cache) {
	rows := func(seq, from, n int) {
		for i := from; i < from+n; i++ {
			b.cacheRows = append(b.cacheRows, c.blocks.row(seq, i))
			b.keys = append(b.keys, backend.Pages{Table: c.blocks.tables[seq], Count: int32(i + 1)})
		}
	}
	for _, g := range b.growths {
		first := len(b.cacheRows)
		rows(g.seq, g.from, g.n)
		for _, f := range g.forks {
			for i := g.parted(); i < g.end(); i++ {
				b.forked = append(b.forked, int32(first+i-g.from))
				b.forkRows = append(b.forkRows, c.blocks.row(f.seq, i))
			}
			rows(f.seq, g.end(), f.n)
		}
	}
}

// store writes the rows' keys or values to where they go.
func (b *batch) store(p *pass, cache, values backend.Buffer, width int) {
	p.do(func() error { return p.be.ScatterRows(cache, values, b.cacheRows, width) })
	if len(b.forked) == 0 {
		return
	}
	again := p.pick(values, b.forked, width)
	p.do(func() error { return p.be.ScatterRows(cache, again, b.forkRows, width) })
	p.free(again)
}

func (m *Model) checkTokens(tokens []int32) error {
	for i, t := range tokens {
		if t < 0 || int(t) >= m.config.VocabSize {
			return fmt.Errorf("token %d is %d; the model has the tokens 0 to %d", i, t, m.config.VocabSize-1)
		}
	}
	return nil
}

// step computes one layer in place on x [n, H], writing this batch's keys and
// values into the cache first. Where out are fewer rows than the batch's it returns
// those in a new buffer.
func (l *layer) step(p *pass, m *Model, x backend.Buffer, b *batch, out *rows, table, cacheK, cacheV backend.Buffer) backend.Buffer {
	p.scales = &b.scales
	n := len(b.positions)
	normed := p.alloc(n * m.hidden)
	p.do(func() error { return p.be.RMSNorm(normed, x, l.attentionNorm, n, m.eps) })
	var q, k, v backend.Buffer
	if out == &b.rows {
		qkv := l.project(p, m, normed, b.positions, table, nil, qProj, kProj, vProj)
		q, k, v = qkv[0], qkv[1], qkv[2]
	} else {
		kv := l.project(p, m, normed, b.positions, table, nil, kProj, vProj)
		k, v = kv[0], kv[1]
		p.scales = &out.scales
		n = len(out.positions)
		x, normed = p.replace(x, b.wanted, m.hidden), p.replace(normed, b.wanted, m.hidden)
		q = l.project(p, m, normed, out.positions, table, nil, qProj)[0]
	}
	b.store(p, cacheK, k, m.keys)
	b.store(p, cacheV, v, m.keys)
	p.free(k, v)
	attended := p.alloc(n * m.width())
	p.do(func() error {
		return p.be.PagedAttention(attended, q, cacheK, cacheV, out.keys, BlockSize, m.attention)
	})
	p.free(q)
	forward(p, n, false, product{l.linears[oProj], x, attended, true})
	p.free(attended)

	p.do(func() error { return p.be.RMSNorm(normed, x, l.mlpNorm, n, m.eps) })
	gate, up := p.alloc(n*m.inner), p.alloc(n*m.inner)
	forward(p, n, false, product{l.linears[gateProj], gate, normed, false}, product{l.linears[upProj], up, normed, false})
	p.do(func() error { return p.be.SwiGLU(gate, gate, up) })
	forward(p, n, false, product{l.linears[downProj], x, gate, true})
	p.free(normed, gate, up)
	return x
}

// project computes some of queries, keys and values of normed [n, H], and
// normalises (where the family does) and rotates the former two by their positions.
// With a tape it keeps what backward needs.
func (l *layer) project(p *pass, m *Model, normed backend.Buffer, positions []int32, table backend.Buffer, t *layerTape, which ...int) []backend.Buffer {
	n := len(positions)
	out := make([]backend.Buffer, len(which))
	products := make([]product, len(which))
	for i, projection := range which {
		out[i] = p.alloc(n * m.heads(projection) * m.config.HeadDim)
		products[i] = product{l.linears[projection], out[i], normed, false}
	}
	inner := forward(p, n, t != nil, products...)
	for i, projection := range which {
		if t != nil {
			t.inner[projection] = inner[i]
		}
		out[i] = l.turn(p, m, projection, out[i], positions, table, t)
	}
	return out
}

// turn makes queries, keys or values of what their projection returned. It frees y
// unless it returns or keeps it.
func (l *layer) turn(p *pass, m *Model, projection int, y backend.Buffer, positions []int32, table backend.Buffer, t *layerTape) backend.Buffer {
	i := projection - qProj
	n, heads := len(positions), m.heads(projection)
	if bias := l.biases[i]; bias != nil {
		p.do(func() error { return p.be.AddToRows(y, bias, n) })
	}
	if projection == vProj {
		return y
	}
	if gain := l.headNorms[i]; gain != nil {
		plain := y
		y = p.alloc(n * heads * m.config.HeadDim)
		p.do(func() error { return p.be.RMSNorm(y, plain, gain, n*heads, m.eps) })
		if t != nil {
			t.plain[i] = plain
		} else {
			p.free(plain)
		}
	}
	p.do(func() error { return p.be.RoPE(y, positions, heads, table, m.config.HeadDim, false) })
	return y
}

// logits computes the output projection [n, V] of x [n, H].
func (m *Model) logits(p *pass, x backend.Buffer, n int) backend.Buffer {
	normed, out := p.alloc(n*m.hidden), p.alloc(n*m.config.VocabSize)
	p.do(func() error { return m.be.RMSNorm(normed, x, m.norm, n, m.eps) })
	p.do(func() error { return m.be.MatMul(n, backend.Product{Y: out, X: normed, W: m.head}) })
	p.free(normed)
	return out
}

// heads is how many heads queries, keys or values have.
func (m *Model) heads(projection int) int {
	if projection == qProj {
		return m.config.Heads
	}
	return m.config.KVHeads
}

// width is Heads·HeadDim, the width of queries; it need not be H.
func (m *Model) width() int { return m.config.Heads * m.config.HeadDim }
