package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// The lists that the device is told of a forward pass in which another model reads the
// prompts, beside those of any: of the tokens that it reads, and where their keys are
// among all.
const (
	readTokens = trainLists + iota
	readPositions
	readFirst
	readCount
	readPlaces
	ownPlaces
	answerLists
)

// ForwardAnswers is Forward for adapters that act on answers alone: reader reads each
// sequence before From, and m computes what follows, the positions whose logits are
// wanted, attending to reader's keys and values. Backward takes the gradient through these
// positions; what reader has read is constant. So every such adapter can go on behind the
// same prompt (activated LoRA: arXiv 2504.12397). reader is of the same base.
func (m *Model) ForwardAnswers(ctx context.Context, reader *Model, sequences []Sequence) (*Tape, error) {
	if reader.be != m.be || len(reader.layers) != len(m.layers) || reader.keys != m.keys || reader.hidden != m.hidden ||
		reader.storage != m.storage {
		return nil, errors.New("what reads the prompts is of another base")
	}
	t, err := m.newTape(sequences, apart)
	if err != nil {
		return nil, err
	}
	t.rows, t.own = t.ends, t.tables.At(ownPlaces)
	if err := reader.readInto(ctx, t); err != nil {
		t.Release()
		return nil, fmt.Errorf("reading the prompts of %d sequences: %w", len(sequences), err)
	}
	return m.fill(ctx, t)
}

// apart divides the rows of a forward pass: those that are read, and those that are wanted.
// Keys and values of both lie as the sequences do.
func apart(lists [][]int32) [][]int32 {
	lists = append(lists, make([][]int32, answerLists-trainLists)...)
	wanted := lists[trainWanted]
	next := int32(0) // Of the keys of what is read, behind each other.
	for i := range lists[trainTokens] {
		row := int32(i)
		if len(wanted) > 0 && wanted[0] == row {
			wanted = wanted[1:]
			continue
		}
		position := lists[trainPositions][row]
		lists[readTokens] = append(lists[readTokens], lists[trainTokens][row])
		lists[readPositions] = append(lists[readPositions], position)
		lists[readFirst] = append(lists[readFirst], next-position)
		lists[readCount] = append(lists[readCount], position+1)
		lists[readPlaces] = append(lists[readPlaces], row)
		next++
	}
	lists[ownPlaces] = lists[trainWanted]
	lists[trainTokens] = selected(lists[trainTokens], lists[trainWanted])
	return lists
}

// readInto computes the keys and values of what is read before a tape's rows, and gives
// each of the tape's layers buffers for those of all.
func (m *Model) readInto(ctx context.Context, t *Tape) error {
	p := t.pass
	for i := range t.layers {
		t.layers[i].k, t.layers[i].v = p.alloc(t.keys*m.keys), p.alloc(t.keys*m.keys)
	}
	rows := rowsAt(t.tables, readPositions, readFirst, readCount)
	if rows.n == 0 {
		return p.err
	}
	places := t.tables.At(readPlaces)
	reading := &Tape{pass: p, model: m, table: t.table, rows: rows, ends: rows, keys: rows.n}
	x := p.alloc(rows.n * m.hidden)
	p.do(func() error { return p.Gather(x, m.embed, t.tables.At(readTokens)) })
	for i := range m.layers {
		p.check(ctx)
		var lt layerTape
		if i < len(m.layers)-1 {
			x = m.layers[i].forward(p, m, x, reading, &lt)
		} else {
			m.layers[i].forwardKeys(p, m, x, reading, &lt)
		}
		p.do(func() error { return p.ScatterRows(t.layers[i].k, lt.k, places, m.keys) })
		p.do(func() error { return p.ScatterRows(t.layers[i].v, lt.v, places, m.keys) })
		lt.free(p)
	}
	return p.err
}

// forwardKeys computes the keys and values of a layer and nothing else.
func (l *layer) forwardKeys(p *pass, m *Model, x backend.Buffer, t *Tape, lt *layerTape) {
	lt.x = x
	normed := p.alloc(t.rows.n * m.hidden)
	p.do(func() error { return p.RMSNorm(normed, x, l.attentionNorm, t.rows.n, m.eps) })
	kv := l.project(p, m, normed, &t.rows, t.table, lt, kProj, vProj)
	lt.k, lt.v = kv[0], kv[1]
	p.free(normed)
}
