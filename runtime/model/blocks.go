package model

import "slices"

// BlockSize is how many tokens of one sequence a block of a Cache holds: so few
// that a short answer leaves little unused, so many that walking a block table
// costs nothing beside reading the blocks.
const BlockSize = 32

// Blocks returns how many blocks this many tokens of one sequence take.
func Blocks(tokens int) int { return (tokens + BlockSize - 1) / BlockSize }

// ForkBlocks returns how many blocks a sequence takes that shares its first tokens with
// another one and has n behind them: a block in which the two part is its own.
func ForkBlocks(shared, n int) int { return Blocks(shared+n) - shared/BlockSize }

// blockTables say which blocks hold each sequence's tokens: token i of a sequence
// is row i%BlockSize of block table[i/BlockSize]. A block may be in several
// tables, and be held beside them; it is free once it is in none and not held.
type blockTables struct {
	tables [][]int32
	uses   []int32 // A block: how many tables it is in, and one more if it is held.
	held   []bool  // A block: whether it is held.
	idle   int     // How many are held and in no table.
	free   []int32 // Blocks without uses; the last is taken first.
}

func newBlockTables(seqs, blocks int) blockTables {
	t := blockTables{
		tables: make([][]int32, seqs), uses: make([]int32, blocks), held: make([]bool, blocks), free: make([]int32, blocks),
	}
	for i := range t.free {
		t.free[i] = int32(blocks - 1 - i)
	}
	return t
}

// take gives out a free block, in one table.
func (t *blockTables) take() int32 {
	block := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.uses[block] = 1
	return block
}

// drop takes blocks out of one table. Those that are free then are taken again in
// the order of the table, so that blocks that lie behind each other stay together:
// they are read faster.
func (t *blockTables) drop(blocks []int32) {
	for _, block := range slices.Backward(blocks) {
		t.leave(block)
	}
}

// use counts one use more of a block that has some.
func (t *blockTables) use(block int32) {
	if t.isIdle(block) {
		t.idle--
	}
	t.uses[block]++
}

// leave counts one use less of a block.
func (t *blockTables) leave(block int32) {
	if t.uses[block]--; t.uses[block] == 0 {
		t.free = append(t.free, block)
	}
	if t.isIdle(block) {
		t.idle++
	}
}

// isIdle reports whether a block is held and in no table.
func (t *blockTables) isIdle(block int32) bool { return t.held[block] && t.uses[block] == 1 }

// hold keeps a block of a table that is not held yet.
func (t *blockTables) hold(block int32) {
	t.use(block)
	t.held[block] = true
}

// letGo ends a hold.
func (t *blockTables) letGo(block int32) {
	if t.isIdle(block) {
		t.idle--
	}
	t.held[block] = false
	t.leave(block)
}

// adopt makes a table these blocks, which have uses.
func (t *blockTables) adopt(seq int, blocks []int32) {
	for _, block := range blocks {
		t.use(block)
	}
	t.drop(t.tables[seq])
	t.tables[seq] = append(t.tables[seq][:0], blocks...)
}

// cut shortens a table to the blocks of this many tokens.
func (t *blockTables) cut(seq, tokens int) {
	n := Blocks(tokens)
	t.drop(t.tables[seq][n:])
	t.tables[seq] = t.tables[seq][:n]
}

// share makes a table the blocks of the first tokens of another.
func (t *blockTables) share(dst, src, tokens int) {
	t.adopt(dst, t.tables[src][:Blocks(tokens)])
}

// row is where a sequence's token is in the buffers.
func (t *blockTables) row(seq, token int) int32 {
	return t.tables[seq][token/BlockSize]*BlockSize + int32(token%BlockSize)
}

// growth is a sequence that is to get n tokens behind its first from, and forks that
// go on behind those.
type growth struct {
	seq, from, n int
	forks        []fork
}

// fork is an empty sequence that is to begin as another one ends, and to get n tokens
// more.
type fork struct {
	seq, n int
}

// end is how many tokens the sequence will have.
func (g growth) end() int { return g.from + g.n }

// parted returns which of the tokens that the growth writes forks must have in blocks of
// their own: those from the first in the block in which they part from it.
func (g growth) parted() int { return max(g.from, g.end()-g.end()%BlockSize) }

// tail is the block that a growth writes to first and that has tokens already.
func (t *blockTables) tail(g growth) (index int, partial bool) {
	return g.from / BlockSize, g.from%BlockSize > 0
}

// needed returns how many free blocks grow would take for all of these.
func (t *blockTables) needed(growths []growth) int {
	n := 0
	left := map[int32]int32{} // Shared blocks that are to be written: their uses afterwards.
	for _, g := range growths {
		table := t.tables[g.seq]
		n += Blocks(g.end()) - len(table)
		for _, f := range g.forks {
			n += ForkBlocks(g.end(), f.n)
		}
		index, partial := t.tail(g)
		if !partial {
			continue
		}
		block := table[index]
		uses, seen := left[block]
		if !seen {
			uses = t.uses[block]
		}
		if uses > 1 {
			n++
			left[block] = uses - 1
		}
	}
	return n
}

// copied is the beginning of a block that has to be copied to another.
type copied struct {
	from, to int32
	rows     int
}

// grown is what grow did to one table, to undo it.
type grown struct {
	seq, length int
	// The block that was replaced by one of the sequence's own, and where; −1 if
	// none was.
	index    int
	replaced int32
}

// grow gives sequences the blocks for what they are to get; needed of them must be
// free. No block that is written stays shared but by forks, which begin with what is
// written: of one that is partly filled the sequence gets one of its own, and the
// contents are to be copied.
func (t *blockTables) grow(growths []growth) (copies []copied, done []grown) {
	for _, g := range growths {
		table := t.tables[g.seq]
		change := grown{seq: g.seq, length: len(table), index: -1}
		index, partial := t.tail(g)
		filled := copied{rows: g.from % BlockSize}
		if partial {
			filled.from = table[index]
			if t.uses[filled.from] > 1 {
				change.index, change.replaced = index, filled.from
				t.leave(change.replaced)
				table[index] = t.take()
				filled.to = table[index]
				copies = append(copies, filled)
			}
		}
		t.tables[g.seq] = t.extend(table, g.end())
		done = append(done, change)
		shared := g.end() / BlockSize
		for _, f := range g.forks {
			done = append(done, grown{seq: f.seq, index: -1})
			t.share(f.seq, g.seq, shared*BlockSize)
			table := t.extend(t.tables[f.seq], g.end()+f.n)
			if partial && index == shared {
				filled.to = table[shared]
				copies = append(copies, filled)
			}
			t.tables[f.seq] = table
		}
	}
	return copies, done
}

// extend adds blocks to a table until it has those of this many tokens.
func (t *blockTables) extend(table []int32, tokens int) []int32 {
	for len(table) < Blocks(tokens) {
		table = append(table, t.take())
	}
	return table
}

// undo puts the tables back as they were before grow.
func (t *blockTables) undo(done []grown) {
	for _, change := range done {
		table := t.tables[change.seq]
		t.drop(table[change.length:])
		table = table[:change.length]
		if change.index >= 0 {
			t.drop(table[change.index:][:1])
			table[change.index] = change.replaced
			t.use(change.replaced)
		}
		t.tables[change.seq] = table
	}
}

// used counts the blocks that are in tables or held.
func (t *blockTables) used() int { return len(t.uses) - len(t.free) }
