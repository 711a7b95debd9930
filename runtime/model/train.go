package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Sequence is one training sequence: a prompt and its answer.
type Sequence struct {
	// Tokens are all tokens of the sequence, at least two.
	Tokens []int32
	// From is the first position whose logits are wanted. Logits of position i
	// predict token i+1, so From is the prompt's length minus one, and the last
	// position wanted is len(Tokens)−2.
	From int
}

// Tape remembers a forward pass for Backward. It holds device memory until
// Backward or Release.
type Tape struct {
	pass   *pass
	model  *Model
	rows   trainRows
	wanted []int32 // Rows whose logits are wanted.
	ends   trainRows
	table  backend.Buffer
	final  backend.Buffer // The wanted rows of x after the last layer.
	layers []layerTape
}

// trainRows are tokens on their way through the layers.
type trainRows struct {
	positions []int32
	spans     []backend.Span // What each attends to.
}

func (r *trainRows) n() int { return len(r.positions) }

// layerTape is what one layer's backward pass reads.
type layerTape struct {
	// Rows that the layer's output has, of its input's; nil means all.
	picked        []int32
	x, middle     backend.Buffer    // Residual stream: before attention, before the MLP.
	q, k, v       backend.Buffer    // After rotation.
	plain         [2]backend.Buffer // q and k before their norm, where there is one.
	attended, lse backend.Buffer
	gate, up      backend.Buffer
	inner         [projections]backend.Buffer // Vᵀ·x of the factored projections.
}

// Forward computes the logits [N, V] of all sequences: for each sequence in
// order, one row for each of the positions From to len−2. The sequences are
// packed, not padded. The tape must be given to Backward or released.
func (m *Model) Forward(ctx context.Context, sequences []Sequence) (*tensor.Tensor, *Tape, error) {
	if !m.be.Capabilities().Backward {
		return nil, nil, fmt.Errorf("train on %s: %w", m.be.Name(), backend.ErrUnsupported)
	}
	t, tokens, err := m.newTape(sequences)
	if err != nil {
		return nil, nil, err
	}
	p := t.pass
	x := p.alloc(len(tokens) * m.hidden)
	p.do(func() error { return m.be.Gather(x, m.embed, tokens) })
	lowest := m.lowestFactored()
	if last := len(m.layers) - 1; len(t.wanted) < len(tokens) {
		t.layers[last].picked = t.wanted
	}
	for i := range m.layers {
		p.check(ctx)
		x = m.layers[i].forward(p, m, x, t, &t.layers[i])
		if i < lowest { // Backward will not come here.
			t.layers[i].free(p)
		}
	}
	t.final = x
	logits := p.host(m.logits(p, x, len(t.wanted)), len(t.wanted), m.config.VocabSize)
	if p.err != nil {
		p.release()
		return nil, nil, fmt.Errorf("forward pass of %d tokens: %w", len(tokens), p.err)
	}
	return logits, t, nil
}

func (m *Model) newTape(sequences []Sequence) (*Tape, []int32, error) {
	if len(sequences) == 0 {
		return nil, nil, errors.New("a forward pass without sequences")
	}
	t := &Tape{pass: &pass{be: m.be}, model: m, layers: make([]layerTape, len(m.layers))}
	var tokens []int32
	longest := 0
	for i, s := range sequences {
		if len(s.Tokens) < 2 || s.From < 0 || s.From > len(s.Tokens)-2 {
			return nil, nil, fmt.Errorf("sequence %d: logits from position %d of %d tokens", i, s.From, len(s.Tokens))
		}
		if err := m.checkTokens(s.Tokens); err != nil {
			return nil, nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		first := int32(len(tokens))
		inputs := s.Tokens[:len(s.Tokens)-1] // Nothing follows the last one.
		for j := range inputs {
			if j >= s.From {
				t.wanted = append(t.wanted, first+int32(j))
			}
			t.rows.positions = append(t.rows.positions, int32(j))
			t.rows.spans = append(t.rows.spans, backend.Span{First: first, Count: int32(j + 1)})
		}
		tokens = append(tokens, inputs...)
		longest = max(longest, len(inputs))
	}
	table, err := m.rope.upTo(longest)
	if err != nil {
		return nil, nil, err
	}
	t.table = table
	t.ends = trainRows{positions: selected(t.rows.positions, t.wanted), spans: selected(t.rows.spans, t.wanted)}
	return t, tokens, nil
}

// out returns the rows of a layer's output.
func (t *Tape) out(lt *layerTape) *trainRows {
	if lt.picked != nil {
		return &t.ends
	}
	return &t.rows
}

// forward computes one layer of x [n, H], or those of its rows that are picked,
// into a new buffer.
func (l *layer) forward(p *pass, m *Model, x backend.Buffer, t *Tape, lt *layerTape) backend.Buffer {
	n := t.rows.n()
	lt.x = x
	normed := p.alloc(n * m.hidden)
	p.do(func() error { return p.be.RMSNorm(normed, x, l.attentionNorm, n, m.eps) })
	rows := t.out(lt)
	if lt.picked == nil {
		lt.middle = p.clone(x)
		qkv := l.project(p, m, normed, rows.positions, t.table, lt, qProj, kProj, vProj)
		lt.q, lt.k, lt.v = qkv[0], qkv[1], qkv[2]
	} else {
		kv := l.project(p, m, normed, t.rows.positions, t.table, lt, kProj, vProj)
		lt.k, lt.v = kv[0], kv[1]
		n = rows.n()
		lt.middle, normed = p.pick(x, lt.picked, m.hidden), p.replace(normed, lt.picked, m.hidden)
		lt.q = l.project(p, m, normed, rows.positions, t.table, lt, qProj)[0]
	}
	lt.attended, lt.lse = p.alloc(n*m.width()), p.alloc(n*m.config.Heads)
	p.do(func() error {
		return p.be.Attention(lt.attended, lt.lse, lt.q, lt.k, lt.v, rows.spans, m.attention)
	})
	lt.inner[oProj] = forward(p, n, true, product{l.linears[oProj], lt.middle, lt.attended, true})[0]

	p.do(func() error { return p.be.RMSNorm(normed, lt.middle, l.mlpNorm, n, m.eps) })
	lt.gate, lt.up = p.alloc(n*m.inner), p.alloc(n*m.inner)
	inner := forward(p, n, true, product{l.linears[gateProj], lt.gate, normed, false}, product{l.linears[upProj], lt.up, normed, false})
	lt.inner[gateProj], lt.inner[upProj] = inner[0], inner[1]
	p.free(normed)
	activated := p.alloc(n * m.inner)
	p.do(func() error { return p.be.SwiGLU(activated, lt.gate, lt.up) })
	out := p.clone(lt.middle)
	lt.inner[downProj] = forward(p, n, true, product{l.linears[downProj], out, activated, true})[0]
	p.free(activated)
	return out
}

// free gives back what the layer kept.
func (lt *layerTape) free(p *pass) {
	p.free(lt.x, lt.middle, lt.q, lt.k, lt.v, lt.plain[0], lt.plain[1], lt.attended, lt.lse, lt.gate, lt.up)
	p.free(lt.inner[:]...)
	*lt = layerTape{}
}

// Release frees a tape that no Backward will use. It may be called again, and
// after Backward.
func (t *Tape) Release() {
	t.pass.release()
	t.layers, t.final = nil, nil
}
