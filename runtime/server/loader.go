package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
)

// What cannot be loaded is tried again after a pause that doubles, up to the
// longest one: a volume that several nodes share shows a new file some seconds
// late. What is wrong with a file's content is looked at again, too, because an
// expert may be made anew under its digest; but seldom.
const (
	firstPause     = 250 * time.Millisecond
	longestPause   = 30 * time.Second
	permanentPause = time.Minute
	// patience is how many attempts are made before what may pass by itself is
	// called an error, and the set is taken into use without it.
	patience = 3
)

// errSuperseded ends the loading of a set when another one is offered.
var errSuperseded = fmt.Errorf("another expert set was offered (%w)", context.Canceled)

// offer is an expert set that the server was told to serve, and what became of
// it.
type offer struct {
	spec   contract.ExpertSet
	digest string
	since  time.Time
	// ctx ends when another set is offered, or the server ends.
	ctx    context.Context //nolint:containedctx // It is the offer's life, which no call bounds.
	cancel context.CancelCauseFunc
	done   atomic.Int64 // Experts that the present attempt has read.
	// known is a set that has some of its experts, perhaps, besides the one in use; nil for
	// none.
	known *servedSet

	// The loader's mutex protects the rest.
	attempts int
	due      time.Time           // Of the next attempt.
	whole    bool                // All of it is in use; there is no next attempt.
	failures map[string]error    // By expert: why it is not served.
	unprobed error               // Why its probe is not served.
	err      *contract.LoadError // Told; nil before patience is at its end.
	result   string              // Counted: one of metrics' results.
}

// attempted is what an attempt to load an offer came to.
type attempted struct {
	// set is what can be served of it, ready; nil means that what is in use stays.
	set *servedSet
	// failures say, by expert, what set lacks.
	failures map[string]error
	// unprobed says why it lacks its probe.
	unprobed error
	// err says what is wrong with the set as a whole.
	err error
}

// loader decides which expert set is served. Whoever offers a set only records
// it. One goroutine, run, loads the one that is recorded, takes it into use, and
// tries again where something is missing; it holds no lock while it loads. The
// last offer wins: it cancels the loading of the one before.
type loader struct {
	log     *slog.Logger
	metrics *metrics
	life    context.Context //nolint:containedctx // The server's.
	// load makes a set ready without touching the one in use, and use takes it into
	// use and says in which form it is computed. Both are called by run only; use under
	// the mutex, so that nothing that was superseded is taken into use.
	load func(*offer) attempted
	use  func(*servedSet) engine.Form
	// loadBeside makes a candidate ready, all of it or nothing; divide takes the division of
	// requests between it and the set in use into use, nil for none; promote takes the
	// candidate's set into use in place of the other. They are called as load and use are.
	loadBeside func(*proposal) attempted
	divide     func(*proposal)
	promote    func(*servedSet) engine.Form

	mu        sync.Mutex
	desired   *offer    // nil before the first.
	candidate *proposal // Of the desired set; nil for none.
	// refused is what is wrong with the set that the file held, before the first
	// offer.
	refused *contract.LoadError
	told    string        // The last refusal that was logged.
	changed chan struct{} // Closed, and replaced, when any of this has changed.
}

func newLoader(life context.Context, log *slog.Logger, m *metrics) *loader {
	return &loader{life: life, log: log, metrics: m, changed: make(chan struct{})}
}

// notify wakes everybody who waits for a change. l.mu is held.
func (l *loader) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// offer records a set as the desired one, unless only a first one is wanted and
// there is one already. It returns the desired one at once; the error says that
// the set makes no sense by itself, and then nothing has changed. A set that is
// served or being loaded already stays as it is; one that could not be loaded is
// tried again at once. The same goes for its candidate.
func (l *loader) offer(spec contract.ExpertSet, first bool) (*offer, error) {
	digest, err := validSet(spec)
	if err != nil {
		l.metrics.offered(resultRefused)
		if l.isNews(err.Error()) { // The same set is offered again and again.
			l.log.Error("Refused expert set", "error", err)
		}
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = ""
	before := l.desired
	switch {
	case before != nil && before.digest == digest:
		if before.err != nil {
			before.due = time.Now()
		}
		if !first {
			l.propose(spec.Candidate)
		}
		l.notify()
		return before, nil
	case before != nil && first:
		return before, nil
	case before != nil:
		before.cancel(errSuperseded)
		l.count(before, resultSuperseded)
	}
	o := l.newOffer(spec.WithoutCandidate(), digest)
	l.desired, l.refused = o, nil
	l.succeed(o)
	l.propose(spec.Candidate)
	l.notify()
	return o, nil
}

// newOffer is an offer of now.
func (l *loader) newOffer(spec contract.ExpertSet, digest string) *offer {
	o := &offer{spec: spec, digest: digest, since: time.Now()}
	o.due = o.since
	o.ctx, o.cancel = context.WithCancelCause(l.life)
	return o
}

// isNews reports whether a refusal is another one than the last.
func (l *loader) isNews(refusal string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.told
	l.told = refusal
	return before != refusal
}

// validSet returns the digest of a set that makes sense by itself: the one that whoever
// offers it calls it by.
func validSet(spec contract.ExpertSet) (string, error) {
	digest, err := spec.Name()
	if err == nil {
		err = adapt.Validate(spec.WithoutCandidate())
	}
	if err == nil {
		err = validCandidate(spec.Candidate, digest)
	}
	if err != nil {
		return "", failure.Permanent(contract.ReasonUsage, fmt.Errorf("the expert set is invalid: %w", err))
	}
	return digest, nil
}

// refuse records why the set that a file holds is none, for the status. Once a
// set was offered nobody looks at the file any more.
func (l *loader) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.desired == nil {
		l.refused = loadError("", err)
	}
}

// hasOffer reports whether a set was offered.
func (l *loader) hasOffer() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.desired != nil
}

// run loads what is offered until ctx is done.
func (l *loader) run(ctx context.Context) {
	for {
		l.mu.Lock()
		task, changed := l.next(), l.changed
		l.mu.Unlock()
		pause := time.Until(task.due)
		if task.attempt != nil && pause <= 0 && ctx.Err() == nil {
			task.attempt()
			continue
		}
		var due <-chan time.Time // Never, while there is nothing to do.
		if task.attempt != nil {
			due = time.After(pause)
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// task is what the loader is to do next, and when; the zero value is nothing.
type task struct {
	attempt func()
	due     time.Time
}

// next is the first attempt that is due. A candidate waits until its set is in use, or has
// been tried for long enough. l.mu is held.
func (l *loader) next() task {
	var t task
	o, p := l.desired, l.candidate
	if o != nil && !o.whole {
		t = task{attempt: func() { l.attempt(o) }, due: o.due}
	}
	if p != nil && !p.whole && (o.whole || o.err != nil) && (t.attempt == nil || p.due.Before(t.due)) {
		t = task{attempt: func() { l.attemptBeside(p) }, due: p.due}
	}
	return t
}

// attempt loads an offer once and takes into use what can be served of it,
// unless another one has been offered meanwhile.
func (l *loader) attempt(o *offer) {
	begun := time.Now()
	o.done.Store(0)
	got := l.load(o)
	problem := o.problem(got)
	switch form, news := l.finish(o, got, problem); {
	case !news:
	case problem == nil:
		l.log.Info("Took expert set into use", "digest", o.digest, "strategy", o.spec.Strategy,
			"experts", len(o.spec.Experts), "form", form, "seconds", time.Since(begun).Seconds())
	default:
		l.log.Error("Could not load all of an expert set", "digest", o.digest, "reason", problem.Reason,
			"permanent", problem.Permanent, "error", problem.Message)
	}
}

// finish records what an attempt came to, and reports whether that is news.
func (l *loader) finish(o *offer, got attempted, problem *contract.LoadError) (form engine.Form, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.desired != o || o.ctx.Err() != nil {
		return "", false
	}
	defer l.notify()
	o.attempts++
	o.failures, o.unprobed = got.failures, got.unprobed
	if problem == nil {
		o.whole, o.err = true, nil
		l.count(o, resultTaken)
		return l.use(got.set), true
	}
	o.due = time.Now().Add(pauseAfter(o.attempts, problem.Permanent))
	if !problem.Permanent && o.attempts < patience {
		return "", false
	}
	result := resultRefused
	if got.set != nil {
		form, result = l.use(got.set), resultPartly
	}
	l.count(o, result)
	news = o.err == nil || *o.err != *problem
	o.err = problem
	return form, news
}

// pauseAfter is how long to wait after so many attempts.
func pauseAfter(attempts int, permanent bool) time.Duration {
	if permanent {
		return permanentPause
	}
	const doublings = 10 // Are more than enough for the longest pause.
	return min(firstPause<<min(attempts-1, doublings), longestPause)
}

// problem sums up what an attempt could not load; nil if there is nothing. It
// is permanent if all of it is.
func (o *offer) problem(got attempted) *contract.LoadError {
	if got.err != nil {
		return loadError(o.digest, got.err)
	}
	general := cmp.Or(notUnderstood(o.spec), got.unprobed)
	if len(got.failures) == 0 && general == nil {
		return nil
	}
	sum := &contract.LoadError{Digest: o.digest, Permanent: true}
	if general != nil {
		sum = loadError(o.digest, general)
		if len(got.failures) == 0 {
			return sum
		}
		sum.Message += "; "
	}
	const most = 3 // Are named; every expert's state has its own.
	named := 0
	refs := o.spec.Refs()
	for _, ref := range refs {
		err, failed := got.failures[ref.Name]
		if !failed {
			continue
		}
		e := loadError(ref.Digest, err)
		sum.Reason = cmp.Or(sum.Reason, e.Reason)
		sum.Permanent = sum.Permanent && e.Permanent
		if named++; named <= most {
			sum.Message += fmt.Sprintf("expert %q: %s; ", ref.Name, e.Message)
		}
	}
	sum.Message += fmt.Sprintf("%d of %d experts are not served as asked", len(got.failures), len(refs))
	return sum
}

// loadError words an error for the status.
func loadError(digest string, err error) *contract.LoadError {
	reason, permanent := failure.Of(err)
	return &contract.LoadError{Digest: digest, Reason: reason, Message: err.Error(), Permanent: permanent}
}

// asError is the other way round.
func asError(e *contract.LoadError) error {
	if e.Permanent {
		return failure.Permanent(e.Reason, errors.New(e.Message))
	}
	return failure.Transient(e.Reason, errors.New(e.Message))
}

// count counts what became of an offer, each result once. l.mu is held.
func (l *loader) count(o *offer, result string) {
	if result == resultSuperseded && o.result != "" || result == o.result {
		return
	}
	o.result = result
	l.metrics.offered(result)
}

// settle waits until all of an offer is in use. The error says what is not, as
// far as is known, or that another set was offered.
func (l *loader) settle(ctx context.Context, o *offer) error {
	for {
		l.mu.Lock()
		whole, problem, changed := o.whole, o.err, l.changed
		l.mu.Unlock()
		switch {
		case whole:
			return nil
		case problem != nil:
			return asError(problem)
		case o.ctx.Err() != nil:
			return fmt.Errorf("loading the expert set: %w", context.Cause(o.ctx))
		}
		select {
		case <-changed:
		case <-o.ctx.Done():
		case <-ctx.Done():
			return fmt.Errorf("loading the expert set: %w", context.Cause(ctx))
		}
	}
}
