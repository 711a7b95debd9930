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
	args, err := operands(op, operand{"x", x, n * width}, operand{"table", table, -1})
	if err != nil {
		return err
	}
	if err := check.Rows(op, positions.values, 0, args[1].n, headDim); err != nil {
		return err
	}
	back := 0
	if inverse {
		back = 1
	}
	return b.launch("rope_f32", b.blocksOf(n*width/2, threads), 0, args[0].start, positions.at, args[1].start, n, heads, headDim, width, back)
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
	args, err := operands(op, operand{"k", k, n * kvWidth}, operand{"v", v, n * kvWidth},
		operand{"the cache's keys", cache.K, -1}, operand{"the cache's values", cache.V, length(cache.K)}, operand{"table", r.Table, -1})
	if err != nil {
		return err
	}
	heads, queries := 0, address(0) // The last layer has keys of rows whose queries nobody wants.
	if q != nil {
		own, err := operands(op, operand{"q", q, n * width})
		if err != nil {
			return err
		}
		heads, queries = s.Heads, own[0].start
	}
	if err := check.Rows(op, positions.values, 0, args[4].n, s.HeadDim); err != nil {
		return err
	}
	const nowhere = -1
	if err := check.Rows(op, slots.values, nowhere, args[2].n, kvWidth); err != nil {
		return err
	}
	return b.launch("ropestore_f32", b.blocksOf(n*(heads+s.KVHeads)*s.HeadDim/2, threads), 0, queries, args[0].start, args[1].start,
		args[2].start, args[3].start, positions.at, slots.at, args[4].start, n, heads, s.KVHeads, s.HeadDim)
}

// widest and widestWide are the largest heads of the attention kernels and of their wide
// variants.
const (
	widest     = 128
	widestWide = 256
)

// variant is the ending of the attention kernels for a head dimension.
func variant(op string, s backend.AttentionShape) (ending string, pairs int, err error) {
	const narrow, wide = 32, 8 // Rows by heads that a block has.
	switch {
	case s.HeadDim > widestWide:
		return "", 0, fmt.Errorf("%s: heads of %d elements, which may be %d at most: %w", op, s.HeadDim, widestWide, backend.ErrUnsupported)
	case s.HeadDim > widest:
		return "wide", wide, nil
	default:
		return "", narrow, nil
	}
}

// attentionGrid has a block for some rows and some heads of a key-value head.
func attentionGrid(n, pairs int, s backend.AttentionShape) [3]int {
	group := s.Heads / s.KVHeads
	heads := min(group, pairs)
	rows := pairs / heads
	return [3]int{(n + rows - 1) / rows, s.KVHeads, (group + heads - 1) / heads}
}

func suffix(ending string) string {
	if ending == "" {
		return ""
	}
	return "_" + ending
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
	ending, pairs, err := variant(op, s)
	if err != nil {
		return err
	}
	n, width := len(count.values), s.Heads*s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
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
	return b.launch("attention_f32"+suffix(ending), attentionGrid(n, pairs, s), 0, args[0].start, logs, args[1].start, args[2].start, args[3].start,
		first.at, count.at, n, s.Heads, s.KVHeads, s.HeadDim, float64(s.Scale))
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
	ending, pairs, err := variant(op, s)
	if err != nil {
		return err
	}
	n, width := len(count.values), s.Heads*s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	grid := attentionGrid(n, pairs, s)
	if chunks := (longest + chunk - 1) / chunk; chunks > 1 && grid[0]*grid[1]*grid[2] < b.info.processors {
		return b.splitAttention(args, blocks, first, count, n, chunks, ending, keys.BlockSize, s)
	}
	return b.launch("pagedattention_f32"+suffix(ending), grid, 0, args[0].start, args[1].start, args[2].start, args[3].start,
		blocks.at, first.at, count.at, n, keys.BlockSize, s.Heads, s.KVHeads, s.HeadDim, float64(s.Scale))
}

// splitAttention divides the keys of rows among blocks: few rows with many keys would
// leave most of the device idle.
func (b *Backend) splitAttention(args []*buffer, blocks, first, count *list, n, chunks int, ending string, blockSize int, s backend.AttentionShape) error {
	const states = 2
	sums := n * s.Heads * chunks * s.HeadDim
	work, err := b.alloc(backend.F32, sums+n*s.Heads*chunks*states)
	if err != nil {
		return fmt.Errorf("paged attention: %w", err)
	}
	defer b.Free(work)
	at := work.start + address(backend.F32.Bytes(1, sums))
	err = b.launch("pagedattention_f32_split"+ending, [3]int{n, s.KVHeads, chunks}, 0, work.start, at, args[1].start, args[2].start, args[3].start,
		blocks.at, first.at, count.at, n, blockSize, s.Heads, s.KVHeads, s.HeadDim, float64(s.Scale))
	if err != nil {
		return err
	}
	return b.launch("attention_f32_combine", [3]int{n, s.Heads, 1}, 0, args[0].start, work.start, at, count.at, n, s.Heads, s.HeadDim, chunks)
}

// AttentionBackward implements backend.SequenceOps.
func (b *Backend) AttentionBackward(dq, dk, dv, dOut, out, lse, q, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) error {
	const op = "attention backward"
	first, count, rows, err := spansOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	ending, _, err := variant(op, s)
	if err != nil {
		return err
	}
	n, width, kvWidth := len(count.values), s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	args, err := operands(op, operand{"dq", dq, n * width}, operand{"dk", dk, rows * kvWidth}, operand{"dv", dv, rows * kvWidth},
		operand{"dOut", dOut, n * width}, operand{"out", out, n * width}, operand{"lse", lse, n * s.Heads},
		operand{"q", q, n * width}, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	rowsOf, err := count.rowsOf(b, op, first, rows)
	if err != nil {
		return err
	}
	delta, err := b.alloc(backend.F32, n*s.Heads)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer b.Free(delta)
	at := func(i int) address { return args[i].start }
	const headsOfBlock, keysOfBlock = 4, 16
	err = b.launch("attentionback_f32_queries"+ending, [3]int{n, (s.Heads + headsOfBlock - 1) / headsOfBlock, 1}, 0,
		at(0), delta.start, at(3), at(4), at(5), at(6), at(7), at(8), first.at, count.at, n, s.Heads, s.KVHeads, s.HeadDim, float64(s.Scale))
	if err != nil {
		return err
	}
	return b.launch("attentionback_f32_keys"+ending, [3]int{(rows + keysOfBlock - 1) / keysOfBlock, s.KVHeads, 1}, 0,
		at(1), at(2), at(3), at(5), delta.start, at(6), at(7), at(8), first.at, count.at, rowsOf.at, rows, s.Heads, s.KVHeads, s.HeadDim, float64(s.Scale))
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
