package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pool runs the tasks of one operation on several goroutines. Tasks are taken one
// by one by whoever is free, the caller among them, so that a worker which the
// system has suspended holds up nobody but the task it is at.
//
// Decoding is bound by hand-off as much as by memory: between two operations of a
// layer there are microseconds, and waking a sleeping thread takes tens of them on
// a virtual machine. So who waits looks for the next job, or for the end of this
// one, before it sleeps. Where other processes want the same processors, a worker
// costs more than it gives: the system suspends it in the middle of a task, for
// milliseconds in which everybody waits, or lets it share the caller's processor.
// The pool notices by the number of times that the system has suspended it, and goes
// on with a worker less.
type pool struct {
	threads int
	posted  atomic.Pointer[job] // The newest job; nil when it is done.
	asleep  atomic.Int32        // Workers that must be woken.
	wake    chan struct{}
	quit    chan struct{}
	workers sync.WaitGroup

	resting   atomic.Int64 // Workers that are not asked for help.
	runs      atomic.Int64
	sampling  sync.Mutex // Guards what follows.
	sampled   time.Time
	suspended int64     // Times that the system has suspended this process.
	until     time.Time // When one worker less may rest.
	switches  func() (int64, bool)
}

const (
	// How often who waits looks before it sleeps: some 80 microseconds.
	patientLooks = 1 << 17
	// After so many looks other goroutines may run, which have no processor while
	// all of the pool are awake: those of requests, above all.
	politeLooks = 1 << 11
	// A worker rests after the process was suspended so often in a sample's time. Two
	// processors of which a busy loop wants one suspend a decoding process 20 times;
	// left alone it is suspended one to three times.
	sampleTime     = 10 * time.Millisecond
	sampleRuns     = 64 // Runs between two looks at the clock.
	suspendedOften = 8
	restTime       = 500 * time.Millisecond
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
	p := &pool{threads: threads, wake: make(chan struct{}, threads), quit: make(chan struct{}), switches: involuntarySwitches}
	for range threads - 1 {
		p.workers.Go(p.serve)
	}
	return p
}

// serve is a worker's life.
func (p *pool) serve() {
	var last *job
	for {
		if j := p.look(last); j != nil {
			if j.seats.Add(-1) >= 0 {
				j.work()
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
		last = nil
		select {
		case <-p.wake:
			p.asleep.Add(-1)
		case <-p.quit:
			return
		}
	}
}

// look waits a little for a job that is not the last one.
func (p *pool) look(last *job) *job {
	for i := range patientLooks {
		if j := p.posted.Load(); j != nil && j != last {
			return j
		}
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
	helpers := p.threads - 1 - int(p.resting.Load())
	if tasks <= 1 || helpers == 0 {
		p.sample()
		for i := range tasks {
			body(i)
		}
		return
	}
	j := &job{tasks: int64(tasks), body: body}
	j.seats.Store(int64(helpers))
	p.posted.Store(j)
	for range min(int(p.asleep.Load()), helpers, tasks-1) {
		select {
		case p.wake <- struct{}{}:
		default: // As many as can sleep are being woken.
		}
	}
	j.work()
	j.wait()
	p.sample()
	p.posted.CompareAndSwap(j, nil) // What the body refers to is not held on to.
}

func (j *job) work() {
	for {
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

// sample decides, every now and then, how many workers rest.
func (p *pool) sample() {
	if p.threads == 1 || p.runs.Add(1)%sampleRuns != 0 || !p.sampling.TryLock() {
		return
	}
	defer p.sampling.Unlock()
	now := time.Now()
	since := now.Sub(p.sampled)
	if since < sampleTime {
		return
	}
	suspended, ok := p.switches()
	if !ok {
		return
	}
	before, first := p.suspended, p.sampled.IsZero()
	p.sampled, p.suspended = now, suspended
	if first {
		return
	}
	resting := p.resting.Load()
	switch often := suspended-before >= suspendedOften*int64(since/sampleTime); {
	case often && resting < int64(p.threads)-1:
		resting++
	case !often && resting > 0 && now.After(p.until):
		resting--
	default:
		return
	}
	p.resting.Store(resting)
	p.until = now.Add(restTime)
}

// involuntarySwitches returns how often the system has taken a processor from a
// thread of this process that would have gone on.
func involuntarySwitches() (int64, bool) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, false
	}
	return usage.Nivcsw, true
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
