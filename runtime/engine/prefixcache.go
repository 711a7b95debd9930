package engine

import (
	"slices"
	"weak"

	"github.com/transformersquared/operator/runtime/model"
)

// cachedPrompts is how many prompts of pass 1 the prefix cache has. One is enough
// where all requests are given the same skills to choose from; a few more let
// several wordings take turns, and cost only the blocks that they do not share.
const cachedPrompts = 8

// prefixCache has the last prompts of pass 1, whose beginnings (the template with all
// skills) the next ones share. They hold blocks that are reserved for
// nobody, and are evicted when a job needs them.
type prefixCache struct {
	cache  *model.Cache
	list   []cachedPrompt // The most recently used first.
	free   []int          // Sequences.
	blocks int            // That the list holds, some together with jobs.
}

type cachedPrompt struct {
	seq    int
	tokens []int32
	origin
}

// origin names the variant that computed a prompt without keeping it: the
// weights of a cached prompt may be forgotten, and then it matches nothing.
type origin struct {
	model  weak.Pointer[model.Model]
	scales weak.Pointer[model.Scales]
	form   Form
}

func (v variant) origin() origin {
	return origin{model: weak.Make(v.model), scales: weak.Make(v.scales), form: v.form}
}

func newPrefixCache(cache *model.Cache, s slots) prefixCache {
	c := prefixCache{cache: cache}
	for i := range cachedPrompts {
		c.free = append(c.free, s.cached(i))
	}
	return c
}

// match returns the cached sequence that begins most like a prompt, and how many
// tokens of it the two share: at most all but the prompt's last, whose logits are
// wanted.
func (c *prefixCache) match(j *job) (seq, shared int) {
	best, o := -1, j.origin()
	for i, p := range c.list {
		if p.origin != o {
			continue
		}
		if n := j.common(p.tokens); n > shared {
			best, shared = i, n
		}
	}
	if best < 0 {
		return 0, 0
	}
	c.use(best)
	return c.list[0].seq, shared
}

// use moves a prompt to the front.
func (c *prefixCache) use(i int) {
	p := c.list[i]
	c.list = slices.Insert(slices.Delete(c.list, i, i+1), 0, p)
}

// insert shares the blocks of a prompt that has been read. The least recently used
// one leaves if there are too many.
func (c *prefixCache) insert(j *job) error {
	o := j.origin()
	same := func(p cachedPrompt) bool { return p.origin == o && slices.Equal(p.tokens, j.prompt) }
	if i := slices.IndexFunc(c.list, same); i >= 0 {
		c.use(i)
		return nil
	}
	if len(c.free) == 0 {
		if _, err := c.evict(); err != nil {
			return err
		}
	}
	seq := c.free[len(c.free)-1]
	if err := c.cache.CopyPrefix(seq, j.slot, len(j.prompt)); err != nil {
		return err
	}
	c.free = c.free[:len(c.free)-1]
	c.list = slices.Insert(c.list, 0, cachedPrompt{seq: seq, tokens: slices.Clone(j.prompt), origin: o})
	return c.count()
}

// evict drops the least recently used prompt. It reports whether there was one.
func (c *prefixCache) evict() (bool, error) {
	if len(c.list) == 0 {
		return false, nil
	}
	last := len(c.list) - 1
	seq := c.list[last].seq
	c.list = slices.Delete(c.list, last, last+1)
	c.free = append(c.free, seq)
	if err := c.cache.Truncate(seq, 0); err != nil {
		return false, err
	}
	return true, c.count()
}

func (c *prefixCache) count() error {
	seqs := make([]int, len(c.list))
	for i, p := range c.list {
		seqs[i] = p.seq
	}
	var err error
	c.blocks, err = c.cache.UsedBlocksOf(seqs...)
	return err
}
