package cpu

import (
	"sync"
	"sync/atomic"
)

// pool runs the tasks of one operation on several goroutines. Its workers block
// on a channel when idle; nothing spins.
type pool struct {
	threads int
	jobs    chan *job
	quit    chan struct{}
	workers sync.WaitGroup
}

// job is one parallel loop: tasks 0 to tasks−1, taken one by one by whoever is
// free. A worker that comes late finds none left and drops it.
type job struct {
	tasks    int64
	body     func(task int)
	next     atomic.Int64
	done     atomic.Int64
	finished chan struct{}
}

func newPool(threads int) *pool {
	p := &pool{threads: threads, jobs: make(chan *job, 4*threads), quit: make(chan struct{})}
	for range threads - 1 {
		p.workers.Go(func() {
			for {
				select {
				case j := <-p.jobs:
					j.work()
				case <-p.quit:
					return
				}
			}
		})
	}
	return p
}

// close ends the workers and waits for them. A later run works on the caller's
// goroutine alone.
func (p *pool) close() {
	close(p.quit)
	p.workers.Wait()
}

// run calls body for every task and returns when all are done. Tasks must not
// depend on each other. It may be called by several goroutines at once.
func (p *pool) run(tasks int, body func(task int)) {
	if tasks <= 1 || p.threads == 1 {
		for i := range tasks {
			body(i)
		}
		return
	}
	j := &job{tasks: int64(tasks), body: body, finished: make(chan struct{})}
	for range min(p.threads, tasks) - 1 {
		select {
		case p.jobs <- j:
		default: // Everybody is busy with other jobs: do it here.
		}
	}
	j.work()
	<-j.finished
}

func (j *job) work() {
	for {
		task := j.next.Add(1) - 1
		if task >= j.tasks {
			return
		}
		j.body(int(task))
		if j.done.Add(1) == j.tasks {
			close(j.finished)
		}
	}
}

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
	const tasksPerThread = 4
	size := max(1, (n+p.threads*tasksPerThread-1)/(p.threads*tasksPerThread))
	p.run((n+size-1)/size, func(task int) {
		body(task*size, min(n, (task+1)*size))
	})
}
