package engine

import (
	"context"
	"sync"
)

// outbox carries deltas from the loop to a request's own goroutine. The loop
// never waits for a slow reader; what piles up is bounded by the answer's
// length.
type outbox struct {
	ready chan struct{} // One place: something has changed.

	mu     sync.Mutex
	deltas []Delta
	closed bool
	err    error
}

func newOutbox() *outbox { return &outbox{ready: make(chan struct{}, 1)} }

func (o *outbox) push(d Delta) {
	o.mu.Lock()
	o.deltas = append(o.deltas, d)
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) close(err error) {
	o.mu.Lock()
	o.closed, o.err = true, err
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// take waits for deltas or the end, and returns what has come so far.
func (o *outbox) take(ctx context.Context) (deltas []Delta, ended bool, err error) {
	select {
	case <-o.ready:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	deltas, o.deltas = o.deltas, nil
	return deltas, o.closed, nil
}

// failure is the error that the answer ended with, if any.
func (o *outbox) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
