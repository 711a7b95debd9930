package cpu

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/backend"
)

// RoPE implements backend.SequenceOps.
func (b *Backend) RoPE(x backend.Buffer, positions []int32, heads int, table backend.Buffer, headDim int, inverse bool) error {
	const op = "rope"
	if heads <= 0 || headDim <= 0 || headDim%2 != 0 {
		return fmt.Errorf("%s: %d heads of %d elements", op, heads, headDim)
	}
	n, half := len(positions), headDim/2
	args, err := operands(op, operand{"x", x, n * heads * headDim}, operand{"table", table, -1})
	if err != nil {
		return err
	}
	if err := checkRows(op, positions, len(args[1]), headDim); err != nil {
		return err
	}
	b.pool.rows(n, 2*heads*headDim, func(from, to int) {
		for r := from; r < to; r++ {
			angles := args[1][int(positions[r])*headDim:][:headDim]
			row := args[0][r*heads*headDim:][:heads*headDim]
			for h := range heads {
				head := row[h*headDim:][:headDim]
				// Turning (b, a) by an angle is turning (a, b) back by it.
				first, second := head[:half], head[half:]
				if inverse {
					first, second = second, first
				}
				b.kernels.rotate(first, second, angles[:half], angles[half:])
			}
		}
	})
	return nil
}

// onePage is the page table of rows that lie behind each other.
var onePage = []int32{0}

// keyRows are the rows that one row attends to: the first count of these pages,
// of pageRows rows each, behind element offset of k and v.
type keyRows struct {
	offset, count int
	pages         []int32
	pageRows      int
}

// spanRows are rows that lie behind each other.
func spanRows(first, count int, s backend.AttentionShape) keyRows {
	return keyRows{offset: first * s.KVHeads * s.HeadDim, count: count, pages: onePage, pageRows: count}
}

// run returns the page of row j, the first of its page, and how many rows lie
// behind each other from there on: pages that were taken together often do.
func (r keyRows) run(j int) (page, rows int) {
	first := j / r.pageRows
	last := first + 1
	for last*r.pageRows < r.count && r.pages[last] == r.pages[last-1]+1 {
		last++
	}
	return int(r.pages[first]), min(last*r.pageRows, r.count) - j
}

// checkShape validates the geometry of k and v and returns their number of rows.
func checkShape(op string, k, v backend.Buffer, s backend.AttentionShape) (rows int, err error) {
	if s.Heads <= 0 || s.KVHeads <= 0 || s.HeadDim <= 0 || s.Heads%s.KVHeads != 0 {
		return 0, fmt.Errorf("%s: %d heads on %d key-value heads of %d elements", op, s.Heads, s.KVHeads, s.HeadDim)
	}
	width := s.KVHeads * s.HeadDim
	if length(k) != length(v) || length(k)%width != 0 {
		return 0, fmt.Errorf("%s: k has %d and v %d elements, in rows of %d", op, length(k), length(v), width)
	}
	return length(k) / width, nil
}

// checkSpans validates what Attention and AttentionBackward share and returns
// the number of key rows and the longest span.
func checkSpans(op string, k, v backend.Buffer, keys []backend.Span, s backend.AttentionShape) (rows, longest int, err error) {
	if rows, err = checkShape(op, k, v, s); err != nil {
		return 0, 0, err
	}
	for n, span := range keys {
		if span.First < 0 || span.Count <= 0 || int(span.First)+int(span.Count) > rows {
			return 0, 0, fmt.Errorf("%s: row %d attends to rows %d to %d of %d", op, n, span.First, span.First+span.Count-1, rows)
		}
		longest = max(longest, int(span.Count))
	}
	return rows, longest, nil
}

// checkPages is checkSpans for pages. It returns the largest number of keys.
func checkPages(op string, k, v backend.Buffer, keys []backend.Pages, pageSize int, s backend.AttentionShape) (longest int, err error) {
	rows, err := checkShape(op, k, v, s)
	if err != nil {
		return 0, err
	}
	if pageSize <= 0 || pageSize%backend.PageMultiple != 0 {
		return 0, fmt.Errorf("%s: pages of %d rows, which is no multiple of %d", op, pageSize, backend.PageMultiple)
	}
	for n, p := range keys {
		if p.Count <= 0 || int(p.Count) > len(p.Table)*pageSize {
			return 0, fmt.Errorf("%s: row %d attends to %d rows in %d pages of %d", op, n, p.Count, len(p.Table), pageSize)
		}
		for left, i := int(p.Count), 0; left > 0; left, i = left-pageSize, i+1 {
			if page := p.Table[i]; page < 0 || int(page)*pageSize+min(left, pageSize) > rows {
				return 0, fmt.Errorf("%s: row %d attends to page %d, of %d rows in pages of %d", op, n, page, rows, pageSize)
			}
		}
		longest = max(longest, int(p.Count))
	}
	return longest, nil
}

// Attention implements backend.SequenceOps.
func (b *Backend) Attention(out, lse, q, k, v backend.Buffer, keys []backend.Span, s backend.AttentionShape) error {
	const op = "attention"
	_, longest, err := checkSpans(op, k, v, keys, s)
	if err != nil {
		return err
	}
	return b.attend(op, out, lse, q, k, v, len(keys), longest, s, func(n int) keyRows {
		return spanRows(int(keys[n].First), int(keys[n].Count), s)
	})
}

// PagedAttention implements backend.SequenceOps.
func (b *Backend) PagedAttention(out, q, k, v backend.Buffer, keys []backend.Pages, pageSize int, s backend.AttentionShape) error {
	const op = "paged attention"
	longest, err := checkPages(op, k, v, keys, pageSize, s)
	if err != nil {
		return err
	}
	return b.attend(op, out, nil, q, k, v, len(keys), longest, s, func(n int) keyRows {
		rows := keyRows{count: int(keys[n].Count), pages: keys[n].Table, pageRows: pageSize}
		if page, together := rows.run(0); together == rows.count {
			return spanRows(page*pageSize, rows.count, s)
		}
		return rows
	})
}

// attend computes n rows that attend to at most longest rows each. What is divided
// are rows and their key-value heads: one long row keeps all threads busy.
func (b *Backend) attend(op string, out, lse, q, k, v backend.Buffer, n, longest int, s backend.AttentionShape, keys func(n int) keyRows) error {
	width := s.Heads * s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width},
		operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	var lseData []float32
	if lse != nil {
		if lseData, err = floats("lse", lse, n*s.Heads); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	share := s.Heads / s.KVHeads
	b.pool.rows(n*s.KVHeads, 2*longest*share*s.HeadDim, func(from, to int) {
		scores := make([]float32, roundUp(longest, 4))
		var rows keyRows
		for i := from; i < to; i++ {
			r, first := i/s.KVHeads, i%s.KVHeads*share
			if i == from || first == 0 {
				rows = keys(r)
			}
			for h := first; h < first+share; h++ {
				at := r*width + h*s.HeadDim
				l := b.attendHead(args[0][at:][:s.HeadDim], args[1][at:][:s.HeadDim], args[2], args[3], rows, h, s, scores)
				if lseData != nil {
					lseData[r*s.Heads+h] = l
				}
			}
		}
	})
	return nil
}

// attendHead computes one head of one row: out = softmax(scale·q·Kᵀ)·V. It
// returns log Σ e^score.
func (b *Backend) attendHead(out, q, k, v []float32, keys keyRows, head int, s backend.AttentionShape, scores []float32) float32 {
	stride := s.KVHeads * s.HeadDim
	offset := keys.offset + head/(s.Heads/s.KVHeads)*s.HeadDim
	for j := 0; j < keys.count; {
		page, rows := keys.run(j)
		b.kernels.dots(scores[j:], q, k[page*keys.pageRows*stride+offset:], rows, stride, s.Scale)
		j += rows
	}
	scores = scores[:keys.count]
	top := b.kernels.maximum(scores)
	sum := b.kernels.expShifted(scores, scores, top)
	b.kernels.combine(out, scores, v[offset:], keys.count, stride, keys.pages, keys.pageRows)
	inverse := 1 / sum
	for i := range out {
		out[i] *= inverse
	}
	return top + float32(math.Log(float64(sum)))
}
