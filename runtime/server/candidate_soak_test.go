package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	recorded "github.com/transformersquared/operator/test/history"
)

// TestNothingIsLostWhileCandidatesComeAndGo offers, promotes and withdraws candidates, and
// moves their shares, while conversations go on, as long as lasting says. Every request is
// answered, by a set that was offered at the time, and its headers say by which; nothing of what
// has gone is held.
func TestNothingIsLostWhileCandidatesComeAndGo(t *testing.T) {
	h := open(t, quiet)
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
	var told recorded.Recorder
	// offer offers a set beside which another may answer.
	offer := func(set contract.ExpertSet, beside string) {
		defer told.OfferBeside(digestOf(t, set), beside)()
		if st, code := h.put(t, token, set); code != http.StatusOK && code != http.StatusAccepted || st.Error != nil {
			t.Errorf("status %d, %+v", code, st.Error)
		}
	}
	stable := versions[0]
	offer(stable, "")
	waitFor(t, "the first set", func() bool { return h.Status().ExpertSetDigest == digestOf(t, stable) })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asking sync.WaitGroup
	var answers [2]atomic.Int64 // Of stable and candidate.
	for client := range 6 {
		asking.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				request := chat([]string{"demo", "demo:demo-math"}[i%2], fmt.Sprintf("client %d, conversation %d", client, i%7), fields{"max_tokens": 1 + i%9})
				received := told.Send(fmt.Sprintf("client %d", client))
				a, r := h.ask(t, contract.PathChatCompletions, request)
				if r.StatusCode != http.StatusOK || a.Adaptation == nil {
					t.Errorf("a request was lost: %s, %+v", r.Status, a.Error)
					return
				}
				digest := a.Adaptation.ExpertSetDigest
				received(digest, false)
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
	var middle held
	for round, half := range lasting(t, rounds) {
		if half {
			middle = holding(&told)
		}
		candidate := versions[(round+promoted+1)%len(versions)]
		if digestOf(t, candidate) == digestOf(t, stable) {
			candidate = versions[(round+promoted+2)%len(versions)]
		}
		for _, percent := range []int{10, 60} {
			offer(canary(stable, candidate, percent), digestOf(t, candidate))
			if r.IntN(3) == 0 { // It may not be loaded yet when the next comes.
				continue
			}
			waitFor(t, "the candidate", func() bool { st := h.Status().Candidate; return st.Served || st.Error != nil })
			// Of so many conversations some are the candidate's at 60 percent.
			of := &answers[percent/60]
			enough := of.Load() + 1
			waitFor(t, "an answer", func() bool { return of.Load() >= enough || t.Failed() })
		}
		if r.IntN(2) == 0 { // Whether it has been loaded or not.
			offer(candidate, digestOf(t, stable)) // What was offered is answered until the other is loaded.
			stable = candidate
			waitFor(t, "the promoted set", func() bool { return h.Status().ExpertSetDigest == digestOf(t, stable) })
			offer(stable, "")
			promoted++
		} else {
			offer(stable, "")
		}
	}
	stop()
	asking.Wait()
	checkGrowth(t, middle, holding(&told))
	offers, requests := told.History()
	for _, v := range recorded.Check(offers, requests) {
		t.Error(v)
	}
	summary := recorded.Summarise(offers, requests)
	t.Logf("%d offers, %d promoted, %+v", len(offers), promoted, summary)
	if promoted == 0 || summary.Sets < 2 || answers[0].Load() == 0 || answers[1].Load() == 0 {
		t.Errorf("%d were promoted; answers of both sides %d and %d", promoted, answers[0].Load(), answers[1].Load())
	}
}
