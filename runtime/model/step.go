package model

import (
	"context"
	"fmt"
	"runtime"
	"slices"

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

// Step appends the segments to their sequences in one ragged batch, prefill and
// decode alike, and returns logits [rows, V]: for each segment in order, one row
// after its last token, or one after each token if AllLogits, and then one after each
// token of its forks. Each sequence is computed with its own Scales. On an error the
// cache's sequences are as they were; a CacheFullError says that there are too few
// free blocks for all of the segments.
func (m *Model) Step(ctx context.Context, c *Cache, segments []Segment) (logits *tensor.Tensor, err error) {
	err = m.step(ctx, c, segments, false, func(p *pass, _, b backend.Buffer, n int) {
		logits = p.host(b, n, m.config.VocabSize)
	})
	return logits, err
}

// Decide is Step, and answers what is asked about the rows of logits instead of
// returning them. On a backend that can record steps, those in which each sequence gets
// one token are recorded and repeated; the answers are the same, to the bit.
func (m *Model) Decide(ctx context.Context, c *Cache, segments []Segment, asks []backend.Ask) (answers []backend.Answer, err error) {
	// What is recorded does not keep hidden states.
	hidden := slices.ContainsFunc(asks, func(a backend.Ask) bool { return a.Hidden })
	err = m.step(ctx, c, segments, !hidden, func(p *pass, x, b backend.Buffer, n int) {
		p.do(func() (err error) {
			answers, err = p.Decide(b, n, asks)
			return err
		})
		for i, a := range asks {
			if a.Hidden && p.err == nil {
				answers[i].Hidden = m.hiddenState(p, x, a.Row)
			}
		}
	})
	return answers, err
}

// hiddenState returns a row of x [n, H] as the head sees it.
func (m *Model) hiddenState(p *pass, x backend.Buffer, row int) []float32 {
	normed := p.alloc(m.hidden)
	p.do(func() error {
		one, err := p.Rows(x, m.hidden, row, row+1)
		if err != nil {
			return err
		}
		return p.RMSNorm(normed, one, m.norm, 1, m.eps)
	})
	state := make([]float32, m.hidden)
	p.do(func() error { return p.Download(state, normed) })
	p.free(normed)
	return state
}

// taker is handed n rows of logits, and what they were made of, x [n, H], before its norm;
// that is nil where a step was repeated.
type taker func(p *pass, x, logits backend.Buffer, n int)

// step computes the segments and hands the rows of logits over, which are the cache's
// where the step may be repeated. If the pass fails the cache is as it was.
func (m *Model) step(ctx context.Context, c *Cache, segments []Segment, repeatable bool, take taker) error {
	b, err := m.plan(c, segments)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(b) // And with it the scales.
	n := len(b.tokens)
	grown, err := c.grow(b.growths)
	if err != nil {
		return fmt.Errorf("model step of %d tokens: %w", n, err)
	}
	b.place(c)
	p := m.newPass(c.arena)
	defer p.release()
	if repeatable && m.repeats(c, b) {
		m.repeat(ctx, p, c, b, take)
	} else {
		m.once(ctx, p, c, b, take)
	}
	if p.err != nil {
		c.blocks.undo(grown)
		return fmt.Errorf("model step of %d tokens: %w", n, p.err)
	}
	for _, g := range b.growths {
		c.lengths[g.seq] = g.end()
		for _, f := range g.forks {
			c.lengths[f.seq] = g.end() + f.n
		}
	}
	return nil
}

// once computes a batch.
func (m *Model) once(ctx context.Context, p *pass, c *Cache, b *batch, take taker) {
	table, err := m.rope.upTo(b.longest)
	if err != nil {
		p.err = err
		return
	}
	b.narrow(m.be)
	d, err := b.upload(c.tables)
	if err != nil {
		p.err = err
		return
	}
	x := m.through(ctx, p, c, d, table)
	logits := p.allocAs(backend.F32, d.ends.n*m.config.VocabSize)
	m.logits(p, logits, x, d.ends.n)
	if p.err == nil {
		take(p, x, logits, d.ends.n)
	}
}

// through takes a batch through the layers.
func (m *Model) through(ctx context.Context, p *pass, c *Cache, d *onDevice, table backend.Buffer) backend.Buffer {
	x := p.alloc(d.all.n * m.hidden)
	p.do(func() error { return p.Gather(x, m.embed, d.tables.At(tokenList)) })
	for i := range m.layers {
		p.check(ctx)
		out := d.all
		if i == len(m.layers)-1 {
			out = d.ends
		}
		x = m.layers[i].step(p, m, x, d, out, table, c.k[i], c.v[i])
	}
	return x
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
func (l *layer) step(p *pass, m *Model, x backend.Buffer, d *onDevice, out *rows, table, cacheK, cacheV backend.Buffer) backend.Buffer {
	cache := backend.CacheRows{K: cacheK, V: cacheV, Slots: d.tables.At(slotList)}
	norm := &backend.Norm{Gain: l.attentionNorm, Eps: m.eps}
	var q backend.Buffer
	if out == d.all {
		q = l.attend(p, m, x, norm, d, out, table, cache)
	} else {
		l.attend(p, m, x, norm, d, nil, table, cache)
		x = p.replace(x, d.tables.At(wantedList), m.hidden)
		q = p.alloc(out.n * m.width())
		p.do(func() error { return p.Project(x, norm, out.n, l.input(p, qProj, q, out.scales)) })
		q = l.normHeads(p, m, qProj, q, out.n, nil)
		p.do(func() error {
			return p.RoPE(q, out.positions, m.config.Heads, table, m.config.HeadDim, false)
		})
	}
	n := out.n
	attended := p.alloc(n * m.width())
	p.do(func() error { return p.PagedAttention(attended, q, cacheK, cacheV, out.keys, m.attention) })
	p.free(q)
	p.do(func() error { return p.Project(attended, nil, n, l.output(p, oProj, x, out.scales)) })
	p.free(attended)

	gate, up := p.alloc(n*m.inner), p.alloc(n*m.inner)
	p.do(func() error {
		return p.Project(x, &backend.Norm{Gain: l.mlpNorm, Eps: m.eps}, n, l.input(p, gateProj, gate, out.scales), l.input(p, upProj, up, out.scales))
	})
	p.do(func() error { return p.Activate(backend.SiLU, gate, gate, up) })
	p.do(func() error { return p.Project(gate, nil, n, l.output(p, downProj, x, out.scales)) })
	p.free(gate, up)
	return x
}

// attend computes keys and values of all rows of a batch, writes them into the cache,
// and returns the queries, if those of rows out are wanted, which are all.
func (l *layer) attend(p *pass, m *Model, x backend.Buffer, norm *backend.Norm, d *onDevice, out *rows, table backend.Buffer, cache backend.CacheRows) backend.Buffer {
	n := d.all.n
	var q backend.Buffer
	var all []backend.Projection
	if out != nil {
		q = p.alloc(n * m.width())
		all = append(all, l.input(p, qProj, q, out.scales))
	}
	k, v := p.alloc(n*m.keys), p.alloc(n*m.keys)
	all = append(all, l.input(p, kProj, k, d.all.scales), l.input(p, vProj, v, d.all.scales))
	p.do(func() error { return p.Project(x, norm, n, all...) })
	if q != nil {
		q = l.normHeads(p, m, qProj, q, n, nil)
	}
	k = l.normHeads(p, m, kProj, k, n, nil)
	p.do(func() error {
		return p.RotateStore(backend.Rotary{Positions: d.all.positions, Table: table, Shape: m.attention}, q, k, v, cache)
	})
	d.storeForked(p, cache.K, m.keys)
	d.storeForked(p, cache.V, m.keys)
	p.free(k, v)
	return q
}

// input is a projection that begins a half of the layer.
func (l *layer) input(p *pass, projection int, y backend.Buffer, scales rowsScaling) backend.Projection {
	return p.projection(l.linears[projection], y, scales, false)
}

// output is a projection that ends a half of the layer: it is added to the residual
// stream.
func (l *layer) output(p *pass, projection int, x backend.Buffer, scales rowsScaling) backend.Projection {
	return p.projection(l.linears[projection], x, scales, true)
}

// normHeads normalises each head of queries or keys y [n, heads·D], where the family
// does. It frees y unless it returns it, or a tape keeps it.
func (l *layer) normHeads(p *pass, m *Model, projection int, y backend.Buffer, n int, t *layerTape) backend.Buffer {
	gain := l.headNorms[projection]
	if gain == nil {
		return y
	}
	heads := m.heads(projection)
	normed := p.alloc(n * heads * m.config.HeadDim)
	p.do(func() error { return p.RMSNorm(normed, y, gain, n*heads, m.eps) })
	if t != nil {
		t.plain[projection] = y
	} else {
		p.free(y)
	}
	return normed
}

// logits computes the output projection [n, V] of x [n, H].
func (m *Model) logits(p *pass, logits, x backend.Buffer, n int) {
	p.do(func() error {
		return p.Project(x, &backend.Norm{Gain: m.norm, Eps: m.eps}, n, backend.Projection{Linear: backend.Linear{W: m.head}, Y: logits})
	})
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
