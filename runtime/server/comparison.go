package server

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server/requestlog"
)

// comparison counts what both sides do from when a candidate was taken into use.
type comparison struct {
	since    time.Time
	outcomes map[string]*requestlog.Tally // By contract's Side constants.

	mu       sync.Mutex
	sides    map[string]*contract.SideCounts // By contract's Side constants.
	observed contract.Observed               // Without its pairs.
	pairs    map[pair]int64                  // At most contract.MaxDecisionPairs.
}

// pair is what each side chose, by contract.Adaptation.Expert.
type pair struct{ stable, candidate string }

func newComparison(since time.Time) *comparison {
	return &comparison{
		since: since, pairs: map[pair]int64{},
		sides:    map[string]*contract.SideCounts{contract.SideStable: {}, contract.SideCandidate: {}},
		outcomes: map[string]*requestlog.Tally{contract.SideStable: {}, contract.SideCandidate: {}},
	}
}

// ended counts a request that has been answered, or failed. What a client has done wrong, or
// did not wait for, says nothing of a side.
func (c *comparison) ended(side string, out outcome, err error) {
	failed := err != nil
	if failed && asAPIError(err).status < http.StatusInternalServerError {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sides[side]
	s.Requests++
	if failed {
		s.Errors++
		return
	}
	if out.adaptation.Fallback != "" {
		s.Fallbacks++
	}
	s.Tokens += int64(out.result.Tokens)
	s.FirstTokenSeconds += out.adaptation.Pass1Seconds + out.result.FirstToken.Seconds()
}

// compared counts two choices for one request.
func (c *comparison) compared(p pair, differ bool, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed.Compared++
	c.observed.Seconds += took.Seconds()
	if !differ {
		return
	}
	c.observed.Different++
	if _, known := c.pairs[p]; known || len(c.pairs) < contract.MaxDecisionPairs {
		c.pairs[p]++
	}
}

func (c *comparison) failed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed.Failed++
}

func (c *comparison) dropped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed.Dropped++
}

// fill writes the counts into a status.
func (c *comparison) fill(st *contract.ServingCandidate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.Since = c.since.UTC()
	st.Stable, st.Candidate = *c.sides[contract.SideStable], *c.sides[contract.SideCandidate]
	st.Stable.Outcomes, st.Candidate.Outcomes = c.outcomes[contract.SideStable].Count(), c.outcomes[contract.SideCandidate].Count()
	if st.Mode != contract.CandidateObserve {
		return
	}
	observed := c.observed
	for p, n := range c.pairs {
		observed.Pairs = append(observed.Pairs, contract.DecisionPair{Stable: p.stable, Candidate: p.candidate, Requests: n})
	}
	slices.SortFunc(observed.Pairs, func(a, b contract.DecisionPair) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Stable, b.Stable), cmp.Compare(a.Candidate, b.Candidate))
	})
	st.Observed = &observed
}
