package model

import (
	"fmt"
	"math"

	"github.com/transformersquared/operator/runtime/backend"
)

// Cache holds the keys and values of a fixed number of sequences, each up to a
// fixed length, for every layer. It fits every model of the same configuration
// on the same backend; what it contains belongs to the weights that filled it.
// It must not be used by two goroutines at once.
//
// Its memory is a pool of blocks of BlockSize tokens. A sequence has the blocks
// that its tokens take, and no more; sequences with a common beginning share
// them. A block that is shared is never written: a sequence that goes on behind a
// shared, partly filled block gets a copy of it first.
type Cache struct {
	be      backend.Backend
	storage backend.DType    // Of keys and values.
	k, v    []backend.Buffer // A layer: [blocks·BlockSize, KVHeads·HeadDim].
	width   int
	maxLen  int
	lengths []int
	blocks  blockTables
	// What a step needs besides: its buffers, and what it says of its rows.
	arena  backend.Arena
	tables backend.Tables
	steps  *recordedSteps // nil where the backend cannot record.
}

// CacheFullError says that a step needs more blocks than are free. The cache is
// as it was before the step, which can be tried again once others have been
// truncated.
type CacheFullError struct {
	// Needed blocks were asked for, Free were left of Total.
	Needed, Free, Total int
}

// Error names the numbers.
func (e *CacheFullError) Error() string {
	return fmt.Sprintf("the cache is full: %d blocks more are needed, and %d of %d are free", e.Needed, e.Free, e.Total)
}

// NewCache allocates a cache for seqs sequences of at most maxLen tokens, with
// blocks for all of them at once: no step fails with a CacheFullError. Close gives
// its memory back.
func (m *Model) NewCache(seqs, maxLen int) (*Cache, error) {
	if seqs <= 0 || maxLen <= 0 {
		return nil, fmt.Errorf("a cache of %d sequences of %d tokens", seqs, maxLen)
	}
	if seqs > math.MaxInt32/(maxLen+BlockSize) {
		return nil, fmt.Errorf("a cache of %d sequences of %d tokens is too large", seqs, maxLen)
	}
	return m.NewPagedCache(seqs, maxLen, seqs*Blocks(maxLen))
}

// NewPagedCache allocates a cache of so many blocks, for seqs sequences of at most
// maxLen tokens. Close gives its memory back.
func (m *Model) NewPagedCache(seqs, maxLen, blocks int) (*Cache, error) {
	what := fmt.Sprintf("a cache of %d sequences of %d tokens in %d blocks", seqs, maxLen, blocks)
	if seqs <= 0 || maxLen <= 0 || blocks <= 0 {
		return nil, fmt.Errorf("%s", what)
	}
	if maxLen > m.config.MaxPositions {
		return nil, fmt.Errorf("%s: the model has %d positions", what, m.config.MaxPositions)
	}
	if blocks > math.MaxInt32/BlockSize {
		return nil, fmt.Errorf("%s is too large", what)
	}
	c := &Cache{
		be: m.be, storage: m.storage.Cache, width: m.keys, maxLen: maxLen, lengths: make([]int, seqs), blocks: newBlockTables(seqs, blocks),
	}
	c.arena = m.be.NewArena()
	var err error
	if c.tables, err = m.be.NewTables(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for range m.layers {
		for _, list := range []*[]backend.Buffer{&c.k, &c.v} {
			b, err := backend.AllocLasting(m.be, m.storage.Cache, blocks*BlockSize*m.keys)
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			*list = append(*list, b)
		}
	}
	if capturer, ok := m.be.(backend.Capturer); ok {
		c.steps = newRecordedSteps(capturer, seqs, maxLen)
	}
	return c, nil
}

// Close frees the cache's memory; it must not be used afterwards.
func (c *Cache) Close() {
	for _, b := range append(c.k, c.v...) {
		c.be.Free(b)
	}
	if c.tables != nil {
		c.tables.Free()
	}
	if c.steps != nil {
		c.steps.free(c.be)
	}
	c.k, c.v, c.lengths, c.blocks = nil, nil, nil, blockTables{}
}

// CacheTokenBytes is the memory that one token takes in a cache of this model.
func (m *Model) CacheTokenBytes() int64 {
	return int64(len(m.layers)) * 2 * m.storage.Cache.Bytes(1, m.keys)
}

// Seqs returns the number of sequences.
func (c *Cache) Seqs() int { return len(c.lengths) }

// MaxLen returns the number of tokens that a sequence can hold.
func (c *Cache) MaxLen() int { return c.maxLen }

// Len returns the number of tokens in a sequence, 0 if there is no such one.
func (c *Cache) Len(seq int) int {
	if seq < 0 || seq >= len(c.lengths) {
		return 0
	}
	return c.lengths[seq]
}

// TotalBlocks returns the number of blocks.
func (c *Cache) TotalBlocks() int { return len(c.blocks.uses) }

// UsedBlocks returns the number of blocks that sequences have or that are held; one
// that several share counts once.
func (c *Cache) UsedBlocks() int { return c.blocks.used() }

// Truncate shortens a sequence to its first n tokens; 0 empties it. Blocks that
// nobody holds any more are free at once.
func (c *Cache) Truncate(seq, n int) error {
	if err := c.checkSeq(seq); err != nil {
		return err
	}
	if n < 0 || n > c.lengths[seq] {
		return fmt.Errorf("truncate sequence %d to %d tokens: it has %d", seq, n, c.lengths[seq])
	}
	c.blocks.cut(seq, n)
	c.lengths[seq] = n
	return nil
}

// CopyPrefix makes sequence dst the first n tokens of sequence src: a prompt's
// shared beginning is computed once, and held once. It takes no block and copies
// nothing; if the last block is partly filled, the one of the two that goes on
// first does.
func (c *Cache) CopyPrefix(dst, src, n int) error {
	for _, seq := range []int{dst, src} {
		if err := c.checkSeq(seq); err != nil {
			return err
		}
	}
	if n < 0 || n > c.lengths[src] {
		return fmt.Errorf("copy %d tokens of sequence %d: it has %d", n, src, c.lengths[src])
	}
	if dst == src {
		return c.Truncate(dst, n)
	}
	c.blocks.share(dst, src, n)
	c.lengths[dst] = n
	return nil
}

// grow makes room for tokens that a step is about to write.
func (c *Cache) grow(growths []growth) ([]grown, error) {
	if needed, free := c.blocks.needed(growths), len(c.blocks.free); needed > free {
		return nil, &CacheFullError{Needed: needed, Free: free, Total: c.TotalBlocks()}
	}
	copies, done := c.blocks.grow(growths)
	if len(copies) == 0 {
		return done, nil
	}
	var from, to []int32
	for _, block := range copies {
		for i := range int32(block.rows) {
			from, to = append(from, block.from*BlockSize+i), append(to, block.to*BlockSize+i)
		}
	}
	p := &pass{Parts: backend.Parts{Backend: c.be, Arena: c.arena, Storage: c.storage}}
	defer p.release()
	p.do(func() error { return c.tables.Set(from, to) })
	rows := p.alloc(len(from) * c.width)
	for _, buffers := range [][]backend.Buffer{c.k, c.v} {
		for _, b := range buffers {
			p.do(func() error { return p.SelectRows(rows, b, c.tables.At(0), c.width) })
			p.do(func() error { return p.ScatterRows(b, rows, c.tables.At(1), c.width) })
		}
	}
	if p.err != nil {
		c.blocks.undo(done)
		return nil, fmt.Errorf("copying %d shared blocks: %w", len(copies), p.err)
	}
	return done, nil
}

func (c *Cache) checkSeq(seq int) error {
	if seq < 0 || seq >= len(c.lengths) {
		return fmt.Errorf("sequence %d of a cache with %d", seq, len(c.lengths))
	}
	return nil
}

// fits reports whether the cache was made for this model's shape and backend.
func (c *Cache) fits(m *Model) bool {
	return c.be == m.be && c.storage == m.storage.Cache && len(c.k) == len(m.layers) && c.width == m.keys
}
