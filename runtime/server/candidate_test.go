package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// next is another version of a house's set: math is trained anew, and law is there.
func (h *house) next(t testing.TB) contract.ExpertSet {
	t.Helper()
	set := h.set()
	set.Experts[0].Digest = h.volume.Expert(t, "math", 11).Digest
	set.Experts = append(set.Experts, contract.ExpertRef{Name: "demo-law", Skill: "law", Digest: h.volume.Expert(t, "law", 12).Digest})
	return set
}

// canary is a set with a candidate that answers a share of the conversations.
func canary(stable, candidate contract.ExpertSet, percent int) contract.ExpertSet {
	stable.Candidate = &contract.CandidateSet{Set: candidate, Mode: contract.CandidateCanary, Percent: percent, Salt: "demo/1"}
	return stable
}

// offered puts a set and waits until its candidate is in use, or known not to be.
func (h *house) offered(t testing.TB, set contract.ExpertSet) contract.ServingCandidate {
	t.Helper()
	if st := h.swap(t, set); st.Candidate == nil {
		t.Fatalf("status %+v", st)
	}
	waitFor(t, "the candidate", func() bool { c := h.Status().Candidate; return c.Served || c.Error != nil })
	return *h.Status().Candidate
}

func digestOf(t testing.TB, set contract.ExpertSet) string {
	t.Helper()
	d, err := set.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sideOf asks one conversation and returns which side answered; the answer must have been
// made by that side's set, and the headers must say so.
func (h *house) sideOf(t testing.TB, stable, candidate contract.ExpertSet, request fields) string {
	t.Helper()
	a, r := h.ask(t, contract.PathChatCompletions, request)
	if r.StatusCode != http.StatusOK || a.Adaptation == nil {
		t.Fatalf("status %s: %+v", r.Status, a.Error)
	}
	want := map[string]string{contract.SideStable: digestOf(t, stable), contract.SideCandidate: digestOf(t, candidate)}[a.Adaptation.Side]
	if a.Adaptation.ExpertSetDigest != want || r.Header.Get(contract.HeaderExpertSet) != want || r.Header.Get(contract.HeaderSide) != a.Adaptation.Side {
		t.Errorf("side %q answered by set %s, want %s; headers %v", a.Adaptation.Side, a.Adaptation.ExpertSetDigest, want, r.Header)
	}
	return a.Adaptation.Side
}

// quick is a request that costs little: nothing of pass 1, and one token.
func quick(conversation string, more fields) fields {
	f := chat("demo:demo-code", conversation, fields{"max_tokens": 1})
	maps.Copy(f, more)
	return f
}

// TestACanaryAnswersItsShare asks the first turn of many conversations at growing
// percentages. The shares are what they should be within four standard deviations, no
// conversation goes back, and a later turn is answered by the side of the first.
func TestACanaryAnswersItsShare(t *testing.T) {
	h := open(t, nil)
	stable, candidate := h.set(), h.next(t)
	const conversations = 400
	sides := make([]string, conversations)
	for _, percent := range []int{0, 5, 25, 100} {
		if st := h.offered(t, canary(stable, candidate, percent)); !st.Served || st.Percent != percent || st.Digest != digestOf(t, candidate) {
			t.Fatalf("status %+v, error %+v", st, st.Error)
		}
		n := 0
		for i := range sides {
			side := h.sideOf(t, stable, candidate, quick(fmt.Sprintf("conversation %d", i), nil))
			if sides[i] == contract.SideCandidate && side != contract.SideCandidate {
				t.Errorf("conversation %d went back at %d %%", i, percent)
			}
			if sides[i] = side; side == contract.SideCandidate {
				n++
			}
		}
		p := float64(percent) / 100
		if most := 4 * math.Sqrt(conversations*p*(1-p)); math.Abs(float64(n)-conversations*p) > most {
			t.Errorf("at %d %% %d of %d conversations are the candidate's", percent, n, conversations)
		}
		for i := range 20 {
			turns := []fields{
				{"role": "system", "content": fmt.Sprintf("It is %d o'clock.", percent)},
				{"role": "user", "content": fmt.Sprintf("conversation %d", i)}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"},
			}
			if side := h.sideOf(t, stable, candidate, quick("", fields{"messages": turns})); side != sides[i] {
				t.Errorf("at %d %% turn 2 of conversation %d is answered by %s, turn 1 was by %s", percent, i, side, sides[i])
			}
		}
	}
	st := h.Status().Candidate
	if want := int64(conversations + 20); st.Candidate.Requests < want || st.Stable.Requests+st.Candidate.Requests != 4*want || st.Candidate.Errors != 0 {
		t.Errorf("counts %+v, want %d in all", st, 4*want)
	}
	if c := st.Candidate; c.Tokens != c.Requests || c.FirstTokenSeconds <= 0 || c.Fallbacks != 0 {
		t.Errorf("counts of the candidate %+v", c)
	}
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{
		`t2_candidate_percent{mode="Canary"} 100`, fmt.Sprintf(`t2_side_requests_total{result="answered",side="candidate"} %d`, st.Candidate.Requests),
		`t2_side_requests_total{result="failed",side="stable"} 0`, `t2_side_tokens_total{side="stable"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// TestOutcomesAreCountedBySide marks answers of both sides, and one of before there was a canary,
// which is of neither.
func TestOutcomesAreCountedBySide(t *testing.T) {
	h := open(t, nil)
	stable, candidate := h.set(), h.next(t)
	mark := func(id string, right bool) {
		t.Helper()
		if r, _ := h.mark(t, fields{"request": id, "right": right}); r.StatusCode != http.StatusOK {
			t.Fatalf("marking %s: %s", id, r.Status)
		}
	}
	before, _ := h.ask(t, contract.PathChatCompletions, quick("before", nil))
	ids := map[string][]string{}
	if st := h.offered(t, canary(stable, candidate, 50)); !st.Served || st.Stable.Outcomes != nil || st.Candidate.Outcomes != nil {
		t.Fatalf("status %+v", st)
	}
	mark(before.ID, false)
	for i := 0; len(ids[contract.SideStable]) < 2 || len(ids[contract.SideCandidate]) < 3; i++ {
		a, _ := h.ask(t, contract.PathChatCompletions, quick(fmt.Sprintf("conversation %d", i), nil))
		ids[a.Adaptation.Side] = append(ids[a.Adaptation.Side], a.ID)
	}
	mark(ids[contract.SideStable][0], true)
	for i, right := range []bool{true, true, false} {
		mark(ids[contract.SideCandidate][i], right)
	}
	mark(ids[contract.SideCandidate][0], false) // The last word counts.
	h.offered(t, canary(stable, candidate, 60)) // Another share begins nothing anew.
	st := h.Status().Candidate
	want := []*contract.Outcomes{{Right: 1}, {Right: 1, Wrong: 2}}
	if diff := cmp.Diff(want, []*contract.Outcomes{st.Stable.Outcomes, st.Candidate.Outcomes}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{
		`t2_side_outcomes{outcome="right",side="stable"} 1`, `t2_side_outcomes{outcome="wrong",side="stable"} 0`,
		`t2_side_outcomes{outcome="right",side="candidate"} 1`, `t2_side_outcomes{outcome="wrong",side="candidate"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// TestWhatAConversationIsKnownBy asks the same words under other names: who asks, and what
// the client calls the conversation, are part of what it is known by, so that not all who
// begin alike are on one side.
func TestWhatAConversationIsKnownBy(t *testing.T) {
	h := open(t, nil)
	stable, candidate := h.set(), h.next(t)
	h.offered(t, canary(stable, candidate, 50))
	for _, field := range []string{"user", "prompt_cache_key", "cache_salt"} {
		seen := map[string]int{}
		for i := range 40 {
			request := quick("Hi", fields{field: fmt.Sprintf("client %d", i)})
			side := h.sideOf(t, stable, candidate, request)
			if again := h.sideOf(t, stable, candidate, request); again != side {
				t.Errorf("%s %d: %s, then %s", field, i, side, again)
			}
			seen[side]++
		}
		if len(seen) != 2 {
			t.Errorf("by %s: %v", field, seen)
		}
	}
	for path, body := range map[string]func(i int) fields{
		contract.PathCompletions: func(i int) fields {
			return fields{"model": "demo:demo-code", "prompt": fmt.Sprintf("text %d", i), "max_tokens": 1}
		},
		contract.PathResponses: func(i int) fields {
			return fields{"model": "demo:demo-code", "input": fmt.Sprintf("text %d", i), "max_output_tokens": 1}
		},
	} {
		seen := map[string]int{}
		for i := range 40 {
			a, r := h.ask(t, path, body(i))
			if a.Adaptation == nil || a.Adaptation.Side != r.Header.Get(contract.HeaderSide) {
				t.Fatalf("%s: status %s, %+v", path, r.Status, a)
			}
			seen[a.Adaptation.Side]++
		}
		if len(seen) != 2 {
			t.Errorf("%s: %v", path, seen)
		}
	}
}

// TestACandidateIsPromotedWithoutLoading makes a candidate the set, on a volume from which
// everything has gone: nothing is read, and nobody notices. Then the next one is withdrawn.
func TestACandidateIsPromotedWithoutLoading(t *testing.T) {
	h := open(t, nil)
	stable, candidate := h.set(), h.next(t)
	h.offered(t, canary(stable, candidate, 30))
	pinned := func(model string) int {
		_, r := h.ask(t, contract.PathChatCompletions, chat(model, "x", fields{"max_tokens": 1}))
		return r.StatusCode
	}
	if code := pinned("demo:demo-law"); code != http.StatusNotFound {
		t.Errorf("a name of the candidate alone: status %d", code)
	}
	if err := os.RemoveAll(filepath.Join(h.volume.Root, contract.DirExperts)); err != nil {
		t.Fatal(err)
	}
	status, code := h.put(t, token, candidate)
	if code != http.StatusOK || status.ExpertSetDigest != digestOf(t, candidate) || status.DesiredDigest != status.ExpertSetDigest ||
		status.Candidate != nil || status.Error != nil || status.Loading != nil {
		t.Fatalf("status %d, %+v", code, status)
	}
	if code := pinned("demo:demo-law"); code != http.StatusOK {
		t.Errorf("after it was promoted: status %d", code)
	}
	a, r := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil))
	if a.Adaptation == nil || a.Adaptation.Side != "" || r.Header.Get(contract.HeaderSide) != "" || a.Adaptation.ExpertSetDigest != digestOf(t, candidate) {
		t.Errorf("answer %+v", a.Adaptation)
	}

	// Of the set before, all that is not in the candidate has gone with the volume.
	smaller := candidate
	smaller.Experts = candidate.Experts[:1]
	if st := h.offered(t, canary(candidate, smaller, 100)); !st.Served {
		t.Fatalf("candidate %+v, error %+v", st, st.Error)
	}
	status, code = h.put(t, token, candidate)
	if code != http.StatusOK || status.Candidate != nil || status.ExpertSetDigest != digestOf(t, candidate) {
		t.Errorf("withdrawn: status %d, %+v", code, status)
	}
	if a, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil)); a.Adaptation.ExpertSetDigest != digestOf(t, candidate) {
		t.Errorf("answer %+v", a.Adaptation)
	}
}

// TestACandidateThatCannotBeLoadedTakesNothingDown offers candidates with one bad expert
// each. The set serves on, all of it, and the status says what is wrong.
func TestACandidateThatCannotBeLoadedTakesNothingDown(t *testing.T) {
	v := enginetest.New(t)
	h := openOn(t, v, nil)
	for name, c := range map[string]struct{ digest, reason string }{
		"not on the volume":  {contract.DigestPrefix + strings.Repeat("9", 64), contract.ReasonExpertMissing},
		"of other matrices":  {foreignExpert(t, v), contract.ReasonDecompositionMismatch},
		"damaged":            {damagedExpert(t, v), contract.ReasonDigestMismatch},
		"a missing probe":    {"", contract.ReasonExpertMissing},
		"a missing one more": {contract.DigestPrefix + strings.Repeat("8", 64), contract.ReasonExpertMissing},
	} {
		t.Run(name, func(t *testing.T) {
			candidate := h.next(t)
			if candidate.Experts[1].Digest = c.digest; c.digest == "" {
				candidate = h.set()
				candidate.Strategy, candidate.Probe = contract.StrategyProbe, &contract.ProbeRef{Digest: contract.DigestPrefix + strings.Repeat("7", 64)}
			}
			st := h.offered(t, canary(h.set(), candidate, 100))
			if st.Served || st.Error == nil || st.Error.Reason != c.reason || st.Error.Digest != st.Digest || !st.Since.IsZero() {
				t.Errorf("candidate %+v, error %+v", st, st.Error)
			}
			if st := h.Status(); st.Error != nil || st.ExpertSetDigest != st.DesiredDigest {
				t.Errorf("status %+v, error %+v", st, st.Error)
			}
			for _, model := range []string{"demo", "demo:demo-math", "demo:demo-code"} {
				a, r := h.ask(t, contract.PathChatCompletions, chat(model, "x", nil))
				if r.StatusCode != http.StatusOK || a.Adaptation.ExpertSetDigest != digestOf(t, h.set()) || a.Adaptation.Side != "" {
					t.Errorf("%s: %s, %+v", model, r.Status, a)
				}
			}
		})
	}
}

// TestACandidateThatHasNoRoomIsRefusedWithTheNumbers gives the experts memory for those of
// the set, and for half of the candidate's.
func TestACandidateThatHasNoRoomIsRefusedWithTheNumbers(t *testing.T) {
	gauge := func(h *house, name string) (v float64) {
		t.Helper()
		metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
		for line := range strings.Lines(metrics) {
			if value, found := strings.CutPrefix(line, name+" "); found {
				if _, err := fmt.Sscan(value, &v); err == nil {
					return v
				}
			}
		}
		t.Fatalf("metrics lack %s", name)
		return 0
	}
	v := enginetest.New(t)
	small := func(memory int64) *house {
		return openOn(t, v, func(c *server.Config) { c.Form, c.CacheTokens, c.Memory = "merged", 512, memory })
	}
	// What the experts may have is what the rest leaves, which takes less of less.
	memory := int64(256 << 20)
	h := small(memory)
	two := gauge(h, `t2_mixture_bytes{form="merged"}`)
	for range 12 {
		spare := gauge(h, `t2_memory_budget_bytes{of="experts"}`) - 1.5*two
		if math.Abs(spare) < two/4 {
			break
		}
		memory -= int64(spare)
		h = small(memory)
	}
	candidate := h.next(t)
	candidate.Experts[1].Digest = h.volume.Expert(t, "code", 13).Digest
	st := h.offered(t, canary(h.set(), candidate, 100))
	if st.Served || st.Error == nil || st.Error.Reason != contract.ReasonHostMemory || !st.Error.Permanent ||
		!strings.Contains(st.Error.Message, "both sets need ") || !strings.Contains(st.Error.Message, "and there are ") {
		t.Errorf("candidate %+v, error %+v", st, st.Error)
	}
	if got := gauge(h, `t2_mixture_bytes{form="merged"}`); got != two {
		t.Errorf("experts take %v bytes, the set's took %v", got, two)
	}
	if a, r := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil)); r.StatusCode != http.StatusOK || a.Adaptation.Side != "" {
		t.Errorf("status %s, %+v", r.Status, a)
	}
	// What has the set's experts itself takes nothing more.
	alike := h.set()
	alike.MinProbability = 0.1
	if st := h.offered(t, canary(h.set(), alike, 100)); !st.Served {
		t.Errorf("candidate %+v, error %+v", st, st.Error)
	}
	// One that only chooses needs nothing of what it chooses.
	candidate.Strategy = contract.StrategyPrompt
	set := canary(h.set(), candidate, 100)
	set.Candidate.Mode = contract.CandidateObserve
	if st := h.offered(t, set); !st.Served {
		t.Errorf("candidate %+v, error %+v", st, st.Error)
	}
}

// TestBadCandidatesAreRefused offers what makes no sense.
func TestBadCandidatesAreRefused(t *testing.T) {
	h := open(t, nil)
	before := h.Status()
	next := h.next(t)
	for want, change := range map[string]func(c *contract.CandidateSet){
		`mode "Sometimes" is unknown: use Canary or Observe`: func(c *contract.CandidateSet) { c.Mode = "Sometimes" },
		"percent is 101, must be from 0 to 100":              func(c *contract.CandidateSet) { c.Percent = 101 },
		"percent is 0, must be from 1 to 100":                func(c *contract.CandidateSet) { c.Mode, c.Percent = contract.CandidateObserve, 0 },
		"it is the set that it is to be compared with":       func(c *contract.CandidateSet) { c.Set = h.set() },
		"there is one beside a set":                          func(c *contract.CandidateSet) { c.Set.Candidate = &contract.CandidateSet{} },
		"salt has 254 bytes":                                 func(c *contract.CandidateSet) { c.Salt = strings.Repeat("x", 254) },
		`strategy "Magic" is unknown`:                        func(c *contract.CandidateSet) { c.Set.Strategy = "Magic" },
	} {
		set := canary(h.set(), next, 10)
		change(set.Candidate)
		status, code := h.put(t, token, set)
		if code != http.StatusUnprocessableEntity || status.Error == nil || !strings.Contains(status.Error.Message, "candidate: ") || !strings.Contains(status.Error.Message, want) {
			t.Errorf("status %d, error %+v, want %q", code, status.Error, want)
		}
	}
	if diff := cmp.Diff(before, h.Status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// TestACandidateThatIsNotUnderstoodIsNotServed offers one of a newer operator: its set, which
// this runtime understands, is served whole.
func TestACandidateThatIsNotUnderstoodIsNotServed(t *testing.T) {
	h := open(t, nil)
	b, err := json.Marshal(canary(h.set(), h.next(t), 100))
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(b), `"candidate":{"set":{`, `"candidate":{"mood":"good","set":{"spell":"magic",`, 1)
	if _, code := h.put(t, token, json.RawMessage(newer)); code != http.StatusAccepted {
		t.Errorf("status %d", code)
	}
	waitFor(t, "the candidate", func() bool { return h.Status().Candidate.Error != nil })
	st := h.Status()
	if c := st.Candidate; c.Served || c.Error.Reason != contract.ReasonRuntimeTooOld || !strings.Contains(c.Error.Message, "mood, spell") {
		t.Errorf("candidate %+v, error %+v", c, c.Error)
	}
	if st.Error != nil || st.ExpertSetDigest != digestOf(t, h.set()) {
		t.Errorf("status %+v, error %+v", st, st.Error)
	}
}

// TestErrorsAreCountedBySide damages what the candidate's experts are composed from after it
// was taken into use.
func TestErrorsAreCountedBySide(t *testing.T) {
	h := open(t, func(c *server.Config) { c.Form, c.Lazy = "merged", true })
	stable, candidate := h.set(), h.next(t)
	if _, r := h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "x", nil)); r.StatusCode != http.StatusOK {
		t.Fatal(r.Status) // The set's own is composed now.
	}
	h.offered(t, canary(stable, candidate, 50))
	files, err := filepath.Glob(filepath.Join(h.volume.DecompositionDir, "*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		flipBit(t, file)
	}
	failed, refused := int64(0), int64(0)
	for i := range 40 {
		request := chat("demo:demo-math", fmt.Sprintf("conversation %d", i), fields{"max_tokens": 1})
		switch _, r := h.ask(t, contract.PathChatCompletions, request); {
		case r.StatusCode == http.StatusInternalServerError && r.Header.Get(contract.HeaderSide) == contract.SideCandidate &&
			r.Header.Get(contract.HeaderExpertSet) == digestOf(t, candidate):
			failed++
		case r.StatusCode != http.StatusOK || r.Header.Get(contract.HeaderSide) != contract.SideStable:
			t.Errorf("status %s, headers %v", r.Status, r.Header)
		}
		if _, r := h.ask(t, contract.PathChatCompletions, chat("demo", fmt.Sprint(i), fields{"temperature": 7})); r.StatusCode == http.StatusBadRequest {
			refused++
		}
	}
	st := h.Status().Candidate
	want := contract.SideCounts{Requests: failed, Errors: failed}
	if diff := cmp.Diff(want, st.Candidate); diff != "" || failed == 0 || refused != 40 || st.Stable.Errors != 0 || st.Stable.Requests != 40-failed {
		t.Errorf("candidate (-want +got):\n%s\nstable %+v, %d failed, %d were refused", diff, st.Stable, failed, refused)
	}
}

// again starts another server on a house's volume, as a pod is started.
func (h *house) again(t testing.TB, c server.Config) *house {
	t.Helper()
	log := &servertest.Log{}
	c.Log = slog.New(slog.NewJSONHandler(log, nil))
	other := &house{Server: server.New(c), volume: h.volume, log: log, math: h.math, code: h.code}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- other.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	api, admin := log.Addresses(t)
	other.api, other.admin = &httptest.Server{URL: api}, &httptest.Server{URL: admin}
	return other
}

// TestAPodThatRestartsResumesItsCanary starts two pods of one set, one after the other: all
// conversations are on the same sides.
func TestAPodThatRestartsResumesItsCanary(t *testing.T) {
	v := enginetest.New(t)
	first := openOn(t, v, nil)
	stable, candidate := first.set(), first.next(t)
	first.offered(t, canary(stable, candidate, 40))
	b, err := json.Marshal(canary(stable, candidate, 40))
	if err != nil {
		t.Fatal(err)
	}
	c := config(t, v, &servertest.Log{})
	if err := os.WriteFile(c.SetFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	second := first.again(t, c)
	waitFor(t, "the candidate", func() bool { st := second.Status(); return st.Candidate != nil && st.Candidate.Served })
	seen := map[string]int{}
	for i := range 60 {
		request := quick(fmt.Sprintf("conversation %d", i), nil)
		before, after := first.sideOf(t, stable, candidate, request), second.sideOf(t, stable, candidate, request)
		if before != after {
			t.Errorf("conversation %d: %s, then %s", i, before, after)
		}
		seen[after]++
	}
	if len(seen) != 2 {
		t.Errorf("sides %v", seen)
	}
}
