package engine

import (
	"context"
	"math"
	"slices"
)

// admission is the places of a request in the batch and in the queue before it: as many
// as the request has choices, whatever it asks the engine for. They are taken from when
// the request is admitted until the last of what it asked for has ended. Whatever that is,
// and whenever it is asked for, it stands in the queue where the request arrived: pass 2 is
// behind nobody who came while pass 1 ran.
type admission struct {
	places  int
	arrived uint64
	users   int // The request itself, and its jobs. Engine.mu protects it.
	// own says that it is no request, but work that the engine gives itself: it takes no
	// place, and is not counted.
	own bool
}

type admissionKey struct{}

// Admit takes places for a request of so many choices: all or none (ErrBusy), as a queue
// that is full in the middle would leave half an answer. What is asked for with the context
// it returns has been admitted, and is not refused for want of places; without one each job
// needs a place of its own. leave gives the places back, once what was asked for has ended.
// An idle engine has places for any number of choices.
func (e *Engine) Admit(ctx context.Context, choices int) (admitted context.Context, leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a, err := e.admit(choices)
	if err != nil {
		return ctx, func() {}, err
	}
	return context.WithValue(ctx, admissionKey{}, a), func() { e.leave(a) }, nil
}

// admit takes so many places. e.mu is held.
func (e *Engine) admit(places int) (*admission, error) {
	switch {
	case e.closed:
		return nil, ErrClosed
	case e.places > 0 && e.places+places > e.o.MaxBatch+e.o.MaxWaiting:
		return nil, ErrBusy
	}
	e.places += places
	e.arrivals++
	return &admission{places: places, users: 1, arrived: e.arrivals}, nil
}

func (e *Engine) leave(a *admission) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.users--; a.users == 0 {
		e.places -= a.places
		e.expectNot(a)
	}
}

// admitOwn lets the engine give itself work.
func (e *Engine) admitOwn(ctx context.Context) (admitted context.Context, leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.arrivals++
	a := &admission{users: 1, arrived: e.arrivals, own: true}
	return context.WithValue(ctx, admissionKey{}, a), func() { e.leave(a) }
}

// Aside returns a context for what nobody waits for: it is computed after all that requests
// have asked for, before it or since, gives way to them, takes no place in the queue and is
// not counted. leave ends it, once what was asked for has ended.
func (e *Engine) Aside(ctx context.Context) (aside context.Context, leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &admission{users: 1, arrived: math.MaxUint64, own: true}
	return context.WithValue(ctx, admissionKey{}, a), func() { e.leave(a) }
}

// requests counts the jobs that are requests'.
func requests(jobs []*job) int {
	n := 0
	for _, j := range jobs {
		if !j.admission.own {
			n++
		}
	}
	return n
}

// expect says that a request will go on: its pass 1 has been answered.
func (e *Engine) expect(a *admission) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.users > 1 && !a.own { // Else there is nobody but the job itself.
		e.expected[a] = true
	}
}

// expectNot says that a request has gone on, or has ended. e.mu is held.
func (e *Engine) expectNot(a *admission) {
	if e.expected[a] {
		delete(e.expected, a)
		e.awake()
	}
}

// follows reports whether a request is expected to go on.
func (e *Engine) follows() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.expected) > 0
}

// forget expects nobody any more.
func (e *Engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.expected)
}

// awake tells the loop that something has changed.
func (e *Engine) awake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// enqueue hands a job to the loop. One of a request that has been admitted is not refused
// for want of places: half of its work may be done already.
func (e *Engine) enqueue(j *job) error {
	err := e.tryEnqueue(j)
	if err != nil {
		e.weights.release(j.uses)
	}
	return err
}

func (e *Engine) tryEnqueue(j *job) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	a, admitted := j.ctx.Value(admissionKey{}).(*admission)
	switch {
	case e.closed:
		return ErrClosed
	case admitted:
		a.users++
	default:
		var err error
		if a, err = e.admit(1); err != nil {
			return err
		}
	}
	j.admission = a
	e.expectNot(a)
	e.line(j)
	e.awake()
	return nil
}

// line puts a job into the queue: behind those that gave way, and those of requests that
// arrived before its own. e.mu is held.
func (e *Engine) line(j *job) {
	place := len(e.waiting)
	for place > 0 && !e.waiting[place-1].gaveWay && e.waiting[place-1].admission.arrived > j.admission.arrived {
		place--
	}
	e.waiting = slices.Insert(e.waiting, place, j)
}

// finish ends a job of the loop, and gives back what it has taken before its caller hears
// of it.
func (e *Engine) finish(j *job, err error) {
	if err == nil && j.work.lane() != answering {
		e.expect(j.admission)
	}
	e.leave(j.admission)
	e.weights.release(j.uses)
	j.work.end(err)
}

// Room is how many requests are computed together at most, and how many wait.
func (e *Engine) Room() (batch, waiting int) { return e.o.MaxBatch, e.o.MaxWaiting }
