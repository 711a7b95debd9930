package engine

import (
	"container/list"
	"errors"
	"slices"

	"github.com/transformersquared/operator/runtime/model"
)

// prefixCache keeps the keys and values of what has been read and written, so that who
// comes next and begins alike need not read it again: the next turn of a conversation,
// another question under the same system prompt, the next prompt of pass 1. Of each
// writer, the weights that computed them, it has a tree of blocks: a path from the root
// is the beginning of some sequence. Blocks are held, not copied; those that no sequence
// has are evicted when one is needed, the least recently used first.
type prefixCache struct {
	cache *model.Cache
	roots map[key]*cachedBlock
	nodes map[model.Block]*cachedBlock
	// used has all blocks, the most recently used first. Whoever uses a block uses those
	// before it in its path afterwards, so that no block is behind one that follows it.
	used list.List
	pins []pin
}

// cachedBlock is a node of a tree: the next tokens of all paths through it.
type cachedBlock struct {
	writer *key // Of a root, which has no block.
	block  model.Block
	tokens []int32 // A block full, or fewer, and then nothing follows.
	parent *cachedBlock
	// next are sorted by their tokens. None's tokens are the beginning of another's.
	next   []*cachedBlock
	place  *list.Element
	pinned bool // It is evicted when no other can be. So are those before it in its path.
}

func newPrefixCache(cache *model.Cache) *prefixCache {
	return &prefixCache{cache: cache, roots: map[key]*cachedBlock{}, nodes: map[model.Block]*cachedBlock{}}
}

// len is how many blocks the cache has.
func (c *prefixCache) len() int { return c.used.Len() }

// closest returns which of the next blocks begins most like tokens, where it is, and how
// many tokens the two have in common; place is where a new one belongs otherwise.
func (b *cachedBlock) closest(tokens []int32) (place, common int, found *cachedBlock) {
	place, _ = slices.BinarySearchFunc(b.next, tokens, func(n *cachedBlock, t []int32) int { return slices.Compare(n.tokens, t) })
	// Of a sorted list, what is most alike lies on either side.
	for i := max(place-1, 0); i <= place && i < len(b.next); i++ {
		if n := alike(b.next[i].tokens, tokens); n > common {
			common, found = n, b.next[i]
		}
	}
	return place, common, found
}

// alike returns how many tokens two sequences have in common from their beginning.
func alike(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// match returns the blocks that begin most like tokens, and how many tokens these have
// in common with them. The blocks count as used.
func (c *prefixCache) match(writer key, tokens []int32) (blocks []model.Block, n int) {
	var path []*cachedBlock
	for node := c.roots[writer]; node != nil && n < len(tokens); {
		_, common, found := node.closest(tokens[n:])
		if found == nil {
			break
		}
		path = append(path, found)
		if n += common; common < model.BlockSize {
			break
		}
		node = found
	}
	c.use(path)
	for _, b := range path {
		blocks = append(blocks, b.block)
	}
	return blocks, n
}

func (c *prefixCache) use(path []*cachedBlock) {
	for _, b := range slices.Backward(path) {
		c.used.MoveToFront(b.place)
	}
}

// insert keeps the blocks of a sequence that a writer made of these tokens; those of what
// the cache has already it leaves alone.
func (c *prefixCache) insert(writer key, seq int, tokens []int32) error {
	node := c.roots[writer]
	if node == nil {
		node = &cachedBlock{writer: &writer}
	}
	root := node
	var path []*cachedBlock
	pinned := c.pinnedBlocks(writer, tokens)
	for i := 0; len(tokens) > 0; i++ {
		own := tokens[:min(model.BlockSize, len(tokens))]
		tokens = tokens[len(own):]
		place, common, found := node.closest(own)
		if found == nil || common < len(own) {
			if _, held := c.cache.HeldAt(seq, i); held {
				break // What it shares with another path is in use, and stays there.
			}
			block, err := c.cache.Hold(seq, i)
			if err != nil {
				return err
			}
			if found != nil && common == len(found.tokens) { // It has more of the same.
				delete(c.nodes, found.block)
				if err := c.cache.LetGo(found.block); err != nil {
					return err
				}
			} else {
				found = &cachedBlock{parent: node}
				found.place = c.used.PushFront(found)
				node.next = slices.Insert(node.next, place, found)
				c.roots[writer] = root
			}
			found.block, found.tokens = block, slices.Clone(own)
			c.nodes[block] = found
			found.pinned = i < pinned
		}
		path = append(path, found)
		node = found
	}
	c.use(path)
	return nil
}

// evict makes a block free that no sequence has, the one that was used longest ago, and of
// those that are pinned only where there are no others. It reports whether there was one.
func (c *prefixCache) evict() (bool, error) {
	for _, pinned := range []bool{false, true} {
		if b := c.oldest(pinned); b != nil {
			return true, c.remove(b)
		}
	}
	return false, nil
}

// oldest returns the idle block that was used longest ago, and has none behind it if one
// such is idle; nil if none is.
func (c *prefixCache) oldest(pinned bool) *cachedBlock {
	var inside *cachedBlock
	for e := c.used.Back(); e != nil; e = e.Prev() {
		b := e.Value.(*cachedBlock) //nolint:forcetypeassert // The list has nothing else.
		if b.pinned != pinned || !c.cache.IsIdle(b.block) {
			continue
		}
		if len(b.next) == 0 {
			return b
		}
		if inside == nil {
			inside = b
		}
	}
	// What follows an idle block is in use: by a sequence that has made its beginning
	// itself, while another one did.
	return inside
}

// leave lets go of blocks in the middle of which segments go on, which then write to them
// instead of copies. It reports whether there was one.
func (c *prefixCache) leave(segments []model.Segment) (bool, error) {
	for _, s := range segments {
		n := c.cache.Len(s.Seq)
		if n%model.BlockSize == 0 {
			continue
		}
		if block, held := c.cache.HeldAt(s.Seq, n/model.BlockSize); held {
			return true, c.remove(c.nodes[block])
		}
	}
	return false, nil
}

// remove lets go of a block and all that follow it.
func (c *prefixCache) remove(b *cachedBlock) error {
	var errs []error
	for _, n := range slices.Clone(b.next) {
		errs = append(errs, c.remove(n))
	}
	c.used.Remove(b.place)
	delete(c.nodes, b.block)
	c.unlink(b)
	return errors.Join(append(errs, c.cache.LetGo(b.block))...)
}

// unlink takes a block without next ones out of its tree, and a tree without blocks out
// of the cache.
func (c *prefixCache) unlink(b *cachedBlock) {
	node := b.parent
	node.next = slices.DeleteFunc(node.next, func(n *cachedBlock) bool { return n == b })
	if node.writer != nil && len(node.next) == 0 {
		delete(c.roots, *node.writer)
	}
}
