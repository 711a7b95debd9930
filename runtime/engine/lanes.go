package engine

import (
	"context"
	"slices"
	"time"
)

// lane is which places a job waits for.
type lane int

const (
	// answering jobs write, for long, as many at a time as the batch has places.
	answering lane = iota
	// questioning jobs are those of pass 1 that score labels: short, and in the way of nobody.
	// They have places of their own, so that what a request waits for is the batch alone, and
	// is chosen meanwhile.
	questioning
	// previewing jobs read a request's own prompt for pass 1, which its answer then finds in
	// the cache. They have the places of questions, but only those do that will be answered
	// soon: what was read would be evicted until then.
	previewing
)

// slots divides the cache's sequences: one for each answer, one for each job of pass 1, and
// the forks in which labels are scored side by side. labelRows bounds the tokens of a step's
// forks.
type slots struct {
	answers, questions, forks, labelRows int
}

func newSlots(batch int) slots {
	const ofLabel = 4
	return slots{
		answers: batch, questions: min(max(batch, 4), 32), forks: min(max(3*batch, 24), 96), labelRows: ofLabel * min(max(batch, 8), 32),
	}
}

func (s slots) total() int { return s.answers + s.questions + s.forks }

// fork returns the i-th fork's sequence.
func (s slots) fork(i int) int { return s.answers + s.questions + i }

// free are slots that no job has, of answers and of pass 1.
type free struct {
	answers, questions []int
}

// all lists the slots of an engine that does nothing, the first one last.
func (s slots) all() free {
	var f free
	for i := range s.answers + s.questions {
		f.put(s, s.answers+s.questions-1-i)
	}
	return f
}

// of are those of a lane.
func (f *free) of(in lane) *[]int {
	if in == answering {
		return &f.answers
	}
	return &f.questions
}

// take takes one, of which there must be some.
func (f *free) take(in lane) int {
	list := f.of(in)
	slot := (*list)[len(*list)-1]
	*list = (*list)[:len(*list)-1]
	return slot
}

// put gives one back.
func (f *free) put(s slots, slot int) {
	list := &f.questions
	if slot < s.answers {
		list = &f.answers
	}
	*list = append(*list, slot)
}

// previewed is how many jobs may wait before one that previews.
func (s slots) previewed() int { return max(s.answers/4, 1) }

// admit gives free slots and blocks to those who wait longest, and drops those
// who have stopped waiting. One that needs many blocks lets others pass until it has been
// overtaken as often as a batch has places; then those behind it wait with it.
func (l *loop) admit() {
	e := l.engine
	var gone []*job
	var short []*job // Wait for blocks.
	stay := 0
	closed := false
	e.mu.Lock()
	e.waiting = slices.DeleteFunc(e.waiting, func(j *job) bool {
		in := j.work.lane()
		switch {
		case j.ctx.Err() != nil:
			gone = append(gone, j)
			return true
		case closed, len(*l.free.of(in)) == 0, in == previewing && stay >= l.slots.previewed():
			stay++
			return false
		case !l.grant(j):
			stay++
			short = append(short, j)
			closed = j.overtaken >= e.o.MaxBatch || len(short) == e.o.MaxBatch
			return false
		}
		for _, other := range short {
			other.overtaken++
			closed = closed || other.overtaken >= e.o.MaxBatch
		}
		l.start(j)
		return true
	})
	e.mu.Unlock()
	for _, j := range gone {
		e.cancelled.Add(1)
		e.finish(j, context.Cause(j.ctx))
	}
	l.count()
}

// start lets a job run, before all whose requests arrived later: so prompts are read in the
// order in which requests arrived, whichever pass they are of. A request whose pass 1 is
// behind it then goes before the pass 1 of others, and no first token waits for all choices.
func (l *loop) start(j *job) {
	place := len(l.running)
	for place > 0 && l.running[place-1].admission.arrived > j.admission.arrived {
		place--
	}
	l.running = slices.Insert(l.running, place, j)
	j.work.admitted()
}

// writers is how many running jobs write answers.
func (l *loop) writers() int {
	n := 0
	for _, j := range l.running {
		if j.work.lane() == answering {
			n++
		}
	}
	return n
}

// defaultFollowUp is how long the loop waits for pass 2 of requests whose pass 1 it has just
// answered. They take some microseconds, and a step many milliseconds, which they would wait
// for otherwise; only who waits for weights to be composed takes longer.
const defaultFollowUp = time.Millisecond

// follow waits a moment for what requests ask for behind their pass 1, if there are places
// for it, so that the next step begins with it.
func (l *loop) follow(ctx context.Context) {
	e := l.engine
	if len(l.free.answers) == 0 {
		e.forget()
		return
	}
	if !e.follows() {
		return
	}
	timer := time.NewTimer(e.o.followUp)
	defer timer.Stop()
	for e.follows() {
		select {
		case <-e.wake:
		case <-timer.C:
			e.forget()
		case <-ctx.Done():
			return
		}
	}
}
