package cpu

import (
	"fmt"
	"math"
	"sync"

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
	n, half := len(positions), headDim/2
	args, err := operands(op, operand{"x", x, n * heads * headDim}, operand{"table", table, -1})
	if err != nil {
		return err
	}
	if err := check.Rows(op, positions, 0, len(args[1]), headDim); err != nil {
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

// run returns where row j is and how many rows lie behind each other from there on: pages
// that were taken together often do.
func (r keyRows) run(j int) (row, rows int) {
	first := j / r.pageRows
	last := first + 1
	for last*r.pageRows < r.count && r.pages[last] == r.pages[last-1]+1 {
		last++
	}
	return int(r.pages[first])*r.pageRows + j%r.pageRows, min(last*r.pageRows, r.count) - j
}

// keyChunk is how many keys and values are used by several rows of queries, and by all their
// columns, before the next ones are: what the first cache holds of one head. A row's values
// are added up chunk by chunk, wherever they lie and whoever is beside it, so that its sum
// is always the same.
const keyChunk = 64

// part returns the rows of the chunk that begins with row j. Where it is no number of whole
// pages, nor part of one, it has smaller pages, which are listed in scratch.
func (r keyRows) part(j, stride int, scratch *[keyChunk]int32) keyRows {
	part := keyRows{offset: r.offset, count: min(keyChunk, r.count-j), pages: r.pages[j/r.pageRows:], pageRows: r.pageRows}
	within := j % r.pageRows
	switch {
	case within+part.count <= r.pageRows:
		part.offset += within * stride
	case within > 0:
		part.pageRows = gcd(r.pageRows, keyChunk)
		part.pages = scratch[:(part.count+part.pageRows-1)/part.pageRows]
		for i := range part.pages {
			at := j + i*part.pageRows
			part.pages[i] = (r.pages[at/r.pageRows]*int32(r.pageRows) + int32(at%r.pageRows)) / int32(part.pageRows)
		}
	}
	return part
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// sameMemory says whether one of the two are the first rows of the other.
func (r keyRows) sameMemory(o keyRows) bool {
	return r.offset == o.offset && &r.pages[0] == &o.pages[0]
}

// spans are backend.Spans with their memory.
type spans struct{ first, count []int32 }

// spansOf validates what Attention and AttentionBackward share and returns what each
// row attends to, the number of key rows and the longest span.
func spansOf(op string, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) (all spans, rows, longest int, err error) {
	if rows, err = check.Shape(op, length(k), length(v), s); err != nil {
		return spans{}, 0, 0, err
	}
	if all.count, err = indices(op, "counts of keys", keys.Count, -1); err != nil {
		return spans{}, 0, 0, err
	}
	if all.first, err = indices(op, "first keys", keys.First, len(all.count)); err != nil {
		return spans{}, 0, 0, err
	}
	longest, err = check.Spans(op, all.first, all.count, rows)
	return all, rows, longest, err
}

// paged are backend.Paged with their memory.
type paged struct {
	blocks, first, count []int32
	blockSize            int
}

// table returns the blocks of what a row attends to, and maybe more.
func (p *paged) table(n int) []int32 { return p.blocks[p.first[n]:] }

// pagesOf is spansOf for blocks. It returns the largest number of keys, too.
func pagesOf(op string, k, v backend.Buffer, keys backend.Paged, s backend.AttentionShape) (p paged, longest int, err error) {
	rows, err := check.Shape(op, length(k), length(v), s)
	if err != nil {
		return paged{}, 0, err
	}
	p.blockSize = keys.BlockSize
	if p.blocks, err = indices(op, "block tables", keys.Blocks, -1); err != nil {
		return paged{}, 0, err
	}
	if p.count, err = indices(op, "counts of keys", keys.Count, -1); err != nil {
		return paged{}, 0, err
	}
	if p.first, err = indices(op, "beginnings of block tables", keys.First, len(p.count)); err != nil {
		return paged{}, 0, err
	}
	if longest, err = check.Paged(op, p.blocks, p.first, p.count, p.blockSize, rows); err != nil {
		return paged{}, 0, err
	}
	_, err = check.Most(op, longest, keys.Most)
	return p, longest, err
}

// Attention implements backend.SequenceOps.
func (b *Backend) Attention(out, lse, q, k, v backend.Buffer, keys backend.Spans, s backend.AttentionShape) error {
	const op = "attention"
	all, _, longest, err := spansOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	args, err := operands(op, operand{"k", k, -1}, operand{"v", v, -1})
	if err != nil {
		return err
	}
	return b.attend(op, out, lse, q, elements{wide: args[0]}, elements{wide: args[1]}, len(all.count), longest, s, func(n int) keyRows {
		return spanRows(int(all.first[n]), int(all.count[n]), s)
	})
}

// PagedAttention implements backend.SequenceOps.
func (b *Backend) PagedAttention(out, q, k, v backend.Buffer, keys backend.Paged, s backend.AttentionShape) error {
	const op = "paged attention"
	pages, longest, err := pagesOf(op, k, v, keys, s)
	if err != nil {
		return err
	}
	cached, err := sameStorage(op, operand{"k", k, -1}, operand{"v", v, length(k)})
	if err != nil {
		return err
	}
	return b.attend(op, out, nil, q, cached[0], cached[1], len(pages.count), longest, s, func(n int) keyRows {
		rows := keyRows{count: int(pages.count[n]), pages: pages.table(n), pageRows: pages.blockSize}
		if row, together := rows.run(0); together == rows.count {
			return spanRows(row, rows.count, s)
		}
		return rows
	})
}

// attend computes n rows that attend to at most longest rows each.
func (b *Backend) attend(op string, out, lse, q backend.Buffer, k, v elements, n, longest int, s backend.AttentionShape, keys func(n int) keyRows) error {
	width := s.Heads * s.HeadDim
	args, err := operands(op, operand{"out", out, n * width}, operand{"q", q, n * width})
	if err != nil {
		return err
	}
	a := attention{kernels: b.kernels, memory: &b.scores, shape: s, keys: keys, longest: longest, out: args[0], q: args[1], k: k, v: v}
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
	kernels     *kernels
	memory      *sync.Pool // Of *scoreMemory.
	shape       backend.AttentionShape
	keys        func(n int) keyRows
	longest     int
	out, lse, q []float32
	k, v        elements
}

// scoreMemory is what the heads of some rows that share a key-value head are computed in.
type scoreMemory struct {
	scores []float32 // [rows, share, ld]
	sums   []float32 // [rows, share]
	q      []float32 // [rows, share, HeadDim]
	part   []float32 // [share, HeadDim]
	pages  [keyChunk]int32
}

// scoreBytes bounds the scores of rows that are computed together: with more, what they
// share is no longer near when it is used again.
const scoreBytes = 1 << 20

// compute computes some key-value heads of some rows.
func (a *attention) compute(from, to, firstHead, endHead int) {
	keys := make([]keyRows, 0, to-from)
	for r := from; r < to; r++ {
		keys = append(keys, a.keys(r))
	}
	share := a.shape.Heads / a.shape.KVHeads
	ld := roundUp(a.longest, vectorStep)
	together := min(to-from, max(1, scoreBytes/(4*share*ld)))
	m, _ := a.memory.Get().(*scoreMemory)
	if m == nil {
		m = &scoreMemory{}
	}
	m.scores, m.sums = resized(m.scores, together*share*ld), resized(m.sums, together*share)
	m.q, m.part = resized(m.q, together*share*a.shape.HeadDim), resized(m.part, share*a.shape.HeadDim)
	for first := 0; first < len(keys); {
		end := first + 1
		for end < len(keys) && end < first+together && keys[end].sameMemory(keys[first]) {
			end++
		}
		for h := firstHead; h < endHead; h++ {
			a.heads(from+first, h, keys[first:end], m, ld)
		}
		first = end
	}
	a.memory.Put(m)
}

// heads computes the heads of rows of queries from one on that share a key-value head and
// the memory of their keys.
func (a *attention) heads(row, kvHead int, keys []keyRows, m *scoreMemory, ld int) {
	s := a.shape
	d, stride := s.HeadDim, s.KVHeads*s.HeadDim
	share := s.Heads / s.KVHeads
	// What a row of queries has of out and q, and of scores.
	first := func(r int) int { return (row+r)*s.Heads + kvHead*share }
	scores := func(r int) []float32 { return m.scores[r*share*ld:][:share*ld] }
	// Rows that attend to less than the longest get scores that they do not look at.
	most := keys[0]
	for r, k := range keys {
		copy(m.q[r*share*d:][:share*d], a.q[first(r)*d:])
		if k.count > most.count {
			most = k
		}
	}
	q, longest := m.q[:len(keys)*share*d], most.count

	for from := 0; from < longest; from += keyChunk {
		for j, end := from, min(from+keyChunk, longest); j < end; {
			at, rows := most.run(j)
			rows = min(rows, end-j)
			a.dots(m.scores[j:], q, at*stride+most.offset+kvHead*d, ld, rows)
			j += rows
		}
	}
	for r, k := range keys {
		for h := range share {
			p := scores(r)[h*ld:][:k.count]
			top := a.kernels.maximum(p)
			sum := a.kernels.expShifted(p, p, top)
			if m.sums[r*share+h] = sum; a.lse != nil {
				a.lse[first(r)+h] = top + float32(math.Log(float64(sum)))
			}
		}
	}
	for from := 0; from < longest; from += keyChunk {
		for r, k := range keys {
			if from >= k.count {
				continue
			}
			out, weights := a.out[first(r)*d:][:share*d], scores(r)[from:]
			part := k.part(from, stride, &m.pages)
			if from == 0 {
				a.combine(out, weights, part.offset+kvHead*d, ld, part)
				continue
			}
			a.combine(m.part, weights, part.offset+kvHead*d, ld, part)
			a.kernels.axpy(out, 1, m.part)
		}
	}
	for r := range keys {
		out := a.out[first(r)*d:][:share*d]
		for h := range share {
			inverse := 1 / m.sums[r*share+h]
			for i := range d {
				out[h*d+i] *= inverse
			}
		}
	}
}

// dots are the scores of rows of keys that lie behind each other from an element on.
func (a *attention) dots(scores, q []float32, from, ld, rows int) {
	d, stride := a.shape.HeadDim, a.shape.KVHeads*a.shape.HeadDim
	if k := a.k.half; k != nil {
		a.kernels.dotsBF16(scores, q, k[from:], d, ld, rows, stride, a.shape.Scale)
		return
	}
	a.kernels.dots(scores, q, a.k.wide[from:], d, ld, rows, stride, a.shape.Scale)
}

// combine adds up values, weighted, which begin at an element of their pages.
func (a *attention) combine(out, weights []float32, from, ld int, keys keyRows) {
	d, stride := a.shape.HeadDim, a.shape.KVHeads*a.shape.HeadDim
	if v := a.v.half; v != nil {
		a.kernels.combineBF16(out, weights, v[from:], d, ld, keys.count, stride, keys.pages, keys.pageRows)
		return
	}
	a.kernels.combine(out, weights, a.v.wide[from:], d, ld, keys.count, stride, keys.pages, keys.pageRows)
}
