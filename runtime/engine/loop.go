package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// job is a request on its way through the loop.
type job struct {
	ctx context.Context //nolint:containedctx // A request carries its context into the loop that owns the model.
	variant
	prompt []int32
	work   work
	// The first so many tokens of the prompt are computed by reader, where experts act on
	// answers alone; none otherwise.
	reader    variant
	byReader  int
	admission *admission
	uses      []*held // Released by the engine's finish.

	overtaken int  // How many were admitted while it waited for blocks and they came after it.
	gaveWay   bool // It has run before, and waits before all that have not.

	slot     int // Sequence in the cache.
	promised int // Blocks that its prompt takes, and its forks.
	foreseen int // Tokens of the prompt that another one reads for it.
	forks    int // That it may have at a time.
	read     int // Tokens of the prompt that are in the cache.
	ended    bool
}

// work is what a job does once its prompt has been read. All its methods are
// called by the loop.
type work interface {
	// lane is which places the job waits for.
	lane() lane
	// demand is what the job holds of the cache once a prompt of so many tokens is
	// read.
	demand(prompt int) demand
	// admitted says that the job has got a slot, and found that so many tokens of its
	// prompt are in the cache. A job that gave way for want of blocks is told again.
	admitted()
	found(tokens int)
	// sequence returns the job's tokens so far: those of its prompt, and what came of
	// it.
	sequence(j *job) []int32
	// restart says that the job has given way: it begins again with its sequence as
	// its prompt, and must come to the same end.
	restart()
	// forks lists what to compute with the end of the prompt.
	forks(j *job, l *loop) []model.Fork
	// asks lists what the job has to know of its rows of logits, by their number: the
	// row after the prompt is 0, those of forks follow; or else those of segments.
	asks() []backend.Ask
	// take receives the answers. It returns whether the job is
	// done. Jobs take side by side, so it touches nothing that they share but
	// counters.
	take(answers []backend.Answer) (done bool, err error)
	// segments lists what to compute next. None means nothing in this step.
	segments(j *job, l *loop) ([]model.Segment, error)
	// end is called once, with the error of a job that failed.
	end(err error)
}

// loop is the state of the goroutine that owns the cache.
type loop struct {
	engine *Engine
	cache  *model.Cache
	slots  slots

	running   []*job // In the order in which their requests arrived.
	free      free
	prefixes  *prefixCache
	forks     []*job // Those that have taken each of the forks in this step,
	labelRows int    // and how many tokens these have.
}

func (l *loop) run(ctx context.Context) {
	l.free = l.slots.all()
	l.prefixes = newPrefixCache(l.cache)
	defer l.abort()
	for ctx.Err() == nil {
		l.follow(ctx)
		l.repin()
		l.admit()
		if len(l.running) == 0 {
			select {
			case <-l.engine.wake:
			case <-ctx.Done():
			}
			continue
		}
		l.step(ctx)
	}
}

// abort ends everything that has not ended. No job can come after it, because
// the engine is marked as closed before the loop's context is cancelled.
func (l *loop) abort() {
	l.engine.mu.Lock()
	l.engine.closed = true
	waiting := l.engine.waiting
	l.engine.waiting = nil
	l.engine.mu.Unlock()
	for _, j := range waiting {
		l.engine.finish(j, ErrClosed)
	}
	for _, j := range l.running {
		if !j.ended {
			l.close(j, ErrClosed)
		}
	}
}

// count publishes how much is going on; the requests last, so that the blocks are
// no older than they are.
func (l *loop) count() {
	e := l.engine
	e.usedBlocks.Store(int64(l.cache.UsedBlocks()))
	e.cachedBlocks.Store(int64(l.prefixes.len()))
	e.idleBlocks.Store(int64(l.cache.IdleBlocks()))
	e.reservedBlocks.Store(int64(l.outstanding()))
	e.choosing.Store(int64(requests(l.running) - l.writers()))
	e.running.Store(int64(requests(l.running)))
}

// batch is what one model computes in a step.
type batch struct {
	model  *model.Model
	form   Form
	shares []share
}

// share is a job's part of a batch: its segments, and the next rows of logits.
type share struct {
	job      *job
	segments []model.Segment
	rows     int
	unused   bool // The rows are of a prompt that is not read to its end.
}

// add appends a job's share, which v computes.
func (b *batch) add(j *job, v variant, unused bool, segments ...model.Segment) {
	s := share{job: j, unused: unused}
	for _, seg := range segments {
		s.rows += seg.Rows()
		s.segments = append(s.segments, v.segment(seg))
	}
	b.shares = append(b.shares, s)
}

// segments lists what is computed.
func (b *batch) segments() []model.Segment {
	var all []model.Segment
	for _, s := range b.shares {
		all = append(all, s.segments...)
	}
	return all
}

// step advances every running job by one batch per model.
func (l *loop) step(ctx context.Context) {
	var batches []*batch
	of := func(v variant) *batch {
		for _, b := range batches {
			if b.model == v.model {
				return b
			}
		}
		batches = append(batches, &batch{model: v.model, form: v.form})
		return batches[len(batches)-1]
	}
	budget := l.engine.o.StepTokens
	for _, j := range l.running {
		if j.ended {
			continue
		}
		if j.ctx.Err() != nil {
			l.engine.cancelled.Add(1)
			l.end(j, context.Cause(j.ctx))
			continue
		}
		if err := l.plan(of, j, &budget); err != nil {
			l.fail(j, err)
		}
	}
	for _, b := range batches {
		l.forward(ctx, b)
	}
	if err := l.releaseForks(); err != nil {
		l.failAll(err)
	}
	l.running = slices.DeleteFunc(l.running, func(j *job) bool { return j.ended })
	l.engine.steps.Add(1)
	l.count()
}

// plan adds a job's next segments to the batch of what computes them.
func (l *loop) plan(of func(variant) *batch, j *job, budget *int) error {
	if j.read == 0 {
		if wait, err := l.matchPrefix(j); wait || err != nil {
			return err
		}
	}
	if left := len(j.prompt) - j.read; left > 0 {
		n, v := min(left, *budget), j.variant
		if j.read < j.byReader {
			n, v = min(n, j.byReader-j.read), j.reader
		}
		if n == 0 {
			return nil // The step's budget is used up by prompts that came before.
		}
		*budget -= n
		seg := model.Segment{Seq: j.slot, Tokens: j.prompt[j.read : j.read+n]}
		if n == left {
			seg.Forks = j.work.forks(j, l)
		}
		of(v).add(j, v, n < left, seg)
		j.read += n
		l.engine.promptTokens.Add(int64(n))
		return nil
	}
	segments, err := j.work.segments(j, l)
	if err != nil || len(segments) == 0 {
		return err
	}
	of(j.variant).add(j, j.variant, false, segments...)
	return nil
}

// forward computes a batch and hands every job its answers.
func (l *loop) forward(ctx context.Context, b *batch) {
	segments := l.makeRoom(b)
	if len(segments) == 0 {
		return
	}
	asks, counts := b.asks()
	answers, err := b.model.Decide(ctx, l.cache, segments, asks)
	if ctx.Err() != nil {
		return // The engine is closing; abort tells everybody.
	}
	if err != nil {
		for _, s := range b.shares {
			l.fail(s.job, err)
		}
		if errors.Is(err, backend.ErrDeviceLost) {
			l.engine.lose(err)
		}
		return
	}
	count := l.engine.computed(b.form)
	count.batches.Add(1)
	for _, s := range segments {
		count.tokens.Add(int64(len(s.Tokens)))
		for _, f := range s.Forks {
			count.tokens.Add(int64(len(f.Tokens)))
		}
	}
	for i, t := range takeAll(b.shares, counts, answers) {
		j := b.shares[i].job
		switch {
		case t.err != nil:
			l.fail(j, t.err)
		case t.done:
			l.end(j, nil)
		}
	}
}

// taken is what became of a job when it took its rows.
type taken struct {
	done bool
	err  error
}

// asks lists what the jobs of the batch ask about its rows of logits, and how much each
// of them asks.
func (b *batch) asks() (all []backend.Ask, counts []int) {
	counts = make([]int, len(b.shares))
	first := 0
	for i, s := range b.shares {
		if !s.unused && !s.job.ended {
			for _, ask := range s.job.work.asks() {
				ask.Row += first
				all = append(all, ask)
				counts[i]++
			}
		}
		first += s.rows
	}
	return all, counts
}

// takeAll hands every job its answers, side by side: log-probabilities of the likeliest
// tokens look at the whole vocabulary.
func takeAll(shares []share, counts []int, answers []backend.Answer) []taken {
	all := make([]taken, len(shares))
	var taking sync.WaitGroup
	for i, s := range shares {
		own := answers[:counts[i]]
		answers = answers[counts[i]:]
		if s.unused || s.job.ended {
			continue
		}
		taking.Go(func() {
			all[i].done, all[i].err = s.job.work.take(own)
		})
	}
	taking.Wait()
	return all
}

// fail ends a job by an error of ours.
func (l *loop) fail(j *job, err error) {
	if j.ended {
		return
	}
	l.engine.fails.Add(1)
	l.close(j, fmt.Errorf("computing: %w", err))
}

func (l *loop) failAll(err error) {
	for _, j := range l.running {
		l.fail(j, err)
	}
}

// end ends a job that is done, or given up, and keeps what it has in the cache.
func (l *loop) end(j *job, err error) {
	if j.ended {
		return
	}
	if keepErr := l.keep(j); err == nil {
		err = keepErr
	}
	l.close(j, err)
}

// close frees a job's slot and blocks at once. The job leaves l.running at the end of the
// step.
func (l *loop) close(j *job, err error) {
	j.ended = true
	if releaseErr := l.release(j); err == nil {
		err = releaseErr
	}
	l.engine.finish(j, err)
}
