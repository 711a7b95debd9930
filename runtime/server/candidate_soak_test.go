package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// offerings are which sets were offered when, for a check after the fact.
type offerings struct {
	mu      sync.Mutex
	entries []period
}

// period has the digests of sets that a server may answer with from its beginning on. The
// end is when the next one had been answered.
type period struct {
	begin, end time.Time
	digests    map[string]bool
}

// put records that an offer is made, and done that it has been answered.
func (h *offerings) put(digests map[string]bool) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = append(h.entries, period{begin: time.Now(), digests: digests})
	last := len(h.entries) - 1
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if last > 0 {
			h.entries[last-1].end = time.Now()
		}
	}
}

// allows reports whether a set was offered at some moment of a request.
func (h *offerings) allows(digest string, begin, end time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.entries {
		if o.digests[digest] && o.begin.Before(end) && (o.end.IsZero() || o.end.After(begin)) {
			return true
		}
	}
	return false
}

// TestNothingIsLostWhileCandidatesComeAndGo offers, promotes and withdraws candidates, and
// moves their shares, while conversations go on. Every request is answered, by a set that was
// offered at the time, and its headers say by which.
func TestNothingIsLostWhileCandidatesComeAndGo(t *testing.T) {
	h := open(t, nil)
	// Five versions of a set, each of which differs from the others by an expert.
	versions := make([]contract.ExpertSet, 5)
	for i := range versions {
		versions[i] = h.set()
		versions[i].Experts[0].Digest = h.volume.Expert(t, "math", uint64(20+i)).Digest
	}
	rounds := 60
	if testing.Short() { // The race detector makes ten times as much of it.
		rounds = 20
	}
	var offers offerings
	offer := func(set contract.ExpertSet, with ...contract.ExpertSet) {
		digests := map[string]bool{digestOf(t, set): true}
		for _, s := range with {
			digests[digestOf(t, s)] = true
		}
		defer offers.put(digests)()
		if st, code := h.put(t, token, set); code != http.StatusOK && code != http.StatusAccepted || st.Error != nil {
			t.Errorf("status %d, %+v", code, st.Error)
		}
	}
	stable := versions[0]
	offer(stable)
	waitFor(t, "the first set", func() bool { return h.Status().ExpertSetDigest == digestOf(t, stable) })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	var answers [2]atomic.Int64 // Of stable and candidate.
	for client := range 6 {
		asking.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				request := chat([]string{"demo", "demo:demo-math"}[i%2], fmt.Sprintf("client %d, conversation %d", client, i%7), fields{"max_tokens": 1 + i%9})
				begin := time.Now()
				a, r := h.ask(t, contract.PathChatCompletions, request)
				end := time.Now()
				if r.StatusCode != http.StatusOK || a.Adaptation == nil {
					t.Errorf("a request was lost: %s, %+v", r.Status, a.Error)
					return
				}
				digest := a.Adaptation.ExpertSetDigest
				if !offers.allows(digest, begin, end) {
					t.Errorf("answered by %s, which was not offered then", digest)
				}
				if r.Header.Get(contract.HeaderExpertSet) != digest || r.Header.Get(contract.HeaderSide) != a.Adaptation.Side {
					t.Errorf("headers %v of an answer by %s (%s)", r.Header, digest, a.Adaptation.Side)
				}
				if a.Adaptation.Side == contract.SideCandidate {
					answers[1].Add(1)
				} else {
					answers[0].Add(1)
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(3, 4))
	promoted := 0
	for round := 1; round <= rounds && !t.Failed(); round++ {
		candidate := versions[(round+promoted)%len(versions)]
		if digestOf(t, candidate) == digestOf(t, stable) {
			candidate = versions[(round+promoted+1)%len(versions)]
		}
		for _, percent := range []int{10, 60} {
			offer(canary(stable, candidate, percent), candidate)
			if r.IntN(3) > 0 {
				waitFor(t, "the candidate", func() bool { st := h.Status().Candidate; return st.Served || st.Error != nil })
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			}
		}
		if r.IntN(2) == 0 { // Whether it has been loaded or not.
			offer(candidate, stable) // What was offered is answered until the other is loaded.
			stable = candidate
			waitFor(t, "the promoted set", func() bool { return h.Status().ExpertSetDigest == digestOf(t, stable) })
			offer(stable)
			promoted++
		} else {
			offer(stable)
		}
	}
	stop()
	asking.Wait()
	if promoted == 0 || answers[0].Load() == 0 || answers[1].Load() == 0 {
		t.Errorf("%d were promoted; answers of both sides %d and %d", promoted, answers[0].Load(), answers[1].Load())
	}
}
