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
type Cache struct {
	be      backend.Backend
	k, v    []backend.Buffer // A layer: [seqs·maxLen, KVHeads·HeadDim].
	width   int
	maxLen  int
	lengths []int
}

// NewCache allocates a cache for seqs sequences of at most maxLen tokens. Close
// gives its memory back.
func (m *Model) NewCache(seqs, maxLen int) (*Cache, error) {
	if seqs <= 0 || maxLen <= 0 {
		return nil, fmt.Errorf("a cache of %d sequences of %d tokens", seqs, maxLen)
	}
	if maxLen > m.config.MaxPositions {
		return nil, fmt.Errorf("a cache of %d tokens a sequence: the model has %d positions", maxLen, m.config.MaxPositions)
	}
	if seqs > math.MaxInt32/maxLen {
		return nil, fmt.Errorf("a cache of %d sequences of %d tokens is too large", seqs, maxLen)
	}
	c := &Cache{be: m.be, width: m.keys, maxLen: maxLen, lengths: make([]int, seqs)}
	for range m.layers {
		for _, list := range []*[]backend.Buffer{&c.k, &c.v} {
			b, err := m.be.Alloc(seqs * maxLen * m.keys)
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("a cache of %d sequences of %d tokens: %w", seqs, maxLen, err)
			}
			*list = append(*list, b)
		}
	}
	return c, nil
}

// Close frees the cache's memory; it must not be used afterwards.
func (c *Cache) Close() {
	for _, b := range append(c.k, c.v...) {
		c.be.Free(b)
	}
	c.k, c.v, c.lengths = nil, nil, nil
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

// Truncate shortens a sequence to its first n tokens; 0 empties it.
func (c *Cache) Truncate(seq, n int) error {
	if err := c.checkSeq(seq); err != nil {
		return err
	}
	if n < 0 || n > c.lengths[seq] {
		return fmt.Errorf("truncate sequence %d to %d tokens: it has %d", seq, n, c.lengths[seq])
	}
	c.lengths[seq] = n
	return nil
}

// CopyPrefix makes sequence dst the first n tokens of sequence src: a prompt's
// shared beginning is computed once.
func (c *Cache) CopyPrefix(dst, src, n int) error {
	for _, seq := range []int{dst, src} {
		if err := c.checkSeq(seq); err != nil {
			return err
		}
	}
	if n < 0 || n > c.lengths[src] {
		return fmt.Errorf("copy %d tokens of sequence %d: it has %d", n, src, c.lengths[src])
	}
	if dst != src && n > 0 {
		from, to := c.rows(src, 0, n), c.rows(dst, 0, n)
		p := &pass{be: c.be}
		rows := p.alloc(n * c.width)
		for _, b := range append(append([]backend.Buffer(nil), c.k...), c.v...) {
			p.do(func() error { return c.be.SelectRows(rows, b, from, c.width) })
			p.do(func() error { return c.be.ScatterRows(b, rows, to, c.width) })
		}
		p.release()
		if p.err != nil {
			return fmt.Errorf("copy %d tokens of sequence %d to %d: %w", n, src, dst, p.err)
		}
	}
	c.lengths[dst] = n
	return nil
}

func (c *Cache) checkSeq(seq int) error {
	if seq < 0 || seq >= len(c.lengths) {
		return fmt.Errorf("sequence %d of a cache with %d", seq, len(c.lengths))
	}
	return nil
}

// rows lists the cache rows of positions from to from+n−1 of a sequence.
func (c *Cache) rows(seq, from, n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(seq*c.maxLen + from + i)
	}
	return out
}

// fits reports whether the cache was made for this model's shape and backend.
func (c *Cache) fits(m *Model) bool {
	return c.be == m.be && len(c.k) == len(m.layers) && c.width == m.keys
}
