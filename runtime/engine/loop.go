package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/model"
)

// places divides the cache's sequences: one for each running request, one for
// the prompt that is kept for its beginning, and the forks in which labels are
// scored side by side.
type places struct {
	batch, forks int
}

func newPlaces(batch int) places {
	return places{batch: batch, forks: min(max(batch, 8), 32)}
}

func (p places) total() int { return p.batch + 1 + p.forks }

// fork returns the i-th fork's sequence.
func (p places) fork(i int) int { return p.batch + 1 + i }

// job is a request on its way through the loop.
type job struct {
	ctx context.Context //nolint:containedctx // A request carries its context into the loop that owns the model.
	variant
	prompt []int32
	work   work

	place int // Sequence in the cache.
	read  int // Tokens of the prompt that are in the cache.
	ended bool
}

// work is what a job does once its prompt has been read. All its methods are
// called by the loop.
type work interface {
	// admitted says that the job has got a place.
	admitted()
	// take receives the logits [V] that were asked for: the row after the prompt
	// first, then those of segments. It returns whether the job is done.
	take(rows [][]float32) (done bool, err error)
	// segments lists what to compute next. None means nothing in this turn.
	segments(j *job, l *loop) ([]model.Segment, error)
	// end is called once, with the error of a job that failed.
	end(err error)
}

// kept is the last prompt of pass 1, whose beginning (the template with all
// skills) the next one shares.
type kept struct {
	place  int
	tokens []int32
	variant
}

// loop is the state of the goroutine that owns the cache.
type loop struct {
	engine *Engine
	cache  *model.Cache
	places places

	active []*job // In order of admission.
	free   []int  // Places.
	kept   kept
	forks  int // Forks taken in this turn.
}

func (l *loop) run(ctx context.Context) {
	for i := range l.places.batch {
		l.free = append(l.free, l.places.batch-1-i)
	}
	l.kept.place = l.places.batch
	defer l.abort()
	for ctx.Err() == nil {
		l.admit()
		if len(l.active) == 0 {
			select {
			case <-l.engine.wake:
			case <-ctx.Done():
			}
			continue
		}
		l.turn(ctx)
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
		j.work.end(ErrClosed)
	}
	for _, j := range l.active {
		l.end(j, ErrClosed)
	}
}

// admit gives free places to those who wait longest, and drops those who have
// stopped waiting.
func (l *loop) admit() {
	e := l.engine
	var gone, admitted []*job
	e.mu.Lock()
	e.waiting = slices.DeleteFunc(e.waiting, func(j *job) bool {
		switch {
		case j.ctx.Err() != nil:
			gone = append(gone, j)
		case len(admitted) < len(l.free):
			admitted = append(admitted, j)
		default:
			return false
		}
		return true
	})
	e.mu.Unlock()
	for _, j := range gone {
		e.cancelled.Add(1)
		j.work.end(context.Cause(j.ctx))
	}
	for _, j := range admitted {
		j.place = l.free[len(l.free)-1]
		l.free = l.free[:len(l.free)-1]
		l.active = append(l.active, j)
		j.work.admitted()
		l.reuse(j)
	}
	e.active.Store(int64(len(l.active)))
}

// reuse copies the beginning that a prompt of pass 1 shares with the last one.
func (l *loop) reuse(j *job) {
	if _, scoring := j.work.(*scoring); !scoring || l.kept.variant != j.variant {
		return
	}
	n := 0
	for n < min(len(j.prompt)-1, len(l.kept.tokens)) && j.prompt[n] == l.kept.tokens[n] {
		n++
	}
	if err := l.cache.CopyPrefix(j.place, l.kept.place, n); err != nil {
		l.fail(j, err)
		return
	}
	j.read = n
	l.engine.reusedTokens.Add(int64(n))
}

// keep makes a scored prompt the one to be reused: the places change roles.
func (l *loop) keep(j *job) {
	l.kept.place, j.place = j.place, l.kept.place
	l.kept.tokens, l.kept.variant = slices.Clone(j.prompt), j.variant
}

// batch is what one model computes in a turn.
type batch struct {
	model    *model.Model
	form     Form
	segments []model.Segment
	shares   []share
}

// share is a job's part of a batch: the next rows of logits.
type share struct {
	job    *job
	rows   int
	unused bool // The rows are of a prompt that is not read to its end.
}

// turn advances every running job by one batch per model.
func (l *loop) turn(ctx context.Context) {
	l.forks = 0
	budget := l.engine.o.StepTokens
	var batches []*batch
	for _, j := range l.active {
		if j.ended {
			continue
		}
		if j.ctx.Err() != nil {
			l.engine.cancelled.Add(1)
			l.end(j, context.Cause(j.ctx))
			continue
		}
		i := slices.IndexFunc(batches, func(b *batch) bool { return b.model == j.model })
		if i < 0 {
			i = len(batches)
			batches = append(batches, &batch{model: j.model, form: j.form})
		}
		if err := l.plan(batches[i], j, &budget); err != nil {
			l.fail(j, err)
		}
	}
	for _, b := range batches {
		if len(b.segments) > 0 {
			l.step(ctx, b)
		}
	}
	l.active = slices.DeleteFunc(l.active, func(j *job) bool { return j.ended })
	l.engine.active.Store(int64(len(l.active)))
	l.engine.turns.Add(1)
}

// plan adds a job's next segments to its model's batch.
func (l *loop) plan(b *batch, j *job, budget *int) error {
	if left := len(j.prompt) - j.read; left > 0 {
		n := min(left, *budget)
		if n == 0 {
			return nil // The turn's budget is used up by prompts that came before.
		}
		*budget -= n
		b.segments = append(b.segments, j.segment(model.Segment{Seq: j.place, Tokens: j.prompt[j.read : j.read+n]}))
		b.shares = append(b.shares, share{job: j, rows: 1, unused: n < left})
		j.read += n
		l.engine.promptTokens.Add(int64(n))
		return nil
	}
	segments, err := j.work.segments(j, l)
	if err != nil || len(segments) == 0 {
		return err
	}
	s := share{job: j}
	for _, seg := range segments {
		if s.rows++; seg.AllLogits {
			s.rows += len(seg.Tokens) - 1
		}
		b.segments = append(b.segments, j.segment(seg))
	}
	b.shares = append(b.shares, s)
	return nil
}

// step computes a batch and hands every job its rows.
func (l *loop) step(ctx context.Context, b *batch) {
	logits, err := b.model.Step(ctx, l.cache, b.segments)
	if ctx.Err() != nil {
		return // The engine is closing; abort tells everybody.
	}
	if err != nil {
		for _, s := range b.shares {
			l.fail(s.job, err)
		}
		return
	}
	count := l.engine.computed(b.form)
	count.steps.Add(1)
	for _, s := range b.segments {
		count.tokens.Add(int64(len(s.Tokens)))
	}
	row := 0
	for _, s := range b.shares {
		rows := make([][]float32, s.rows)
		for i := range rows {
			rows[i] = logits.Row(row + i)
		}
		row += s.rows
		if s.unused || s.job.ended {
			continue
		}
		done, err := s.job.work.take(rows)
		switch {
		case err != nil:
			l.fail(s.job, err)
		case done:
			if _, scored := s.job.work.(*scoring); scored {
				l.keep(s.job)
			}
			l.end(s.job, nil)
		}
	}
}

// fail ends a job by an error of ours.
func (l *loop) fail(j *job, err error) {
	if j.ended {
		return
	}
	l.engine.fails.Add(1)
	l.end(j, fmt.Errorf("computing: %w", err))
}

// end frees a job's place at once. The job leaves l.active at the end of the
// turn.
func (l *loop) end(j *job, err error) {
	if j.ended {
		return
	}
	j.ended = true
	l.free = append(l.free, j.place)
	if truncErr := l.cache.Truncate(j.place, 0); err == nil {
		err = truncErr
	}
	j.work.end(err)
}
