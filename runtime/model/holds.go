package model

import "fmt"

// Block is a block of a Cache that is held beside the sequences, and so lives on with
// its keys and values when they end; see Cache.Hold. Whoever holds it knows which
// tokens it is of, and which weights computed them.
type Block int32

// Hold keeps the block of a sequence that has its tokens [i*BlockSize,
// (i+1)*BlockSize), as far as they are there. It may be held once, not twice.
func (c *Cache) Hold(seq, i int) (Block, error) {
	if err := c.checkSeq(seq); err != nil {
		return 0, err
	}
	table := c.blocks.tables[seq]
	if i < 0 || i >= len(table) {
		return 0, fmt.Errorf("hold block %d of sequence %d: it has %d", i, seq, len(table))
	}
	if c.blocks.held[table[i]] {
		return 0, fmt.Errorf("block %d of sequence %d is held already", i, seq)
	}
	c.blocks.hold(table[i])
	return Block(table[i]), nil
}

// HeldAt returns the i-th block of a sequence, if it is held.
func (c *Cache) HeldAt(seq, i int) (Block, bool) {
	if c.checkSeq(seq) != nil || i < 0 || i >= len(c.blocks.tables[seq]) {
		return 0, false
	}
	block := c.blocks.tables[seq][i]
	return Block(block), c.blocks.held[block]
}

// LetGo ends the hold of a block, which is free at once if no sequence has it.
func (c *Cache) LetGo(b Block) error {
	if err := c.checkHeld(b); err != nil {
		return err
	}
	c.blocks.letGo(int32(b))
	return nil
}

// Adopt makes a sequence the first n tokens of blocks that are held, which must be of
// one sequence and in order. Like CopyPrefix it takes no block and copies nothing: of a
// block of which it has a part only it gets a copy when it goes on.
func (c *Cache) Adopt(seq int, blocks []Block, n int) error {
	if err := c.checkSeq(seq); err != nil {
		return err
	}
	if n < 0 || n > c.maxLen || Blocks(n) != len(blocks) {
		return fmt.Errorf("adopt %d blocks as %d tokens of sequence %d, which may have %d", len(blocks), n, seq, c.maxLen)
	}
	table := make([]int32, len(blocks))
	for i, b := range blocks {
		if err := c.checkHeld(b); err != nil {
			return err
		}
		table[i] = int32(b)
	}
	c.blocks.adopt(seq, table)
	c.lengths[seq] = n
	return nil
}

// IsIdle reports whether a block is held and no sequence has it: letting it go makes
// it free.
func (c *Cache) IsIdle(b Block) bool { return c.checkHeld(b) == nil && c.blocks.isIdle(int32(b)) }

// IdleBlocks returns how many blocks are held that no sequence has.
func (c *Cache) IdleBlocks() int { return c.blocks.idle }

// FreeBlocks returns how many blocks nobody has.
func (c *Cache) FreeBlocks() int { return len(c.blocks.free) }

// Needed returns how many free blocks a step of these segments takes. Sequences that
// are not there take none: the step refuses them.
func (c *Cache) Needed(segments []Segment) int {
	growths := make([]growth, 0, len(segments))
	for _, s := range segments {
		if c.checkSeq(s.Seq) == nil {
			growths = append(growths, c.growth(s))
		}
	}
	return c.blocks.needed(growths)
}

// growth is what a step of a segment does to its sequence.
func (c *Cache) growth(s Segment) growth {
	g := growth{seq: s.Seq, from: c.lengths[s.Seq], n: len(s.Tokens)}
	for _, f := range s.Forks {
		g.forks = append(g.forks, fork{seq: f.Seq, n: len(f.Tokens)})
	}
	return g
}

func (c *Cache) checkHeld(b Block) error {
	if b < 0 || int(b) >= len(c.blocks.held) || !c.blocks.held[b] {
		return fmt.Errorf("block %d of a cache with %d is not held", b, len(c.blocks.held))
	}
	return nil
}
