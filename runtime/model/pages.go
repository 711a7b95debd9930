package model

import "slices"

// PageTokens is how many tokens of one sequence a page of a Cache holds: so few
// that a short answer leaves little unused, so many that walking a page table
// costs nothing beside reading the pages.
const PageTokens = 32

// Pages returns how many pages this many tokens of one sequence take.
func Pages(tokens int) int { return (tokens + PageTokens - 1) / PageTokens }

// ForkPages returns how many pages a sequence takes that shares its first tokens with
// another one and has n behind them: a page in which the two part is its own.
func ForkPages(shared, n int) int { return Pages(shared+n) - shared/PageTokens }

// pageTables say which pages hold each sequence's tokens: token i of a sequence
// is row i%PageTokens of page table[i/PageTokens]. A page may be in several
// tables; it is free once it is in none.
type pageTables struct {
	tables [][]int32
	uses   []int32 // A page: how many tables it is in.
	free   []int32 // Pages in no table; the last is taken first.
}

func newPageTables(seqs, pages int) pageTables {
	t := pageTables{tables: make([][]int32, seqs), uses: make([]int32, pages), free: make([]int32, pages)}
	for i := range t.free {
		t.free[i] = int32(pages - 1 - i)
	}
	return t
}

// take gives out a free page, in one table.
func (t *pageTables) take() int32 {
	page := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.uses[page] = 1
	return page
}

// drop takes pages out of one table. Those that are free then are taken again in
// the order of the table, so that pages that lie behind each other stay together:
// they are read faster.
func (t *pageTables) drop(pages []int32) {
	for _, page := range slices.Backward(pages) {
		if t.uses[page]--; t.uses[page] == 0 {
			t.free = append(t.free, page)
		}
	}
}

// cut shortens a table to the pages of this many tokens.
func (t *pageTables) cut(seq, tokens int) {
	n := Pages(tokens)
	t.drop(t.tables[seq][n:])
	t.tables[seq] = t.tables[seq][:n]
}

// share makes a table the pages of the first tokens of another.
func (t *pageTables) share(dst, src, tokens int) {
	shared := t.tables[src][:Pages(tokens)]
	for _, page := range shared {
		t.uses[page]++
	}
	t.drop(t.tables[dst])
	t.tables[dst] = append(t.tables[dst][:0], shared...)
}

// row is where a sequence's token is in the buffers.
func (t *pageTables) row(seq, token int) int32 {
	return t.tables[seq][token/PageTokens]*PageTokens + int32(token%PageTokens)
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

// parted returns which of the tokens that the growth writes forks must have in pages of
// their own: those from the first in the page in which they part from it.
func (g growth) parted() int { return max(g.from, g.end()-g.end()%PageTokens) }

// tail is the page that a growth writes to first and that has tokens already.
func (t *pageTables) tail(g growth) (index int, partial bool) {
	return g.from / PageTokens, g.from%PageTokens > 0
}

// needed returns how many free pages grow would take for all of these.
func (t *pageTables) needed(growths []growth) int {
	n := 0
	left := map[int32]int32{} // Shared pages that are to be written: their uses afterwards.
	for _, g := range growths {
		table := t.tables[g.seq]
		n += Pages(g.end()) - len(table)
		for _, f := range g.forks {
			n += ForkPages(g.end(), f.n)
		}
		index, partial := t.tail(g)
		if !partial {
			continue
		}
		page := table[index]
		uses, seen := left[page]
		if !seen {
			uses = t.uses[page]
		}
		if uses > 1 {
			n++
			left[page] = uses - 1
		}
	}
	return n
}

// copied is the beginning of a page that has to be copied to another.
type copied struct {
	from, to int32
	rows     int
}

// grown is what grow did to one table, to undo it.
type grown struct {
	seq, length int
	// The page that was replaced by one of the sequence's own, and where; −1 if
	// none was.
	index    int
	replaced int32
}

// grow gives sequences the pages for what they are to get; needed of them must be
// free. No page that is written stays shared but by forks, which begin with what is
// written: of one that is partly filled the sequence gets one of its own, and the
// contents are to be copied.
func (t *pageTables) grow(growths []growth) (copies []copied, done []grown) {
	for _, g := range growths {
		table := t.tables[g.seq]
		change := grown{seq: g.seq, length: len(table), index: -1}
		index, partial := t.tail(g)
		filled := copied{rows: g.from % PageTokens}
		if partial {
			filled.from = table[index]
			if t.uses[filled.from] > 1 {
				change.index, change.replaced = index, filled.from
				t.uses[change.replaced]--
				table[index] = t.take()
				filled.to = table[index]
				copies = append(copies, filled)
			}
		}
		t.tables[g.seq] = t.extend(table, g.end())
		done = append(done, change)
		shared := g.end() / PageTokens
		for _, f := range g.forks {
			done = append(done, grown{seq: f.seq, index: -1})
			t.share(f.seq, g.seq, shared*PageTokens)
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

// extend adds pages to a table until it has those of this many tokens.
func (t *pageTables) extend(table []int32, tokens int) []int32 {
	for len(table) < Pages(tokens) {
		table = append(table, t.take())
	}
	return table
}

// undo puts the tables back as they were before grow.
func (t *pageTables) undo(done []grown) {
	for _, change := range done {
		table := t.tables[change.seq]
		t.drop(table[change.length:])
		table = table[:change.length]
		if change.index >= 0 {
			t.drop(table[change.index:][:1])
			table[change.index] = change.replaced
			t.uses[change.replaced]++
		}
		t.tables[change.seq] = table
	}
}

// used counts the pages that are in tables.
func (t *pageTables) used() int { return len(t.uses) - len(t.free) }

// usedBy counts the pages that are in one of these tables at least.
func (t *pageTables) usedBy(seqs []int) int {
	pages := map[int32]struct{}{}
	for _, seq := range seqs {
		for _, page := range t.tables[seq] {
			pages[page] = struct{}{}
		}
	}
	return len(pages)
}
