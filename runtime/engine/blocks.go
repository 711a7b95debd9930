package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/model"
)

// DefaultCacheBytes bounds the default of Options.CacheTokens, and that of a plan where
// memory is not this process' own.
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

// demand is what a job holds of the cache.
type demand struct {
	// blocks for the job itself.
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

// cacheBlocks is the size of the cache where nobody has planned it: see Options.CacheTokens.
func cacheBlocks(tokenBytes int64, contextLength, cacheTokens int, s slots) int {
	if cacheTokens > 0 {
		return model.Blocks(cacheTokens)
	}
	return defaultBlocks(tokenBytes*model.BlockSize, DefaultCacheBytes, contextLength, s)
}

// defaultBlocks is the size of a cache that may take so many bytes: no more blocks than a
// full batch, its forks and one context more, and one context and a block at least.
func defaultBlocks(blockBytes, share int64, contextLength int, s slots) int {
	const blocksOfFork = 2
	context := model.Blocks(contextLength)
	all := (s.answers+1)*context + s.forks*blocksOfFork
	return max(int(min(int64(all), share/blockBytes)), context+1)
}

// grant gives a waiting job a slot, if there are blocks for its prompt, and one more for
// each answer that is written: room for what all of them write next. More is not reserved: answers
// take blocks as they grow, and when there is none the youngest job gives way. A job
// alone always gets what it needs (Fits).
func (l *loop) grant(j *job) bool {
	d := j.work.demand(len(j.prompt))
	j.foreseen = l.foreseen(j)
	d.blocks -= j.foreseen / model.BlockSize
	left := l.cache.FreeBlocks() + l.cache.IdleBlocks() - l.outstanding() - l.writers()
	if len(l.running) > 0 && d.least() > left {
		return false
	}
	j.forks, j.promised = 0, d.blocks
	if d.forks > 0 {
		j.forks = max(1, min(d.forks, l.slots.forks, (left-d.blocks)/d.forkBlocks))
		j.promised += j.forks * d.forkBlocks
	}
	j.slot = l.free.take(j.work.lane())
	return true
}

// outstanding is how many blocks the running jobs have been granted for their prompts and
// forks, and have not taken yet.
func (l *loop) outstanding() int {
	n := 0
	for _, j := range l.running {
		if !j.ended {
			n += max(0, j.promised-max(0, model.Blocks(l.cache.Len(j.slot))-j.foreseen/model.BlockSize))
		}
	}
	return n
}

// makeRoom sees to it that a batch finds the blocks it needs: the prefix cache lets go of
// what nobody uses, and of what would be copied else, and then the youngest jobs give way.
// Those of the batch that have leave it. It returns what the batch computes then.
func (l *loop) makeRoom(b *batch) []model.Segment {
	for {
		b.shares = slices.DeleteFunc(b.shares, func(s share) bool { return s.job.ended })
		segments := b.segments()
		lacking := l.cache.Needed(segments) - l.cache.FreeBlocks()
		if lacking <= 0 {
			return segments
		}
		gone, err := l.prefixes.evict()
		if !gone && err == nil {
			gone, err = l.prefixes.leave(segments)
		}
		switch {
		case err != nil:
			l.failAll(err)
			return nil
		case !gone:
			l.yield(lacking)
		}
	}
}

// yield has the job whose request arrived last give way to the others.
func (l *loop) yield(lacking int) {
	var left []*job
	for _, j := range slices.Backward(l.running) {
		if !j.ended {
			left = append(left, j)
		}
	}
	if len(left) == 1 { // It lacks what it has itself: Fits was wrong.
		l.fail(left[0], &model.CacheFullError{Needed: lacking, Total: l.cache.TotalBlocks()})
		return
	}
	l.giveWay(left[0])
}

// giveWay takes a job's slot and blocks and has it wait before all others. What it has in
// the key-value cache stays until it is evicted.
func (l *loop) giveWay(j *job) {
	if err := l.keep(j); err != nil {
		l.fail(j, err)
		return
	}
	again := &job{
		ctx: j.ctx, variant: j.variant, reader: j.reader, byReader: j.byReader, prompt: j.work.sequence(j), work: j.work, admission: j.admission, uses: j.uses,
		gaveWay: true,
	}
	j.ended = true
	if err := l.release(j); err != nil {
		l.engine.fails.Add(1)
		l.engine.finish(j, err)
		return
	}
	again.work.restart()
	e := l.engine
	e.preempted.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = slices.Insert(e.waiting, 0, again)
}

// release takes a job's slot and blocks back, and those of its forks.
func (l *loop) release(j *job) error {
	l.free.put(l.slots, j.slot)
	err := l.cache.Truncate(j.slot, 0)
	for i, of := range l.forks {
		if of == j {
			err = errors.Join(err, l.cache.Truncate(l.slots.fork(i), 0))
		}
	}
	return err
}

// releaseForks empties the forks of this step.
func (l *loop) releaseForks() error {
	for i := range l.forks {
		if err := l.cache.Truncate(l.slots.fork(i), 0); err != nil {
			return err
		}
	}
	clear(l.forks)
	l.forks, l.labelRows = l.forks[:0], 0
	return nil
}
