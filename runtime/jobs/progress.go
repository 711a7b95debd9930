package jobs

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/runtime/contract"
)

// Progress is where a job says how far it is. It is safe for concurrent use:
// the job writes, the admin listener and the progress bar read. The zero value
// is not ready; jobs.Run hands out a working one, and NewProgress makes one
// for tests and for use without Run.
type Progress struct {
	now      func() time.Time
	registry *prometheus.Registry

	mu      sync.Mutex
	state   contract.Progress
	curve   *contract.Curve // of a training, nil elsewhere
	started time.Time       // of the present phase
	first   int64           // Done when the present phase started
	fixed   bool            // the job gave its own estimate
}

// NewProgress returns a Progress whose phase is empty.
func NewProgress() *Progress {
	return &Progress{
		now: time.Now, registry: prometheus.NewRegistry(),
		state: contract.Progress{EstimatedRemainingSeconds: -1},
	}
}

// Registry is where a job registers its Prometheus collectors; the admin
// listener serves them on contract.PathMetrics.
func (p *Progress) Registry() *prometheus.Registry { return p.registry }

// Phase begins a phase: a word of contract.Progress.Phase and the number of
// units of work in it, done of which need not be repeated.
func (p *Progress) Phase(phase string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Phase, p.state.Done, p.state.Total = phase, done, total
	p.state.EstimatedRemainingSeconds = -1
	p.started, p.first, p.fixed = p.now(), done, false
}

// Done says that n units of the phase's total are finished.
func (p *Progress) Done(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Done = n
}

// Label changes the word of the phase and nothing else, for a short activity
// within it, such as Validating between two iterations of Training.
func (p *Progress) Label(phase string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Phase = phase
}

// Remaining replaces the estimate made from the pace of the phase, for jobs
// that know better. A negative duration means unknown.
func (p *Progress) Remaining(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fixed = true
	p.state.EstimatedRemainingSeconds = -1
	if d >= 0 {
		p.state.EstimatedRemainingSeconds = int64(d.Round(time.Second) / time.Second)
	}
}

// Training sets the part that only training has.
func (p *Progress) Training(t contract.TrainProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Training = &t
}

// Curve sets the learning curve of a training. Its points must not be changed any more.
func (p *Progress) Curve(c contract.Curve) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.curve = &c
}

// Search sets the part that only a search of weights has.
func (p *Progress) Search(s contract.SearchProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Search = &s
}

// Device says what computes, in the backend's words. It goes into the job's
// termination message too.
func (p *Progress) Device(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Device = name
}

// Snapshot returns the present state, its estimate included.
func (p *Progress) Snapshot() contract.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	if s.Training != nil {
		t := *s.Training
		s.Training = &t
	}
	if s.Search != nil {
		search := *s.Search
		s.Search = &search
	}
	if !p.fixed {
		s.EstimatedRemainingSeconds = estimate(p.now().Sub(p.started), s.Done-p.first, s.Total-s.Done)
	}
	return s
}

// estimate extrapolates: done units took elapsed, left units remain.
func estimate(elapsed time.Duration, done, left int64) int64 {
	if done <= 0 || left < 0 {
		return -1
	}
	return int64(elapsed.Seconds()*float64(left)/float64(done) + 0.5)
}

// learned returns the learning curve so far; false where nothing is trained.
func (p *Progress) learned() (contract.Curve, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.curve == nil {
		return contract.Curve{}, false
	}
	return *p.curve, true
}
