package backendtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// pagedAttention compares with attention to the same rows behind each other, for
// pages that lie in no order, are shared, and are surrounded by garbage.
func (s *suite) pagedAttention(t *testing.T) {
	for _, shape := range []backend.AttentionShape{
		{Heads: 4, KVHeads: 2, HeadDim: 6},
		{Heads: 4, KVHeads: 2, HeadDim: 16},
		{Heads: 2, KVHeads: 2, HeadDim: 48},
		{Heads: 6, KVHeads: 2, HeadDim: 64},
		{Heads: 8, KVHeads: 2, HeadDim: 80},
		{Heads: 7, KVHeads: 1, HeadDim: 112},
	} {
		shape.Scale = float32(1 / math.Sqrt(float64(shape.HeadDim)))
		for _, pageSize := range []int{backend.BlockMultiple, 3 * backend.BlockMultiple} {
			t.Run(fmt.Sprintf("%d on %d heads of %d, pages of %d", shape.Heads, shape.KVHeads, shape.HeadDim, pageSize), func(t *testing.T) {
				s.pagesChangeNothing(t, shape, pageSize)
			})
		}
	}
}

func (s *suite) pagesChangeNothing(t *testing.T, shape backend.AttentionShape, pageSize int) {
	headDim := shape.HeadDim
	width, kvWidth := shape.Heads*headDim, shape.KVHeads*headDim
	longest := 7*pageSize + 3 // Beyond 256, where some devices merge sums.
	// Lengths at and around the ends of pages, and of groups of rows within them.
	lengths := []int{1, 3, 4, pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, 3*pageSize - 2, 3*pageSize + 5, longest}
	perSequence := (longest + pageSize - 1) / pageSize
	const spare = 3
	pages := 2*perSequence + spare
	order := rand.New(rand.NewPCG(uint64(headDim), uint64(pageSize))).Perm(pages)

	// Two sequences of all lengths; the second shares the first one's first page.
	// Then one whose pages lie behind each other, and one of which only some do.
	tables := make([][]int32, 2)
	for i := range tables {
		for p := range perSequence {
			tables[i] = append(tables[i], int32(order[i*perSequence+p]))
		}
	}
	tables[1][0] = tables[0][0]
	together := make([]int32, perSequence)
	for i := range together {
		together[i] = int32(i + 1)
	}
	parted := slices.Clone(together)
	parted[2], parted[3] = parted[3], parted[2]
	tables = append(tables, together, parted)
	n := len(tables) * len(lengths)
	q := s.random(n*width, 1)
	k, v := s.random(pages*pageSize*kvWidth, 2), s.random(pages*pageSize*kvWidth, 3)
	var tablesOf []int32 // All block tables, behind each other.
	first, counts := make([]int32, 0, n), make([]int32, 0, n)
	contiguous := make([]span, 0, n)
	var flatK, flatV []float32
	for i, table := range tables {
		for _, count := range lengths {
			// Pages behind those needed are ignored, whatever they name.
			pages := table
			if i%2 > 0 {
				needed := (count + pageSize - 1) / pageSize
				pages = append(table[:needed:needed], -1)
			}
			first, counts = append(first, int32(len(tablesOf))), append(counts, int32(count))
			tablesOf = append(tablesOf, pages...)
			contiguous = append(contiguous, span{int32(i * perSequence * pageSize), int32(count)})
		}
		for _, page := range table {
			from, to := int(page)*pageSize*kvWidth, (int(page)+1)*pageSize*kvWidth
			flatK, flatV = append(flatK, k[from:to]...), append(flatV, v[from:to]...)
		}
	}
	want := s.compute(t, []int{0}, [][]float32{garbage(n * width), q, flatK, flatV}, func(be backend.Backend, b []backend.Buffer) error {
		return be.Attention(b[0], nil, b[1], b[2], b[3], spans(t, be, contiguous...), shape)
	})[0]
	reference, _ := refAttention(widen(q), widen(flatK), widen(flatV), contiguous, shape)
	most := 0
	attend := func(from, to int) []float32 {
		return s.compute(t, []int{0}, [][]float32{garbage((to - from) * width), q[from*width : to*width], k, v},
			func(be backend.Backend, b []backend.Buffer) error {
				keys := paged(t, be, pageSize, tablesOf, first[from:to], counts[from:to])
				keys.Most = most
				return be.PagedAttention(b[0], b[1], b[2], b[3], keys, shape)
			})[0]
	}
	got := attend(0, n)
	near(t, "output", got, reference, s.bound(boundExp, 2))
	for i := range n {
		row := got[i*width:][:width]
		if !sameBits(row, want[i*width:][:width]) {
			t.Errorf("%d keys in pages give other bits than in one run", counts[i])
		}
		if !sameBits(row, attend(i, i+1)) {
			t.Errorf("%d keys differ from the row computed alone", counts[i])
		}
	}
	// A bound that is far away changes nothing.
	for _, most = range []int{longest, longest + 300, 8 * longest} {
		if !sameBits(attend(0, n), got) || !sameBits(attend(n-1, n), got[(n-1)*width:]) {
			t.Errorf("with at most %d keys the bits are others", most)
		}
	}
}

// paged uploads what rows attend to in blocks.
func paged(t *testing.T, be backend.Backend, size int, blocks, first, count []int32) backend.Paged {
	t.Helper()
	tables := lists(t, be, blocks, first, count)
	return backend.Paged{Blocks: tables.At(0), First: tables.At(1), Count: tables.At(2), BlockSize: size}
}

// pagedRefusals are calls that must fail, with what is wrong with them.
func pagedRefusals(t *testing.T, be backend.Backend) map[string]error {
	t.Helper()
	const size = backend.BlockMultiple
	shape := backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 2, Scale: 1}
	row, cache := newBuffer(t, be, make([]float32, 4)), newBuffer(t, be, make([]float32, 2*2*size))
	attend := func(v backend.Buffer, pageSize int, count int32, table ...int32) error {
		return be.PagedAttention(row, row, cache, v, paged(t, be, pageSize, table, []int32{0}, []int32{count}), shape)
	}
	bounded := paged(t, be, size, []int32{1, 0}, []int32{0}, []int32{size + 1})
	bounded.Most = size
	if err := attend(cache, size, size+1, 1, 0); err != nil {
		t.Errorf("%s refuses pages that are there: %v", be.Name(), err)
	}
	return map[string]error{
		"a page past the cache":         attend(cache, size, 1, 2),
		"a negative page":               attend(cache, size, 1, -1),
		"a second page past the cache":  attend(cache, size, size+1, 0, 2),
		"too few pages":                 attend(cache, size, size+1, 0),
		"more pages than the bound":     be.PagedAttention(row, row, cache, cache, bounded, shape),
		"pages of no rows":              attend(cache, 0, 1, 0),
		"pages of an odd size":          attend(cache, size+1, 1, 0),
		"paged attention to nothing":    attend(cache, size, 0, 0),
		"paged attention, unequal k, v": attend(row, size, 1, 0),
	}
}
