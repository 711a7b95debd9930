//go:build cuda

package cuda

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// RoPE implements backend.SequenceOps.
func (b *Backend) RoPE(x backend.Buffer, at backend.Index, heads int, table backend.Buffer, headDim int, inverse bool) error {
	const op = "rope"
	if err := check.Heads(op, heads, headDim); err != nil {
		return err
	}
	positions, err := indices(op, "positions", at, -1)
	if err != nil {
		return err
	}
	n, width := len(positions.values), heads*headDim
	args, err := activations(op, operand{"x", x, n * width})
	if err != nil {
		return err
	}
	angles, err := operands(op, operand{"table", table, -1})
	if err != nil {
		return err
	}
	if err := check.Rows(op, positions.values, 0, angles[0].n, headDim); err != nil {
		return err
	}
	back := 0
	if inverse {
		back = 1
	}
	return b.launch(b.kernelOf(opRotate, args[0].kind), b.blocksOf(n*width/2, threads), 0, args[0].start, positions.at, angles[0].start, whole(n), whole(heads), whole(headDim), whole(width), whole(back))
}

// RotateStore implements backend.RotaryStorer.
func (b *Backend) RotateStore(r backend.Rotary, q, k, v backend.Buffer, cache backend.CacheRows) error {
	const op = "rotate and store"
	s := r.Shape
	if err := check.Heads(op, s.Heads, s.HeadDim); err != nil {
		return err
	}
	positions, err := indices(op, "positions", r.Positions, -1)
	if err != nil {
		return err
	}
	n := len(positions.values)
	slots, err := indices(op, "slots", cache.Slots, n)
	if err != nil {
		return err
	}
	width, kvWidth := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	args, err := activations(op, operand{"k", k, n * kvWidth}, operand{"v", v, n * kvWidth})
	if err != nil {
		return err
	}
	stored, err := cacheBeside(op, args[0], operand{"the cache's keys", cache.K, -1}, operand{"the cache's values", cache.V, length(cache.K)})
	if err != nil {
		return err
	}
	table, err := operands(op, operand{"table", r.Table, -1})
	if err != nil {
		return err
	}
	heads, queries := 0, address(0) // The last layer has keys of rows whose queries nobody wants.
	if q != nil {
		own, err := activations(op, operand{"k", k, -1}, operand{"q", q, n * width})
		if err != nil {
			return err
		}
		heads, queries = s.Heads, own[1].start
	}
	if err := check.Rows(op, positions.values, 0, table[0].n, s.HeadDim); err != nil {
		return err
	}
	const nowhere = -1
	if err := check.Rows(op, slots.values, nowhere, stored[0].n, kvWidth); err != nil {
		return err
	}
	return b.launch(b.kernelBeside(opRotateStore, opRotateStoreNarrow, args[0].kind, stored[0].kind, plain), b.blocksOf(n*(heads+s.KVHeads)*s.HeadDim/2, threads), 0, queries, args[0].start, args[1].start,
		stored[0].start, stored[1].start, positions.at, slots.at, table[0].start, whole(n), whole(heads), whole(s.KVHeads), whole(s.HeadDim))
}

// attentionGrid has a block for some rows and some heads of a key-value head.
func attentionGrid(n, pairs int, s backend.AttentionShape) [3]int {
	group := s.Heads / s.KVHeads
	heads := min(group, pairs)
	rows := pairs / heads
	return [3]int{(n + rows - 1) / rows, s.KVHeads, (group + heads - 1) / heads}
}

// spansOf resolves what rows attend to, and returns the number of rows of keys.
func spansOf(op string, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) (first, count *list, rows int, err error) {
	if rows, err = check.Shape(op, length(k), length(v), s); err != nil {
		return nil, nil, 0, err
	}
	if count, err = indices(op, "counts of keys", keys.Count, -1); err != nil {
		return nil, nil, 0, err
	}
	if first, err = indices(op, "first keys", keys.First, len(count.values)); err != nil {
		return nil, nil, 0, err
	}
	_, err = check.Spans(op, first.values, count.values, rows)
	return first, count, rows, err
}

// Attention implements backend.SequenceOps.
func (b *Backend) Attention(out, lse, q, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) error {
	const op = "attention"
	first, count, _, err := spansOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	n, width := len(count.values), s.Heads*s.HeadDim
	args, err := activations(op, operand{"out", out, n * width}, operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	use, err := attentionFor(op, s, args[:4]...)
	if err != nil {
		return err
	}
	logs := address(0)
	if lse != nil {
		own, err := operands(op, operand{"lse", lse, n * s.Heads})
		if err != nil {
			return err
		}
		logs = own[0].start
	}
	kernel := b.kernelFor(opAttention, args[0].kind, backend.F32, use.rows)
	return b.launch(kernel, attentionGrid(n, use.pairs, s), kernel.shared, args[0].start, logs, args[1].start, args[2].start, args[3].start,
		first.at, count.at, whole(n), whole(s.Heads), whole(s.KVHeads), whole(s.HeadDim), double(float64(s.Scale)))
}

// chunk is how many keys are attended to at once, before sums are merged.
const chunk = 256

// PagedAttention implements backend.SequenceOps.
func (b *Backend) PagedAttention(out, q, k, v backend.Buffer, keys backend.Paged, s backend.AttentionShape) error {
	const op = "paged attention"
	rows, err := check.Shape(op, length(k), length(v), s)
	if err != nil {
		return err
	}
	blocks, err := indices(op, "block tables", keys.Blocks, -1)
	if err != nil {
		return err
	}
	count, err := indices(op, "counts of keys", keys.Count, -1)
	if err != nil {
		return err
	}
	first, err := indices(op, "beginnings of block tables", keys.First, len(count.values))
	if err != nil {
		return err
	}
	longest, err := check.Paged(op, blocks.values, first.values, count.values, keys.BlockSize, rows)
	if err != nil {
		return err
	}
	if longest, err = check.Most(op, longest, keys.Most); err != nil {
		return err
	}
	n, width := len(count.values), s.Heads*s.HeadDim
	args, err := activations(op, operand{"out", out, n * width}, operand{"q", q, n * width})
	if err != nil {
		return err
	}
	stored, err := cacheBeside(op, args[0], operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	use, err := attentionFor(op, s, args[0], args[1], stored[0], stored[1])
	if err != nil {
		return err
	}
	grid, chunks := attentionGrid(n, use.pairs, s), (longest+chunk-1)/chunk
	if alone(first.values) || chunks > 1 && grid[0]*grid[1]*grid[2] < b.info.processors {
		return b.splitAttention(&args, &stored, blocks, first, count, n, max(chunks, 1), use.split, keys.BlockSize, s)
	}
	kernel := b.kernelBeside(opPagedAttention, opPagedAttentionNarrow, args[0].kind, stored[0].kind, use.rows)
	return b.launch(kernel, grid, kernel.shared, args[0].start, args[1].start, stored[0].start, stored[1].start,
		blocks.at, first.at, count.at, whole(n), whole(keys.BlockSize), whole(s.Heads), whole(s.KVHeads), whole(s.HeadDim), double(float64(s.Scale)))
}

// splitAttention divides the keys of rows among blocks of threads: few rows with many
// keys would leave most of the device idle. With one chunk there is nothing to combine.
func (b *Backend) splitAttention(args, stored *resolved, blocks, first, count *list, n, chunks int, use variant, blockSize int, s backend.AttentionShape) error {
	kernel := b.kernelBeside(opPagedAttention, opPagedAttentionNarrow, args[0].kind, stored[0].kind, use)
	attend := func(sums, states address) error {
		return b.launch(kernel, [3]int{n, s.KVHeads, chunks}, kernel.shared, sums, states, args[1].start, stored[0].start, stored[1].start,
			blocks.at, first.at, count.at, whole(n), whole(blockSize), whole(s.Heads), whole(s.KVHeads), whole(s.HeadDim), double(float64(s.Scale)))
	}
	if chunks == 1 {
		return attend(args[0].start, 0)
	}
	const perState = 2
	sums := n * s.Heads * chunks * s.HeadDim
	work, err := b.allocStep(backend.F32, sums+n*s.Heads*chunks*perState)
	if err != nil {
		return fmt.Errorf("paged attention: %w", err)
	}
	defer b.Free(work)
	states := work.start + address(backend.F32.Bytes(1, sums))
	if err := attend(work.start, states); err != nil {
		return err
	}
	return b.launch(b.kernelFor(opAttention, args[0].kind, backend.F32, combine), [3]int{n, s.Heads, 1}, 0, args[0].start, work.start, states, count.at, whole(n), whole(s.Heads), whole(s.HeadDim), whole(chunks))
}

// AttentionBackward implements backend.SequenceOps.
func (b *Backend) AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) error {
	const op = "attention backward"
	first, count, rows, err := spansOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	n, width, kvWidth := len(count.values), s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	args, err := activations(op, operand{"dq", dq, n * width}, operand{"dk", dk, rows * kvWidth}, operand{"dv", dv, rows * kvWidth},
		operand{"dOut", dOut, n * width}, operand{"out", out, n * width}, operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	logs, err := operands(op, operand{"lse", lse, n * s.Heads})
	if err != nil {
		return err
	}
	use, err := attentionFor(op, s, args[:8]...)
	if err != nil {
		return err
	}
	rowsOf, err := count.rowsOf(b, op, first, rows)
	if err != nil {
		return err
	}
	delta, err := b.allocStep(backend.F32, n*s.Heads)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer b.Free(delta)
	at := func(i int) address { return args[i].start }
	ofQueries, ofKeys := use.gradientGrids(n, rows, s)
	kernel := b.kernelFor(opAttentionBack, args[0].kind, backend.F32, use.queries)
	err = b.launch(kernel, ofQueries, kernel.shared,
		at(0), delta.start, at(3), at(4), logs[0].start, at(5), at(6), at(7), first.at, count.at, whole(n), whole(s.Heads), whole(s.KVHeads), whole(s.HeadDim), double(float64(s.Scale)))
	if err != nil {
		return err
	}
	kernel = b.kernelFor(opAttentionBack, args[0].kind, backend.F32, use.keys)
	return b.launch(kernel, ofKeys, kernel.shared,
		at(1), at(2), at(3), logs[0].start, delta.start, at(5), at(6), at(7), first.at, count.at, rowsOf.at, whole(rows), whole(s.Heads), whole(s.KVHeads), whole(s.HeadDim), double(float64(s.Scale)))
}

// rowsOf returns which rows may attend to each key: from one to before another. It is
// made for the first layer that asks, and is the same for all.
func (l *list) rowsOf(b *Backend, op string, first *list, rows int) (*list, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attending != nil && l.attending.of == first && l.attending.rows == rows {
		return &l.attending.tables.lists[0], nil
	}
	groups, err := check.Groups(op, first.values, l.values)
	if err != nil {
		return nil, err
	}
	bounds := make([]int32, 2*rows)
	for _, g := range groups {
		for row := g.From; row < g.To; row++ {
			for key := first.values[row]; key < first.values[row]+l.values[row]; key++ {
				bounds[2*key], bounds[2*key+1] = int32(g.From), int32(g.To)
			}
		}
	}
	t := &tables{backend: b}
	if err := t.Set(bounds); err != nil {
		return nil, err
	}
	l.attending = &attending{of: first, rows: rows, tables: t}
	return &t.lists[0], nil
}

// attending is what rowsOf made.
type attending struct {
	of     *list
	rows   int
	tables *tables
}
