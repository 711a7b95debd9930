package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// pool runs the tasks of one operation on several goroutines. Tasks are taken one
// by one by whoever is free, the caller among them, so that a worker which the
// system has suspended holds up nobody but the task it is at.
//
// Decoding is bound by hand-off as much as by memory: between two operations of a
// layer there are microseconds, and waking a sleeping thread takes tens of them on
// a virtual machine. So who waits looks for the next job, or for the end of this
// one, before it sleeps. Where other processes want the same processors, workers keep
// off each other's. If the system still has none for one of them, it costs more than it
// gives, as it is suspended in the middle of a task, for milliseconds in which everybody
// waits: the pool goes on with a worker less.
type pool struct {
	threads int
	share   *share
	places  []place                 // The caller's and the workers'.
	posted  atomic.Pointer[job]     // The newest job; nil when it is done.
	ahead   atomic.Pointer[reading] // What workers may read while they wait,
	still   sync.RWMutex            // but not while somebody writes it, who holds this.
	asleep  atomic.Int32            // Workers that must be woken.
	wake    chan struct{}
	quit    chan struct{}
	workers sync.WaitGroup
}

const (
	// How often who waits looks before it sleeps: some 80 microseconds.
	patientLooks = 1 << 17
	// After so many looks other goroutines may run, which have no processor while
	// all of the pool are awake: those of requests, above all.
	politeLooks = 1 << 11
)

// job is one parallel loop: tasks 0 to tasks−1. A worker that comes late finds
// none left and drops it.
type job struct {
	tasks    int64
	seats    atomic.Int64 // For workers.
	body     func(task int)
	next     atomic.Int64
	done     atomic.Int64
	finished atomic.Pointer[chan struct{}] // Made by a caller that sleeps.
}

func newPool(threads int) *pool {
	p := &pool{threads: threads, share: newShare(threads), places: newPlaces(threads),
		wake: make(chan struct{}, threads), quit: make(chan struct{})}
	for n := 1; n < threads; n++ {
		p.workers.Go(func() { p.serve(&worker{pool: p, number: n, ahead: reader{still: &p.still}}) })
	}
	return p
}

// serve is a worker's life.
func (p *pool) serve(w *worker) {
	var last *job
	for {
		if j := w.look(last); j != nil {
			if j.seats.Add(-1) >= 0 {
				j.work(w.keepApart)
			}
			last = j
			continue
		}
		// From here on run sees that somebody sleeps. What was posted before it
		// could see that is looked for once more.
		p.asleep.Add(1)
		if j := p.posted.Load(); j != nil && j != last {
			p.asleep.Add(-1)
			continue
		}
		last, w.ahead = nil, reader{still: &p.still}
		w.place().processor.Store(nowhere)
		select {
		case <-p.wake:
			p.asleep.Add(-1)
		case <-p.quit:
			return
		}
	}
}

// look waits a little for a job that is not the last one.
func (w *worker) look(last *job) *job {
	for i := range patientLooks {
		if j := w.pool.posted.Load(); j != nil && j != last {
			return j
		}
		w.ahead.read(w.pool.ahead.Load(), w.number)
		if i%politeLooks == politeLooks-1 {
			runtime.Gosched()
		}
	}
	return nil
}

// close ends the workers and waits for them. A later run works on the caller's
// goroutine alone.
func (p *pool) close() {
	close(p.quit)
	p.workers.Wait()
}

// run calls body for every task and returns when all are done. Tasks must not
// depend on each other. It may be called by several goroutines at once, of which
// the last one gets the workers' help.
func (p *pool) run(tasks int, body func(task int)) {
	helpers := p.threads - 1 - int(p.share.resting.Load())
	if tasks <= 1 || helpers == 0 {
		p.share.sample()
		for i := range tasks {
			body(i)
		}
		return
	}
	j := &job{tasks: int64(tasks), body: body}
	j.seats.Store(int64(helpers))
	p.places[0].answer()
	p.posted.Store(j)
	for range min(int(p.asleep.Load()), helpers, tasks-1) {
		select {
		case p.wake <- struct{}{}:
		default: // As many as can sleep are being woken.
		}
	}
	j.work(func() {})
	j.wait()
	p.share.sample()
	p.posted.CompareAndSwap(j, nil) // What the body refers to is not held on to.
}

// work does tasks for as long as there are any, and calls between before each.
func (j *job) work(between func()) {
	for {
		between()
		task := j.next.Add(1) - 1
		if task >= j.tasks {
			return
		}
		j.body(int(task))
		if j.done.Add(1) == j.tasks {
			if c := j.finished.Load(); c != nil {
				close(*c)
			}
		}
	}
}

// wait returns when the tasks that others have taken are done.
func (j *job) wait() {
	for i := range patientLooks {
		if j.done.Load() == j.tasks {
			return
		}
		if i%politeLooks == politeLooks-1 {
			runtime.Gosched()
		}
	}
	c := make(chan struct{})
	j.finished.Store(&c)
	if j.done.Load() == j.tasks {
		return // Maybe closed, maybe not: nobody else has it.
	}
	<-c
}

// tasksPerThread is how many tasks a thread gets of an operation that is worth it: a
// thread that is held up leaves the rest to the others.
const tasksPerThread = 4

// rows splits n rows into tasks of about equal size when the work is worth it
// and calls body with each half-open range. cost is the approximate number of
// operations a row takes.
func (p *pool) rows(n, cost int, body func(from, to int)) {
	const worthSplitting = 1 << 16
	if n <= 1 || p.threads == 1 || n*cost < worthSplitting {
		if n > 0 {
			body(0, n)
		}
		return
	}
	size := max(1, (n+p.threads*tasksPerThread-1)/(p.threads*tasksPerThread))
	p.run((n+size-1)/size, func(task int) {
		body(task*size, min(n, (task+1)*size))
	})
}
