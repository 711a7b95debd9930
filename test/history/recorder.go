package history

import (
	"fmt"
	"sync"
	"time"
)

// Recorder records a history while it happens. It may be used by many at a time.
type Recorder struct {
	// Now is the time; nil means the clock's.
	Now func() time.Time

	mu       sync.Mutex
	swaps    []Swap
	requests []Request
}

func (r *Recorder) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// Offer records that a set is about to be offered; inUse, that it was seen to be used.
func (r *Recorder) Offer(digest string) (inUse func()) { return r.OfferBeside(digest, "") }

// OfferBeside records that a set is about to be offered beside which another one may answer.
func (r *Recorder) OfferBeside(digest, beside string) (inUse func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.swaps)
	r.swaps = append(r.swaps, Swap{Digest: digest, Beside: beside, Offered: r.now()})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.swaps[at].InUse = r.now()
	}
}

// Send records that a request is about to be sent; what it returns records what came of it. A
// request for which that is never called is lost.
func (r *Recorder) Send(connection string) (received func(digest string, refused bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.requests)
	r.requests = append(r.requests, Request{ID: fmt.Sprintf("%d", at+1), Connection: connection, Sent: r.now()})
	return func(digest string, refused bool) {
		now := r.now()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests[at].Received, r.requests[at].Digest, r.requests[at].Refused = now, digest, refused
	}
}

// History returns what was recorded.
func (r *Recorder) History() ([]Swap, []Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Swap{}, r.swaps...), append([]Request{}, r.requests...)
}
