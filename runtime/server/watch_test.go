package server_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
)

// observing is a set with a candidate that chooses beside it.
func observing(stable, candidate contract.ExpertSet, percent int) contract.ExpertSet {
	set := canary(stable, candidate, percent)
	set.Candidate.Mode = contract.CandidateObserve
	return set
}

// fixed is a candidate that chooses code, whatever is asked.
func (h *house) fixed() contract.ExpertSet {
	set := h.set()
	set.Strategy, set.Experts[1].Weight = contract.StrategyFixed, 1
	return set
}

// seen waits until so many requests have been chosen for, or left out.
func (h *house) seen(t testing.TB, n int64) contract.Observed {
	t.Helper()
	var o contract.Observed
	waitFor(t, "the candidate's choices", func() bool {
		o = *h.Status().Candidate.Observed
		return o.Compared+o.Failed+o.Dropped >= n
	})
	return o
}

// TestACandidateChoosesBeside compares what a candidate would have chosen with what has
// answered, request by request.
func TestACandidateChoosesBeside(t *testing.T) {
	h := open(t, nil)
	stable := h.set()
	if st := h.offered(t, observing(stable, h.fixed(), 100)); !st.Served || st.Observed == nil || st.Observed.Compared != 0 {
		t.Fatalf("candidate %+v, error %+v", st, st.Error)
	}
	want := map[string]int64{}
	const requests = 30
	for i := range requests {
		a, r := h.ask(t, contract.PathChatCompletions, chat("demo", fmt.Sprintf("question %d", i*i*i), fields{"max_tokens": 1}))
		if r.StatusCode != http.StatusOK || a.Adaptation.ExpertSetDigest != digestOf(t, stable) || a.Adaptation.Side != "" || r.Header.Get(contract.HeaderSide) != "" {
			t.Fatalf("status %s, %+v", r.Status, a)
		}
		want[a.Adaptation.Expert]++
		h.seen(t, int64(i)+1) // So that none is left out.
		if _, r := h.ask(t, contract.PathChatCompletions, quick("x", nil)); r.StatusCode != http.StatusOK {
			t.Fatal(r.Status) // A model name has chosen: there is nothing to compare.
		}
	}
	delete(want, "demo-code")
	got, different := map[string]int64{}, int64(0)
	o := h.seen(t, requests)
	for _, p := range o.Pairs {
		if p.Candidate != "demo-code" {
			t.Errorf("pair %+v", p)
		}
		got[p.Stable] = p.Requests
		different += p.Requests
	}
	if diff := cmp.Diff(want, got); diff != "" || o.Compared != requests || o.Different != different || different == 0 || o.Failed+o.Dropped != 0 {
		t.Errorf("pairs (-want +got):\n%s\nof %+v", diff, o)
	}
	st := h.Status().Candidate
	if st.Stable.Requests != 2*requests || st.Candidate.Requests != 0 {
		t.Errorf("counts %+v", st)
	}
	// One that chooses alike differs in nothing.
	alike := stable
	alike.RequestTokens = contract.DefaultRequestTokens
	h.offered(t, observing(stable, alike, 100))
	h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil))
	if o := h.seen(t, 1); o.Compared != 1 || o.Different != 0 || len(o.Pairs) != 0 {
		t.Errorf("one that chooses alike: %+v", o)
	}
}

// TestOnlySomeAreChosenFor has a candidate choose for a quarter of the conversations: for
// those that it would answer as a canary.
func TestOnlySomeAreChosenFor(t *testing.T) {
	h := open(t, nil)
	const requests = 80
	ask := func(i int) string {
		a, _ := h.ask(t, contract.PathChatCompletions, chat("demo", fmt.Sprintf("question %d", i), fields{"max_tokens": 1}))
		return a.Adaptation.Side
	}
	h.offered(t, canary(h.set(), h.fixed(), 25))
	var among []int
	for i := range requests {
		if ask(i) == contract.SideCandidate {
			among = append(among, i)
		}
	}
	h.offered(t, observing(h.set(), h.fixed(), 25))
	for i := range requests {
		ask(i)
	}
	h.seen(t, int64(len(among)))
	ask(among[0]) // Comes last.
	if o := h.seen(t, int64(len(among))+1); o.Compared+o.Dropped != int64(len(among))+1 || len(among) < 5 || len(among) > 35 {
		t.Errorf("%+v, of %d conversations", o, len(among))
	}
}

// TestChoosingBesideGivesWay asks more at a time than the server answers: all are answered,
// and each is chosen for or counted as left out.
func TestChoosingBesideGivesWay(t *testing.T) {
	h := open(t, func(c *server.Config) { c.MaxBatch = 1 })
	candidate := h.set()
	candidate.PromptTemplate = "{skills}\n{prompt}\nWhich?"
	h.offered(t, observing(h.set(), candidate, 100))
	const requests = 60
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			request := chat("demo", fmt.Sprintf("question %d", i), fields{"max_tokens": 30, "ignore_eos": true})
			if a, r := h.ask(t, contract.PathChatCompletions, request); r.StatusCode != http.StatusOK {
				t.Errorf("status %s, %+v", r.Status, a.Error)
			}
		})
	}
	all.Wait()
	if o := h.seen(t, requests); o.Dropped == 0 || o.Failed != 0 || o.Compared+o.Dropped != requests {
		t.Errorf("%+v", o)
	}
	h.ask(t, contract.PathChatCompletions, chat("demo", "at leisure", nil))
	if before := h.Status().Candidate.Observed.Dropped; h.seen(t, requests+1).Dropped != before {
		t.Error("what had time was left out")
	}
}

// TestACandidateThatHasObservedMayAnswer goes from observing to a canary, and to the set.
func TestACandidateThatHasObservedMayAnswer(t *testing.T) {
	h := open(t, nil)
	stable, candidate := h.set(), h.next(t)
	if st := h.offered(t, observing(stable, candidate, 100)); !st.Served {
		t.Fatalf("candidate %+v, error %+v", st, st.Error)
	}
	if st := h.offered(t, canary(stable, candidate, 100)); !st.Served || st.Observed != nil {
		t.Fatalf("candidate %+v, error %+v", st, st.Error)
	}
	if side := h.sideOf(t, stable, candidate, chat("demo", "x", nil)); side != contract.SideCandidate {
		t.Errorf("side %s", side)
	}
	if st := h.offered(t, observing(stable, candidate, 1)); !st.Served {
		t.Fatalf("candidate %+v, error %+v", st, st.Error)
	}
	if st := h.swap(t, candidate); st.Error != nil || st.Candidate != nil || st.ExpertSetDigest != digestOf(t, candidate) {
		t.Errorf("status %+v", st)
	}
}
