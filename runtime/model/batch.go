package model

import (
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// batch is a set of segments as rows.
type batch struct {
	tokens    []int32
	positions []int32
	scales    rowScales
	growths   []growth  // Of the segments.
	slots     []int32   // Where in the cache each row's key and value go.
	blocks    []int32   // The block tables of all sequences, one behind the other.
	first     []int32   // Where each row's table begins in blocks,
	count     []int32   // and how many keys it attends to.
	forked    []int32   // Slots of keys and values that forks have for themselves, too,
	forkSlots []int32   // and where those go.
	wanted    []int32   // Rows whose logits are wanted.
	low       []lowRows // Rows that low-rank pairs are computed for, of all,
	lowIndex  []int32   // and what scales those.
	some      bool      // low says it; else they are computed for all rows.
	longest   int       // Highest position + 1.
}

// The lists of a batch on the device. The last layer computes nothing but keys and
// values of rows whose logits are not wanted: of the ends, the wanted rows, there are
// lists of their own.
const (
	tokenList = iota
	slotList
	blockList
	wantedList
	forkedList
	forkSlotList
	lowList  // Of the rows that are multiplied with low-rank pairs, their scales.
	rowLists // Of all rows,
	endLists = rowLists + listsOfRows
)

// The lists of rows on their way through the layers.
const (
	positionList = iota
	firstList
	countList
	scaleList
	listsOfRows
)

// lists are what the device is told of a batch.
func (b *batch) lists() [][]int32 {
	lists := make([][]int32, endLists+listsOfRows)
	lists[tokenList], lists[slotList], lists[blockList], lists[wantedList] = b.tokens, b.slots, b.blocks, b.wanted
	lists[forkedList], lists[forkSlotList], lists[lowList] = b.forked, b.forkSlots, b.lowIndex
	for i, list := range [listsOfRows][]int32{positionList: b.positions, firstList: b.first, countList: b.count, scaleList: b.scales.index} {
		lists[rowLists+i] = list
		if !b.allWanted() {
			lists[endLists+i] = selected(list, b.wanted)
		}
	}
	return lists
}

// allWanted reports that the logits of all rows are wanted, in their order.
func (b *batch) allWanted() bool {
	return len(b.wanted) == len(b.positions) && slices.IsSorted(b.wanted)
}

// narrow lets low-rank pairs be computed for the rows alone that have some; single pairs
// where that changes no bit.
func (b *batch) narrow(be backend.Backend) {
	b.some = true
	b.low, b.lowIndex = b.scales.spans(be.Capabilities().OrderedSums)
}

// selected returns the elements with these indices.
func selected[T any](all []T, indices []int32) []T {
	out := make([]T, len(indices))
	for i, index := range indices {
		out[i] = all[index]
	}
	return out
}

// onDevice is a batch as the device knows it.
type onDevice struct {
	all, ends *rows // One and the same where all rows are wanted.
	tables    backend.Tables
}

// rows are tokens on their way through the layers.
type rows struct {
	n         int
	positions backend.Index
	keys      backend.Paged // What each row attends to.
	scales    rowsScaling
}

// upload tells the device of a batch.
func (b *batch) upload(tables backend.Tables) (*onDevice, error) {
	if err := tables.Set(b.lists()...); err != nil {
		return nil, err
	}
	at := func(from, n int) *rows {
		r := &rows{
			n: n, positions: tables.At(from + positionList),
			keys: backend.Paged{
				Blocks: tables.At(blockList), First: tables.At(from + firstList), Count: tables.At(from + countList), BlockSize: BlockSize,
			},
		}
		if b.scales.some {
			r.scales.index = tables.At(from + scaleList)
		}
		return r
	}
	d := &onDevice{tables: tables, all: at(rowLists, len(b.positions))}
	d.all.scales.some = b.some
	for _, rows := range b.low {
		if rows.scales == nil {
			rows.index = tables.At(lowList)
		}
		d.all.scales.low = append(d.all.scales.low, rows)
	}
	d.ends = d.all
	if !b.allWanted() {
		d.ends = at(endLists, len(b.wanted))
		d.ends.scales.some = b.some && len(b.low) == 0
	}
	return d, nil
}

// plan validates the segments and lays them out as rows.
func (m *Model) plan(c *Cache, segments []Segment) (*batch, error) {
	if len(segments) == 0 {
		return nil, fmt.Errorf("a model step without segments")
	}
	if !c.fits(m) {
		return nil, fmt.Errorf("the cache was made for another model, or is closed")
	}
	b := &batch{}
	seen := map[int]bool{}
	var order []int
	if c.steps == nil { // Recorded ones compute all rows alike.
		order = sorted(segments)
	}
	wanted := make([][]int32, len(segments))
	for i := range segments {
		if order != nil {
			i = order[i]
		}
		s, first := segments[i], len(b.wanted)
		if err := b.add(m, c, seen, run{s.Seq, c.Len(s.Seq), s.Tokens, s.AllLogits, s.Scales}); err != nil {
			return nil, err
		}
		g := c.growth(s)
		for _, f := range s.Forks {
			if n := c.Len(f.Seq); n > 0 {
				return nil, fmt.Errorf("sequence %d has %d tokens and cannot become a fork of sequence %d", f.Seq, n, s.Seq)
			}
			if err := b.add(m, c, seen, run{f.Seq, g.end(), f.Tokens, true, s.Scales}); err != nil {
				return nil, fmt.Errorf("a fork of sequence %d: %w", s.Seq, err)
			}
		}
		b.growths = append(b.growths, g)
		wanted[i] = b.wanted[first:]
	}
	if order != nil {
		b.wanted = slices.Concat(wanted...)
	}
	return b, nil
}

// run are tokens of one sequence behind its first from.
type run struct {
	seq, from int
	tokens    []int32
	allLogits bool
	scales    *Scales
}

// add validates a run and lays it out as rows. No sequence may have two.
func (b *batch) add(m *Model, c *Cache, seen map[int]bool, r run) error {
	if err := c.checkSeq(r.seq); err != nil {
		return err
	}
	if seen[r.seq] {
		return fmt.Errorf("sequence %d has two segments in one step", r.seq)
	}
	seen[r.seq] = true
	if len(r.tokens) == 0 {
		return fmt.Errorf("the segment of sequence %d is empty", r.seq)
	}
	if len(r.tokens) > c.maxLen-r.from {
		return fmt.Errorf("%d tokens more than sequence %d can take: %d of %d are used",
			len(r.tokens), r.seq, r.from, c.maxLen)
	}
	if err := m.checkTokens(r.tokens); err != nil {
		return fmt.Errorf("sequence %d: %w", r.seq, err)
	}
	if err := b.scales.add(m, r.scales, len(r.tokens)); err != nil {
		return fmt.Errorf("sequence %d: %w", r.seq, err)
	}
	for i := range r.tokens {
		if r.allLogits || i == len(r.tokens)-1 {
			b.wanted = append(b.wanted, int32(len(b.positions)))
		}
		b.positions = append(b.positions, int32(r.from+i))
	}
	b.tokens = append(b.tokens, r.tokens...)
	b.longest = max(b.longest, r.from+len(r.tokens))
	return nil
}

// place looks up where the rows' keys and values go, and where those are that
// they attend to, once the sequences have the blocks.
func (b *batch) place(c *Cache) {
	rows := func(seq, from, n int) {
		table := int32(len(b.blocks))
		b.blocks = append(b.blocks, c.blocks.tables[seq]...)
		for i := from; i < from+n; i++ {
			b.slots = append(b.slots, c.blocks.row(seq, i))
			b.first, b.count = append(b.first, table), append(b.count, int32(i+1))
		}
	}
	for _, g := range b.growths {
		first := len(b.slots)
		rows(g.seq, g.from, g.n)
		for _, f := range g.forks {
			for i := g.parted(); i < g.end(); i++ {
				b.forked = append(b.forked, b.slots[first+i-g.from])
				b.forkSlots = append(b.forkSlots, c.blocks.row(f.seq, i))
			}
			rows(f.seq, g.end(), f.n)
		}
	}
}

// storeForked copies the keys or values that forks have for themselves, too.
func (d *onDevice) storeForked(p *pass, cache backend.Buffer, width int) {
	if d.tables.At(forkedList).Len() == 0 {
		return
	}
	again := p.pick(cache, d.tables.At(forkedList), width)
	p.do(func() error { return p.ScatterRows(cache, again, d.tables.At(forkSlotList), width) })
	p.free(again)
}
