package engine

import (
	"slices"
	"weak"

	"github.com/transformersquared/operator/runtime/model"
)

// keptPrompts is how many prompts of pass 1 are kept. One is enough where all
// requests are given the same skills to choose from; a few more let several
// wordings take turns, and cost only the blocks that they do not share.
const keptPrompts = 8

// kept are the last prompts of pass 1, whose beginnings (the template with all
// skills) the next ones share. They hold blocks that nobody has promised to
// anybody, and give way when a job needs them.
type kept struct {
	cache  *model.Cache
	list   []keptPrompt // The most recently used first.
	free   []int        // Sequences.
	blocks int          // That the list holds, some together with jobs.
}

type keptPrompt struct {
	seq    int
	tokens []int32
	origin
}

// origin names the variant that computed a prompt without keeping it: the
// weights of a kept prompt may be forgotten, and then it matches nothing.
type origin struct {
	model  weak.Pointer[model.Model]
	scales weak.Pointer[model.Scales]
	form   Form
}

func (v variant) origin() origin {
	return origin{model: weak.Make(v.model), scales: weak.Make(v.scales), form: v.form}
}

func newKept(cache *model.Cache, p places) kept {
	k := kept{cache: cache}
	for i := range keptPrompts {
		k.free = append(k.free, p.kept(i))
	}
	return k
}

// longest returns the kept sequence that begins most like a prompt, and how many
// tokens of it the two share: at most all but the prompt's last, whose logits are
// wanted.
func (k *kept) longest(j *job) (seq, shared int) {
	best, o := -1, j.origin()
	for i, p := range k.list {
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
	k.use(best)
	return k.list[0].seq, shared
}

// use moves a prompt to the front.
func (k *kept) use(i int) {
	p := k.list[i]
	k.list = slices.Insert(slices.Delete(k.list, i, i+1), 0, p)
}

// keep shares the blocks of a prompt that has been read. The least recently used
// one leaves if there are too many.
func (k *kept) keep(j *job) error {
	o := j.origin()
	same := func(p keptPrompt) bool { return p.origin == o && slices.Equal(p.tokens, j.prompt) }
	if i := slices.IndexFunc(k.list, same); i >= 0 {
		k.use(i)
		return nil
	}
	if len(k.free) == 0 {
		if _, err := k.giveWay(); err != nil {
			return err
		}
	}
	seq := k.free[len(k.free)-1]
	if err := k.cache.CopyPrefix(seq, j.place, len(j.prompt)); err != nil {
		return err
	}
	k.free = k.free[:len(k.free)-1]
	k.list = slices.Insert(k.list, 0, keptPrompt{seq: seq, tokens: slices.Clone(j.prompt), origin: o})
	return k.count()
}

// giveWay drops the least recently used prompt. It reports whether there was one.
func (k *kept) giveWay() (bool, error) {
	if len(k.list) == 0 {
		return false, nil
	}
	last := len(k.list) - 1
	seq := k.list[last].seq
	k.list = slices.Delete(k.list, last, last+1)
	k.free = append(k.free, seq)
	if err := k.cache.Truncate(seq, 0); err != nil {
		return false, err
	}
	return true, k.count()
}

func (k *kept) count() error {
	seqs := make([]int, len(k.list))
	for i, p := range k.list {
		seqs[i] = p.seq
	}
	var err error
	k.blocks, err = k.cache.UsedBlocksOf(seqs...)
	return err
}
