package engine

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/model"
)

// DefaultCacheBytes bounds the default of Options.CacheTokens.
const DefaultCacheBytes = 2 << 30

// CacheError says that a request needs more of the key-value cache than there
// is, even with nothing beside it.
type CacheError struct {
	// Prompt and Answer are the tokens of the prompt and those asked for.
	Prompt, Answer int
	// Needed and Limit are blocks of model.BlockSize tokens.
	Needed, Limit int
}

// Error names the numbers.
func (e *CacheError) Error() string {
	return fmt.Sprintf("the cache holds %d blocks of %d tokens, but the request needs %d: for %d tokens of the prompt and %d of the answer",
		e.Limit, model.BlockSize, e.Needed, e.Prompt, e.Answer)
}

// demand is what a job may hold of the cache at most.
type demand struct {
	// blocks for the job itself, to its end.
	blocks int
	// forks are what it can use side by side, besides, of forkBlocks each; it needs
	// one if it can use any.
	forks, forkBlocks int
}

// least is what the job cannot do without.
func (d demand) least() int { return d.blocks + min(d.forks, 1)*d.forkBlocks }

// answerDemand is for a prompt and an answer of so many tokens at most, the last
// of which nothing follows.
func answerDemand(prompt, answer int) demand {
	return demand{blocks: model.Blocks(prompt + answer - 1)}
}

// scoreDemand is for a prompt and labels. A fork has the blocks of its label, the
// last token left out, and a copy of the prompt's last block if that is not full.
func scoreDemand(prompt int, labels [][]int32) demand {
	d := demand{blocks: model.Blocks(prompt)}
	for _, label := range labels {
		if len(label) > 1 {
			d.forks++
			d.forkBlocks = max(d.forkBlocks, model.ForkBlocks(prompt, len(label)-1))
		}
	}
	return d
}

// Fits reports whether the engine can take a prompt and an answer of so many
// tokens at all: a ContextError or a CacheError if it cannot.
func (e *Engine) Fits(prompt, answer int) error {
	return e.fits(prompt, answer, answerDemand(prompt, answer))
}

func (e *Engine) fits(prompt, answer int, d demand) error {
	if prompt+answer > e.o.ContextLength {
		return &ContextError{Prompt: prompt, Answer: answer, Limit: e.o.ContextLength}
	}
	if d.least() > e.totalBlocks {
		return &CacheError{Prompt: prompt, Answer: answer, Needed: d.least(), Limit: e.totalBlocks}
	}
	return nil
}

// LongestAnswer is how many tokens an answer to a prompt of so many can have; below
// 1 it can have none.
func (e *Engine) LongestAnswer(prompt int) int {
	return min(e.o.ContextLength, e.CacheTokens()+1) - prompt
}

// cacheBlocks is the size of the cache. By default a full batch of answers of the
// whole context, the forks of labels of a few tokens, and cached prompts of one
// context fit in, if they take no more than DefaultCacheBytes; a request of the
// whole context always does.
func cacheBlocks(tokenBytes int64, contextLength, cacheTokens int, s slots) int {
	if cacheTokens > 0 {
		return model.Blocks(cacheTokens)
	}
	const blocksOfFork = 2
	context := model.Blocks(contextLength)
	all := (s.batch+1)*context + s.forks*blocksOfFork
	affordable := DefaultCacheBytes / (tokenBytes * model.BlockSize)
	return max(int(min(int64(all), affordable)), context+1)
}

// grant reserves what a waiting job may need to its end, and gives it a
// slot, if both are there. So a job that has been admitted never lacks a block:
// the blocks in use, but for those of cached prompts, which are evicted, are at most
// those reserved, and those are at most all.
func (l *loop) grant(j *job) bool {
	d, left := j.work.demand(len(j.prompt)), l.cache.TotalBlocks()-l.reserved
	if len(l.free) == 0 || d.least() > left {
		return false
	}
	if d.forks > 0 {
		j.forks = min(d.forks, l.slots.forks, (left-d.blocks)/d.forkBlocks)
	}
	j.reserved = d.blocks + j.forks*d.forkBlocks
	l.reserved += j.reserved
	j.slot = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	return true
}

// release takes a job's slot and blocks back.
func (l *loop) release(j *job) error {
	l.reserved -= j.reserved
	l.free = append(l.free, j.slot)
	return l.cache.Truncate(j.slot, 0)
}

// releaseForks empties the forks of this step.
func (l *loop) releaseForks() error {
	for ; l.forks > 0; l.forks-- {
		if err := l.cache.Truncate(l.slots.fork(l.forks-1), 0); err != nil {
			return err
		}
	}
	return nil
}
