package cpu

import (
	"fmt"
	"math"
	"sync"

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

// sameMemory says whether one of the two are the first rows of the other.
func (r keyRows) sameMemory(o keyRows) bool {
	return r.offset == o.offset && &r.pages[0] == &o.pages[0]
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

// attend computes n rows that attend to at most longest rows each.
func (b *Backend) attend(op string, out, lse, q, k, v backend.Buffer, n, longest int, s backend.AttentionShape, keys func(n int) keyRows) error {
	width := s.Heads * s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width},
		operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	a := attention{kernels: b.kernels, memory: &b.scores, shape: s, keys: keys, longest: longest, out: args[0], q: args[1], k: args[2], v: args[3]}
	if lse != nil {
		if a.lse, err = floats("lse", lse, n*s.Heads); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	// One long row keeps all threads busy: its key-value heads are divided. Of many
	// rows, those next to each other often attend to the same keys, which are best
	// used again while they are in the cache.
	const together = 16
	cost := 2 * longest * s.Heads * s.HeadDim
	if size := min(together, n/(b.pool.threads*tasksPerThread)); size > 1 {
		b.pool.rows((n+size-1)/size, size*cost, func(from, to int) {
			a.compute(from*size, min(n, to*size), 0, s.KVHeads)
		})
		return nil
	}
	b.pool.rows(n*s.KVHeads, cost/s.KVHeads, func(from, to int) {
		for from < to {
			r, head := from/s.KVHeads, from%s.KVHeads
			end := min(s.KVHeads, head+to-from)
			a.compute(r, r+1, head, end)
			from += end - head
		}
	})
	return nil
}

// attention is one operation: out = softmax(scale·q·Kᵀ)·V.
type attention struct {
	kernels           *kernels
	memory            *sync.Pool // Of *scoreMemory.
	shape             backend.AttentionShape
	keys              func(n int) keyRows
	longest           int
	out, lse, q, k, v []float32
}

// scoreMemory is what the heads of one row that share a key-value head are computed
// in.
type scoreMemory struct {
	scores []float32 // [share, ld]
	sums   []float32 // [share]
}

// compute computes some key-value heads of some rows.
func (a *attention) compute(from, to, firstHead, endHead int) {
	keys := make([]keyRows, 0, to-from)
	for r := from; r < to; r++ {
		keys = append(keys, a.keys(r))
	}
	share := a.shape.Heads / a.shape.KVHeads
	ld := roundUp(a.longest, vectorStep)
	m, _ := a.memory.Get().(*scoreMemory)
	if m == nil {
		m = &scoreMemory{}
	}
	m.scores, m.sums = resized(m.scores, share*ld), resized(m.sums, share)
	for first := 0; first < len(keys); {
		end := first + 1
		for end < len(keys) && keys[end].sameMemory(keys[first]) {
			end++
		}
		for h := firstHead; h < endHead; h++ {
			for r := first; r < end; r++ {
				a.heads(from+r, h, keys[r], m.scores, ld, m.sums)
			}
		}
		first = end
	}
	a.memory.Put(m)
}

// heads computes the heads of one row that share a key-value head.
func (a *attention) heads(row, kvHead int, keys keyRows, scores []float32, ld int, sums []float32) {
	s := a.shape
	d, stride := s.HeadDim, s.KVHeads*s.HeadDim
	first := row*s.Heads + kvHead*len(sums)
	out, q := a.out[first*d:][:len(sums)*d], a.q[first*d:][:len(sums)*d]
	offset := keys.offset + kvHead*d
	for j := 0; j < keys.count; {
		page, rows := keys.run(j)
		a.kernels.dots(scores[j:], q, a.k[page*keys.pageRows*stride+offset:], d, ld, rows, stride, s.Scale)
		j += rows
	}
	for h := range sums {
		p := scores[h*ld:][:keys.count]
		top := a.kernels.maximum(p)
		sums[h] = a.kernels.expShifted(p, p, top)
		if a.lse != nil {
			a.lse[first+h] = top + float32(math.Log(float64(sums[h])))
		}
	}
	a.kernels.combine(out, scores, a.v[offset:], d, ld, keys.count, stride, keys.pages, keys.pageRows)
	for h, sum := range sums {
		inverse := 1 / sum
		for i := range d {
			out[h*d+i] *= inverse
		}
	}
}
