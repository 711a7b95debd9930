package server

import (
	"math/rand/v2"
	"sync"
	"time"
)

// turnstile tells those who find the queue full when to come back: one behind
// the other, as fast as answers make room, instead of all in the same second.
type turnstile struct {
	mu   sync.Mutex
	took time.Duration // That an answer takes, lately; 0 before the first.
	last time.Time     // When the last of those who were told comes back.
}

// Bounds of what clients are told. OpenAI's take no advice of a minute or more.
const (
	leastWait = time.Second
	mostWait  = 59 * time.Second
)

// answered records how long an answer took, without its time in the queue.
func (t *turnstile) answered(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.took == 0 {
		t.took = took
		return
	}
	const weight = 8 // Of what is known, to one answer more.
	t.took += (took - t.took) / weight
}

// wait returns how long the next one has to wait, where batch answers are
// written at a time and as many requests as capacity are let in at most. Nobody
// knows how long answers will take before there was one: then as long as
// leastWait.
func (t *turnstile) wait(now time.Time, batch, capacity int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	took := t.took
	if took == 0 {
		took = leastWait
	}
	// Most clients wait whole seconds, and so come at once with those of the same
	// second: they must not be more than are let in.
	apart := max(took/time.Duration(batch), time.Second/time.Duration(capacity))
	if first := now.Add(max(leastWait-apart, 0)); t.last.Before(first) {
		t.last = first
	}
	if next := t.last.Add(apart); next.Sub(now) <= mostWait {
		t.last = next
		return next.Sub(now)
	}
	// Too many to tell each its own time.
	return mostWait - rand.N(mostWait/2) //nolint:gosec // Spreads load, hides nothing.
}

// comeBack is what a client that finds the queue full is told.
func (s *Server) comeBack() time.Duration {
	c := s.core.Load()
	if c == nil {
		return leastWait
	}
	batch, waiting := c.engine.Room()
	return s.turnstile.wait(time.Now(), batch, batch+waiting)
}
