package engine

import (
	"context"
	"sync"
)

// stream carries deltas from the loop to a request's own goroutine. The loop
// never waits for a slow reader; what piles up is bounded by the answer's
// length.
type stream struct {
	ready chan struct{} // One place: something has changed.

	mu     sync.Mutex
	deltas []Delta
	closed bool
	err    error
}

func newStream() *stream { return &stream{ready: make(chan struct{}, 1)} }

func (s *stream) push(d Delta) {
	s.mu.Lock()
	s.deltas = append(s.deltas, d)
	s.mu.Unlock()
	s.signal()
}

func (s *stream) close(err error) {
	s.mu.Lock()
	s.closed, s.err = true, err
	s.mu.Unlock()
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// take waits for deltas or the end, and returns what has come so far.
func (s *stream) take(ctx context.Context) (deltas []Delta, ended bool, err error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	deltas, s.deltas = s.deltas, nil
	return deltas, s.closed, nil
}

// failure is the error that the answer ended with, if any.
func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
