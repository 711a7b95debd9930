package model

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// written is a pool in which each row holds the number that was written there
// last, beside what each sequence should read.
type written struct {
	blockTables
	rows []int
	want [][]int
	held map[int32][]int // What held blocks should read.
	next int
}

// write does what a step does: it makes room, copies what was shared, and writes.
func (w *written) write(growths []growth) {
	copies, _ := w.grow(growths)
	for _, c := range copies {
		for i := range int32(c.rows) {
			w.rows[c.to*BlockSize+i] = w.rows[c.from*BlockSize+i]
		}
	}
	for _, g := range growths {
		w.append(g.seq, g.from, g.n)
		for _, f := range g.forks {
			w.want[f.seq] = slices.Clone(w.want[g.seq])
			for i := g.parted(); i < g.end(); i++ {
				w.rows[w.row(f.seq, i)] = w.want[g.seq][i]
			}
			w.append(f.seq, g.end(), f.n)
		}
	}
}

func (w *written) append(seq, from, n int) {
	for i := range n {
		w.next++
		w.rows[w.row(seq, from+i)] = w.next
		w.want[seq] = append(w.want[seq], w.next)
	}
}

func (w *written) check(t *testing.T) {
	t.Helper()
	uses := make([]int32, len(w.uses))
	for seq, table := range w.tables {
		if len(table) != Blocks(len(w.want[seq])) {
			t.Fatalf("sequence %d of %d tokens has %d blocks", seq, len(w.want[seq]), len(table))
		}
		for _, block := range table {
			uses[block]++
		}
		for i, want := range w.want[seq] {
			if got := w.rows[w.row(seq, i)]; got != want {
				t.Fatalf("token %d of sequence %d is %d, want %d", i, seq, got, want)
			}
		}
	}
	idle := 0
	for block, want := range w.held {
		if uses[block]++; uses[block] == 1 {
			idle++
		}
		if got := w.rows[block*BlockSize:][:len(want)]; !slices.Equal(got, want) {
			t.Fatalf("the held block %d has %v, want %v", block, got, want)
		}
	}
	if !slices.Equal(uses, w.uses) {
		t.Fatalf("blocks have uses %v, counted %v", w.uses, uses)
	}
	if w.idle != idle {
		t.Fatalf("%d blocks are idle, counted %d", w.idle, idle)
	}
	var free []int32
	for block, n := range uses {
		if n == 0 {
			free = append(free, int32(block))
		}
	}
	if got := slices.Sorted(slices.Values(w.free)); !slices.Equal(got, free) {
		t.Fatalf("the free blocks are %v, counted %v", free, got)
	}
	if n := len(uses) - len(free); w.used() != n {
		t.Fatalf("%d blocks are used, counted %d", n, w.used())
	}
}

// holding holds a block of a sequence, or lets a held one go, or makes a sequence that has
// no tokens a part of a held one.
func (w *written) holding(r *rand.Rand, seq int) {
	held := slices.Sorted(maps.Keys(w.held))
	switch table := w.tables[seq]; {
	case len(table) > 0 && len(held) < 4 && !w.blockTables.held[table[0]]:
		w.hold(table[0])
		w.held[table[0]] = slices.Clone(w.want[seq][:min(BlockSize, len(w.want[seq]))])
	case len(table) == 0 && len(held) > 0:
		block := held[r.IntN(len(held))]
		w.adopt(seq, []int32{block})
		w.want[seq] = slices.Clone(w.held[block][:1+r.IntN(len(w.held[block]))])
	case len(held) > 0:
		block := held[r.IntN(len(held))]
		w.letGo(block)
		delete(w.held, block)
	}
}

// TestRandomBlocksHoldWhatWasWritten shares, cuts, grows, undoes and holds at random.
func TestRandomBlocksHoldWhatWasWritten(t *testing.T) {
	const seqs, blocks, steps = 6, 14, 4000
	r := rand.New(rand.NewPCG(1, 2))
	w := &written{blockTables: newBlockTables(seqs, blocks), rows: make([]int, blocks*BlockSize), want: make([][]int, seqs), held: map[int32][]int{}}
	full, undone, copies, forks, idle := 0, 0, 0, 0, 0
	for range steps {
		seq, other := r.IntN(seqs), r.IntN(seqs)
		switch r.IntN(6) {
		case 2:
			w.holding(r, seq)
		case 0:
			n := r.IntN(len(w.want[seq]) + 1)
			w.cut(seq, n)
			w.want[seq] = w.want[seq][:n]
		case 1:
			if seq == other {
				continue
			}
			n := len(w.want[other])
			if r.IntN(2) == 0 {
				n = r.IntN(n + 1)
			}
			w.share(seq, other, n)
			w.want[seq] = slices.Clone(w.want[other][:n])
		default:
			var growths []growth
			for _, s := range r.Perm(seqs)[:1+r.IntN(seqs)] {
				n, last := 1+r.IntN(BlockSize*3/2), len(growths)-1
				if last >= 0 && len(w.want[s]) == 0 && r.IntN(2) == 0 {
					growths[last].forks = append(growths[last].forks, fork{seq: s, n: n})
					forks++
					continue
				}
				growths = append(growths, growth{seq: s, from: len(w.want[s]), n: n})
			}
			needed, free := w.needed(growths), len(w.free)
			if needed > free {
				full++
				continue
			}
			copied, done := w.grow(growths)
			if len(w.free) != free-needed {
				t.Fatalf("growing took %d blocks, foretold were %d", free-len(w.free), needed)
			}
			copies += len(copied)
			w.undo(done)
			undone++
			w.check(t)
			if len(w.free) != free {
				t.Fatalf("%d blocks are free after undoing, %d were before", len(w.free), free)
			}
			if r.IntN(3) > 0 {
				w.write(growths)
			}
		}
		w.check(t)
		idle = max(idle, w.idle)
	}
	if full == 0 || undone == 0 || copies == 0 || forks == 0 || idle == 0 {
		t.Errorf("%d times full, %d undone, %d copies, %d forks, %d idle: something was never tried", full, undone, copies, forks, idle)
	}
	for seq := range seqs {
		w.cut(seq, 0)
	}
	if w.used() != len(w.held) || w.idle != len(w.held) {
		t.Errorf("%d blocks are used by empty sequences, %d idle, and %d are held", w.used(), w.idle, len(w.held))
	}
	for block := range w.held {
		w.letGo(block)
	}
	if w.used() != 0 || w.idle != 0 {
		t.Errorf("%d blocks are used when all is let go, %d idle", w.used(), w.idle)
	}
}

func TestTwoThatGoOnBehindOneBlockCopyItOnce(t *testing.T) {
	p := newBlockTables(2, 3)
	p.grow([]growth{{seq: 0, n: BlockSize / 2}})
	p.share(1, 0, BlockSize/2)
	both := []growth{{seq: 0, from: BlockSize / 2, n: 1}, {seq: 1, from: BlockSize / 2, n: 1}}
	if n := p.needed(both); n != 1 {
		t.Errorf("%d blocks are needed, want 1: the last one that holds a block writes to it", n)
	}
	if copies, _ := p.grow(both); len(copies) != 1 || p.used() != 2 {
		t.Errorf("%d copies and %d blocks, want 1 and 2", len(copies), p.used())
	}
}
