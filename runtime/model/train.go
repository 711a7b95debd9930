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
// Backward or Release, the logits among it.
type Tape struct {
	pass   *pass
	model  *Model
	tables backend.Tables
	rows   trainRows
	wanted backend.Index // Rows whose logits are wanted.
	ends   trainRows
	keys   int // Rows of keys and values.
	// own are the places of rows' own keys and values among all, where those before them
	// are another model's; nil where all are their own.
	own    backend.Index
	table  backend.Buffer
	final  backend.Buffer // The wanted rows of x after the last layer.
	logits backend.Buffer // [wanted, V]; the loss's gradient with respect to them, once that is known.
	turned bool           // It is.
	layers []layerTape
}

// trainRows are tokens on their way through the layers.
type trainRows struct {
	n         int
	positions backend.Index
	spans     backend.Spans // What each attends to.
}

// layerTape is what one layer's backward pass reads.
type layerTape struct {
	// Rows that the layer's output has, of its input's; nil means all.
	picked        backend.Index
	x, middle     backend.Buffer    // Residual stream: before attention, before the MLP.
	q, k, v       backend.Buffer    // After rotation. Where the tape has own rows, k and v are of all rows.
	plain         [2]backend.Buffer // q and k before their norm, where there is one.
	attended, lse backend.Buffer
	gate, up      backend.Buffer
	kept          [projections]backend.Kept
}

// Forward computes the logits [N, V] of all sequences: for each sequence in
// order, one row for each of the positions From to len−2. The sequences are
// packed, not padded. The tape must be given to Backward or released.
func (m *Model) Forward(ctx context.Context, sequences []Sequence) (*Tape, error) {
	t, err := m.newTape(sequences, nil)
	if err != nil {
		return nil, err
	}
	return m.fill(ctx, t)
}

// fill computes a tape and returns it; on an error it is released.
func (m *Model) fill(ctx context.Context, t *Tape) (*Tape, error) {
	p, n := t.pass, t.rows.n
	x := p.alloc(n * m.hidden)
	p.do(func() error { return p.Gather(x, m.embed, t.tables.At(trainTokens)) })
	lowest := m.lowestAdapted()
	if last := len(m.layers) - 1; t.ends.n < n {
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
	t.logits = p.allocAs(backend.F32, t.ends.n*m.config.VocabSize)
	m.logits(p, t.logits, x, t.ends.n)
	if p.err != nil {
		t.Release()
		return nil, fmt.Errorf("forward pass of %d tokens: %w", n, p.err)
	}
	return t, nil
}

// The lists that the device is told of a forward pass.
const (
	trainTokens = iota
	trainWanted
	trainPositions
	trainFirst
	trainCount
	endsPositions
	endsFirst
	endsCount
	trainLists
)

// newTape lays the sequences out as rows. more adds lists to those, and changes them.
func (m *Model) newTape(sequences []Sequence, more func(lists [][]int32) [][]int32) (*Tape, error) {
	if !m.be.Capabilities().Backward {
		return nil, fmt.Errorf("train on %s: %w", m.be.Name(), backend.ErrUnsupported)
	}
	if len(sequences) == 0 {
		return nil, errors.New("a forward pass without sequences")
	}
	lists := make([][]int32, trainLists)
	longest := 0
	for i, s := range sequences {
		if len(s.Tokens) < 2 || s.From < 0 || s.From > len(s.Tokens)-2 {
			return nil, fmt.Errorf("sequence %d: logits from position %d of %d tokens", i, s.From, len(s.Tokens))
		}
		if err := m.checkTokens(s.Tokens); err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		first := int32(len(lists[trainTokens]))
		inputs := s.Tokens[:len(s.Tokens)-1] // Nothing follows the last one.
		for j := range inputs {
			if j >= s.From {
				lists[trainWanted] = append(lists[trainWanted], first+int32(j))
			}
			lists[trainPositions] = append(lists[trainPositions], int32(j))
			lists[trainFirst], lists[trainCount] = append(lists[trainFirst], first), append(lists[trainCount], int32(j+1))
		}
		lists[trainTokens] = append(lists[trainTokens], inputs...)
		longest = max(longest, len(inputs))
	}
	for ends, all := range map[int]int{endsPositions: trainPositions, endsFirst: trainFirst, endsCount: trainCount} {
		lists[ends] = selected(lists[all], lists[trainWanted])
	}
	keys := len(lists[trainTokens])
	if more != nil {
		lists = more(lists)
	}
	table, err := m.rope.upTo(longest)
	if err != nil {
		return nil, err
	}
	tables, err := m.be.NewTables()
	if err != nil {
		return nil, err
	}
	if err := tables.Set(lists...); err != nil {
		tables.Free()
		return nil, err
	}
	return &Tape{
		pass: m.newPass(m.be.NewArena()), model: m, tables: tables, layers: make([]layerTape, len(m.layers)), table: table,
		wanted: tables.At(trainWanted), keys: keys, rows: rowsAt(tables, trainPositions, trainFirst, trainCount),
		ends: rowsAt(tables, endsPositions, endsFirst, endsCount),
	}, nil
}

// rowsAt are rows whose lists are these of the tables.
func rowsAt(tables backend.Tables, positions, first, count int) trainRows {
	r := trainRows{positions: tables.At(positions), spans: backend.Spans{First: tables.At(first), Count: tables.At(count)}}
	r.n = r.positions.Len()
	return r
}

// Rows is the number of rows of logits.
func (t *Tape) Rows() int { return t.ends.n }

// Logits returns a host copy [N, V].
func (t *Tape) Logits() (*tensor.Tensor, error) {
	if t.logits == nil || t.turned {
		return nil, errSpent
	}
	out := tensor.New(t.ends.n, t.model.config.VocabSize)
	if err := t.pass.Download(out.Data, t.logits); err != nil {
		return nil, err
	}
	return out, nil
}

var errSpent = errors.New("the tape's logits are no more: they were turned into a gradient, or the tape was released")

// PolicyGradient turns the logits into the gradient of the objective of section 3.2;
// see backend.HeadOps. base is a tape of the model π of the same sequences, or nil.
func (t *Tape) PolicyGradient(base *Tape, positions []backend.Position, klWeight, scale float64) ([]backend.Loss, error) {
	if t.logits == nil || t.turned || base != nil && (base.logits == nil || base.turned) {
		return nil, errSpent
	}
	if len(positions) != t.ends.n || base != nil && base.ends.n != t.ends.n {
		return nil, fmt.Errorf("%d positions, and %d rows of logits", len(positions), t.ends.n)
	}
	var pi backend.Buffer
	if base != nil {
		pi = base.logits
	}
	losses, err := t.pass.PolicyGradient(t.logits, pi, positions, klWeight, scale)
	if err != nil {
		return nil, err
	}
	t.turned = true
	return losses, nil
}

// Gradient replaces the logits by the gradient [N, V] of any loss with respect to them.
func (t *Tape) Gradient(dLogits *tensor.Tensor) error {
	if t.logits == nil || t.turned {
		return errSpent
	}
	if !dLogits.HasShape(t.ends.n, t.model.config.VocabSize) {
		return fmt.Errorf("the gradient has shape %v, the logits were [%d %d]", dLogits.Shape, t.ends.n, t.model.config.VocabSize)
	}
	if err := t.pass.Upload(t.logits, dLogits.Data); err != nil {
		return err
	}
	t.turned = true
	return nil
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
	n := t.rows.n
	lt.x = x
	normed := p.alloc(n * m.hidden)
	p.do(func() error { return p.RMSNorm(normed, x, l.attentionNorm, n, m.eps) })
	rows := t.out(lt)
	if lt.picked == nil {
		lt.middle = p.clone(x)
		qkv := l.project(p, m, normed, rows, t.table, lt, qProj, kProj, vProj)
		lt.q, lt.k, lt.v = qkv[0], t.among(lt.k, qkv[1], m.keys), t.among(lt.v, qkv[2], m.keys)
	} else {
		kv := l.project(p, m, normed, &t.rows, t.table, lt, kProj, vProj)
		lt.k, lt.v = kv[0], kv[1]
		n = rows.n
		lt.middle, normed = p.pick(x, lt.picked, m.hidden), p.replace(normed, lt.picked, m.hidden)
		lt.q = l.project(p, m, normed, rows, t.table, lt, qProj)[0]
	}
	lt.attended, lt.lse = p.alloc(n*m.width()), p.allocAs(backend.F32, n*m.config.Heads)
	p.do(func() error {
		return p.Attention(lt.attended, lt.lse, lt.q, lt.k, lt.v, rows.spans, m.attention)
	})
	lt.kept[oProj] = p.keep(lt.attended, n, l.output(p, oProj, lt.middle, rowsScaling{}))[0]

	p.do(func() error { return p.RMSNorm(normed, lt.middle, l.mlpNorm, n, m.eps) })
	lt.gate, lt.up = p.alloc(n*m.inner), p.alloc(n*m.inner)
	kept := p.keep(normed, n, l.input(p, gateProj, lt.gate, rowsScaling{}), l.input(p, upProj, lt.up, rowsScaling{}))
	lt.kept[gateProj], lt.kept[upProj] = kept[0], kept[1]
	p.free(normed)
	activated := p.alloc(n * m.inner)
	p.do(func() error { return p.Activate(backend.SiLU, activated, lt.gate, lt.up) })
	out := p.clone(lt.middle)
	lt.kept[downProj] = p.keep(activated, n, l.output(p, downProj, out, rowsScaling{}))[0]
	p.free(activated)
	return out
}

// among puts the rows' own keys or values, of c elements, among all, or returns them if
// they are all.
func (t *Tape) among(all, own backend.Buffer, c int) backend.Buffer {
	if t.own == nil {
		return own
	}
	t.pass.do(func() error { return t.pass.ScatterRows(all, own, t.own, c) })
	t.pass.free(own)
	return all
}

// project computes some of queries, keys and values of normed [n, H], normalises
// (where the family does) and rotates the former two by their positions, and keeps what
// backward needs.
func (l *layer) project(p *pass, m *Model, normed backend.Buffer, rows *trainRows, table backend.Buffer, t *layerTape, which ...int) []backend.Buffer {
	out := make([]backend.Buffer, len(which))
	all := make([]backend.Projection, len(which))
	for i, projection := range which {
		out[i] = p.alloc(rows.n * m.heads(projection) * m.config.HeadDim)
		all[i] = l.input(p, projection, out[i], rowsScaling{})
	}
	kept := p.keep(normed, rows.n, all...)
	for i, projection := range which {
		t.kept[projection] = kept[i]
		if projection == vProj {
			continue
		}
		y := l.normHeads(p, m, projection, out[i], rows.n, t)
		p.do(func() error {
			return p.RoPE(y, rows.positions, m.heads(projection), table, m.config.HeadDim, false)
		})
		out[i] = y
	}
	return out
}

// free gives back what the layer kept.
func (lt *layerTape) free(p *pass) {
	p.free(lt.x, lt.middle, lt.q, lt.k, lt.v, lt.plain[0], lt.plain[1], lt.attended, lt.lse, lt.gate, lt.up)
	for _, k := range lt.kept {
		p.free(k.Inner, k.Low, k.Plain)
	}
	*lt = layerTape{}
}

// Release frees a tape that no Backward will use. It may be called again, and
// after Backward.
func (t *Tape) Release() {
	t.pass.release()
	t.tables.Free()
	t.layers, t.final, t.logits = nil, nil, nil
}
