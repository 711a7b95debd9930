package adaptivepolicy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// tried is a policy whose sets are observed and then canaries, as the changes make it.
func tried(change ...func(*v1alpha1.RolloutSpec)) *v1alpha1.AdaptivePolicy {
	return policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{
			Observe: &v1alpha1.RolloutObserve{Minutes: 30, Requests: 200, Percent: 20},
			Canary:  &v1alpha1.RolloutCanary{Steps: []v1alpha1.CanaryStep{{Percent: 5, Minutes: 10}, {Percent: 50, Minutes: 20}}},
		}
		for _, c := range change {
			c(p.Spec.Rollout)
		}
		p.Status.Rollout = &v1alpha1.RolloutStatus{}
	})
}

func withoutObserve(r *v1alpha1.RolloutSpec) { r.Observe = nil }

// trials walks a policy's trials: an operator that starts anew at each reconciliation, and pods
// that do as they are offered.
type trials struct {
	t         *testing.T
	policy    *v1alpha1.AdaptivePolicy
	reference *desired.StableSet
	chosen    choice
	time      time.Time
	pods      []observation
	last      stage
}

func newTrials(t *testing.T, p *v1alpha1.AdaptivePolicy, pods ...string) *trials {
	w := &trials{
		t: t, policy: p, reference: stableOf("9"), time: time.Unix(2_000_000, 0),
		chosen: choose(policy(), readyBase(), found(expert("math"), expert("code"))),
	}
	for _, name := range pods {
		w.pods = append(w.pods, serving(name, setDigest(w.reference.Set)))
	}
	return w
}

// restart has nothing left but what the API server keeps.
func (w *trials) restart() {
	w.t.Helper()
	b, err := json.Marshal(w.policy)
	if err != nil {
		w.t.Fatal(err)
	}
	w.policy = &v1alpha1.AdaptivePolicy{}
	if err := json.Unmarshal(b, w.policy); err != nil {
		w.t.Fatal(err)
	}
}

// reconcile decides what pods are offered, offers it, lets them say what they will, and writes
// how far that is.
func (w *trials) reconcile(says ...func(pods []observation)) stage {
	w.t.Helper()
	w.restart()
	passed := stage{promoted: true, reason: v1alpha1.ReasonPromoted, summary: "Stable"}
	s := try(w.policy, w.reference, w.chosen, passed)
	candidate := desired.StableSet{Set: w.chosen.set, DecompositionDigest: digest("b"), Since: metav1.NewTime(w.time)}
	s.write(w.policy, w.reference, candidate)
	if s.beside != nil {
		chosen := w.chosen.withhold(w.reference, w.reference)
		chosen.set.Candidate, chosen.trial = s.beside, &s
		for i := range w.pods {
			w.offer(&w.pods[i], s.beside)
		}
		for _, say := range says {
			say(w.pods)
		}
		for i := range w.pods {
			w.pods[i].beside = besideTrouble(w.pods[i].status, s.beside)
		}
		r := &Reconciler{Now: func() time.Time { return w.time }}
		s.problem = r.advance(w.policy, chosen, w.pods)
		s.promoted = false
	}
	w.restart()
	w.last = s
	return s
}

// offer has a pod do as it is told, keeping what it has counted of the same candidate.
func (w *trials) offer(o *observation, c *contract.CandidateSet) {
	now := o.status.Candidate
	if now == nil || now.Digest != setDigest(c.Set) || now.Mode != c.Mode {
		now = &contract.ServingCandidate{Digest: setDigest(c.Set), Mode: c.Mode, Served: true, Since: w.time}
		if c.Mode == contract.CandidateObserve {
			now.Observed = &contract.Observed{}
		}
	}
	now.Percent, now.Salt = c.Percent, c.Salt
	o.status.Candidate = now
}

func (w *trials) pass(minutes int) { w.time = w.time.Add(time.Duration(minutes) * time.Minute) }

// answered has pod i count so many requests and errors of either side.
func answered(i int, stable, stableErrors, candidate, candidateErrors int64) func([]observation) {
	return func(pods []observation) {
		c := pods[i].status.Candidate
		c.Stable = contract.SideCounts{Requests: stable, Errors: stableErrors, FirstTokenSeconds: float64(stable-stableErrors) / 10}
		c.Candidate = contract.SideCounts{Requests: candidate, Errors: candidateErrors, Fallbacks: 1, FirstTokenSeconds: float64(candidate-candidateErrors) / 5}
	}
}

func loading(i int) func([]observation) {
	return func(pods []observation) { pods[i].status.Candidate.Served = false }
}

func loadedAt(i int, at time.Time) func([]observation) {
	return func(pods []observation) { pods[i].status.Candidate.Served, pods[i].status.Candidate.Since = true, at }
}

// TestASetIsTriedUntilItServes walks from the first reconciliation to the promotion, with an
// operator that has forgotten everything at each.
func TestASetIsTriedUntilItServes(t *testing.T) {
	w := newTrials(t, tried(), "a", "b")
	s := w.reconcile(loading(1))
	want := contract.CandidateSet{Set: w.chosen.set, Mode: contract.CandidateObserve, Percent: 20, Salt: w.chosen.digest}
	if diff := cmp.Diff(want, *s.beside); diff != "" || s.reason != v1alpha1.ReasonObserving || s.summary != "Observing" {
		t.Errorf("%+v (-want +got):\n%s", s, diff)
	}
	if o := w.policy.Status.Rollout.Observe; o.State != v1alpha1.TrialLoading || !o.Since.IsZero() {
		t.Errorf("while a pod loads it: %+v", o)
	}
	w.pass(3)
	w.reconcile(loadedAt(1, w.time), func(pods []observation) {
		pods[0].status.Candidate.Observed = &contract.Observed{Compared: 10, Different: 4, Failed: 1, Dropped: 2, Pairs: []contract.DecisionPair{{Stable: "math", Candidate: "code", Requests: 4}}}
		pods[1].status.Candidate.Observed = &contract.Observed{Compared: 30, Different: 2, Pairs: []contract.DecisionPair{{Stable: "math", Candidate: "code", Requests: 1}, {Stable: "base", Candidate: "math", Requests: 1}}}
	})
	o := w.policy.Status.Rollout.Observe
	pairs := []v1alpha1.DecisionPair{{Stable: "math", Candidate: "code", Requests: 5}, {Stable: "base", Candidate: "math", Requests: 1}}
	if diff := cmp.Diff(pairs, o.Pairs); diff != "" || o.State != v1alpha1.TrialRunning || !o.Since.Time.Equal(w.time) ||
		*o.Compared != 40 || *o.Different != 6 || o.DifferentShare != "0.1500" || *o.Failed != 1 || *o.Dropped != 2 {
		t.Errorf("once all have: %+v, pairs (-want +got):\n%s", o, diff)
	}
	w.pass(29)
	if s = w.reconcile(); s.reason != v1alpha1.ReasonObserving || w.policy.Status.Rollout.Observe.State != v1alpha1.TrialRunning {
		t.Errorf("before its end: %+v", s)
	}
	w.pass(1)
	w.reconcile()
	if o := w.policy.Status.Rollout.Observe; o.State != v1alpha1.TrialPassed {
		t.Errorf("at its end: %+v", o)
	}

	s = w.reconcile(loading(0))
	if s.beside.Mode != contract.CandidateCanary || s.beside.Percent != 5 || s.beside.Salt != w.chosen.digest || w.policy.Status.Rollout.Summary != "Canary 5%" {
		t.Errorf("the first step: %+v", s)
	}
	w.pass(60) // However long a pod takes, the step has not begun.
	w.reconcile(loadedAt(0, w.time))
	if c := w.policy.Status.Rollout.Canary; c.State != v1alpha1.TrialRunning || c.Step != 1 || !c.Since.Time.Equal(w.time) {
		t.Errorf("%+v", c)
	}
	w.pass(10)
	w.reconcile(answered(0, 300, 3, 20, 0), answered(1, 300, 3, 20, 1))
	c := w.policy.Status.Rollout.Canary
	if c.Step != 2 || c.Percent != 50 || c.State != v1alpha1.TrialLoading || !c.Since.IsZero() || *c.Stable.Requests != 600 || *c.Stable.Errors != 6 ||
		*c.Candidate.Requests != 40 || *c.Candidate.Errors != 1 || *c.Candidate.Fallbacks != 2 || *c.Stable.FirstTokenMilliseconds != 100 || *c.Candidate.FirstTokenMilliseconds != 200 {
		t.Errorf("after the first step: %+v", c)
	}
	s = w.reconcile()
	if s.beside.Percent != 50 || s.promoted || w.policy.Status.Rollout.Canary.State != v1alpha1.TrialRunning {
		t.Errorf("the second step: %+v", s)
	}
	w.pass(19)
	if s = w.reconcile(answered(1, 400, 3, 80, 1)); s.beside == nil || !strings.Contains(w.last.problem.Error(), "1 of its 100 requests have failed, and 6 of 700 of the set before") {
		t.Errorf("%+v: %v", s, s.problem)
	}
	w.pass(1)
	if s = w.reconcile(); s.promoted || w.policy.Status.Rollout.Canary.State != v1alpha1.TrialPassed {
		t.Errorf("at the end, before it is written: %+v", s)
	}
	if s = w.reconcile(); !s.promoted || s.beside != nil || s.problem != nil || w.policy.Status.Rollout.Candidate != nil {
		t.Errorf("at the end: %+v", s)
	}
}

// TestACanaryAbortsItself is the table of what lets a canary go on.
func TestACanaryAbortsItself(t *testing.T) {
	for _, tc := range []struct {
		name   string
		abort  *v1alpha1.CanaryAbort
		counts func([]observation)
		why    string // Empty: it goes on.
	}{
		{"as few errors", nil, answered(0, 100, 2, 100, 2), ""},
		{"as many more as are let", nil, answered(0, 100, 0, 100, 5), ""},
		{"more", nil, answered(0, 100, 0, 100, 6), "0.0600, 0.0600 more, above 0.05 (spec.rollout.canary.abort.maxErrorIncrease)"},
		{"many on both sides", nil, answered(0, 100, 50, 100, 54), ""},
		{"many on both sides, of which some share is let", &v1alpha1.CanaryAbort{MaxErrorRate: "0.5"}, answered(0, 100, 50, 100, 54), "0.5400, above 0.5 (spec.rollout.canary.abort.maxErrorRate)"},
		{"too few to judge by", nil, answered(0, 100, 0, 19, 19), ""},
		{"enough", nil, answered(0, 100, 0, 20, 20), "a share of 1.0000"},
		{"few, which are enough", &v1alpha1.CanaryAbort{MinRequests: 2}, answered(0, 100, 0, 2, 1), "a share of 0.5000"},
		{"none is let", &v1alpha1.CanaryAbort{MaxErrorRate: "0", MinRequests: 1}, answered(0, 0, 0, 1, 1), "above 0 (spec.rollout.canary.abort.maxErrorRate)"},
		{"any is let", &v1alpha1.CanaryAbort{MaxErrorIncrease: "1"}, answered(0, 100, 0, 100, 100), ""},
		{"nothing to compare with", nil, answered(0, 0, 0, 40, 3), "a share of 0.0750, 0.0750 more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newTrials(t, tried(withoutObserve, func(r *v1alpha1.RolloutSpec) { r.Canary.Abort = tc.abort }), "a")
			w.reconcile()
			w.pass(1)
			s := w.reconcile(tc.counts)
			c := w.policy.Status.Rollout.Canary
			if tc.why == "" {
				if c.State != v1alpha1.TrialRunning || s.beside == nil {
					t.Errorf("%+v, %+v", c, s)
				}
				return
			}
			if c.State != v1alpha1.TrialAborted || !strings.Contains(s.problem.Error(), tc.why) {
				t.Fatalf("%+v, %v", c, s.problem)
			}
			if _, stalled := s.problem.(*status.Stalled); !stalled { //nolint:errorlint // It is as aborted made it.
				t.Errorf("the problem is %v", s.problem)
			}
			for range 2 { // And so it stays.
				s = w.reconcile()
				if s.promoted || s.beside != nil || s.summary != "Aborted" || s.reason != v1alpha1.ReasonCanaryAborted || w.policy.Status.Rollout.Candidate == nil {
					t.Errorf("afterwards: %+v", s)
				}
			}
			// Another set is tried anew, and so is this one where more may fail.
			w.policy.Spec.Rollout.Canary.Abort = &v1alpha1.CanaryAbort{MaxErrorRate: "1", MaxErrorIncrease: "1"}
			for i := range w.pods {
				w.pods[i].status.Candidate = nil // It was withdrawn.
			}
			w.pass(1)
			if s = w.reconcile(); s.beside == nil || s.beside.Percent != 5 || *w.policy.Status.Rollout.Canary.Candidate.Requests != 0 {
				t.Errorf("with another limit: %+v, %+v", s, w.policy.Status.Rollout.Canary)
			}
		})
	}
}

// TestWhatPodsCountedIsNotForgotten ends pods, starts them again and lets them be silent, while
// a canary counts.
func TestWhatPodsCountedIsNotForgotten(t *testing.T) {
	w := newTrials(t, tried(withoutObserve), "a", "b", "c")
	w.reconcile()
	total := func() string {
		c := w.policy.Status.Rollout.Canary
		return fmt.Sprintf("%d/%d %d/%d", *c.Stable.Errors, *c.Stable.Requests, *c.Candidate.Errors, *c.Candidate.Requests)
	}
	w.pass(1)
	w.reconcile(answered(0, 10, 1, 5, 0), answered(1, 20, 2, 6, 1), answered(2, 30, 3, 7, 0))
	if got := total(); got != "6/60 1/18" {
		t.Fatalf("all three: %s", got)
	}
	w.pass(1)
	w.reconcile(loadedAt(1, w.time), answered(1, 1, 0, 1, 0)) // It has begun again.
	if got := total(); got != "6/61 1/19" {
		t.Errorf("one that has begun again: %s", got)
	}
	w.pass(1)
	silence := func(pods []observation) { pods[0].status = contract.ServingStatus{} }
	w.reconcile(silence, answered(1, 2, 0, 1, 0))
	if got := total(); got != "6/62 1/19" {
		t.Errorf("one that is silent: %s", got)
	}
	w.pods = w.pods[1:]
	w.pass(1)
	w.reconcile(answered(0, 3, 0, 2, 0))
	w.pass(1)
	w.reconcile()
	if got := total(); got != "6/63 1/20" || len(w.policy.Status.Rollout.Canary.Pods) != 3 {
		t.Errorf("one that has gone: %s, %+v", got, w.policy.Status.Rollout.Canary.Pods)
	}
	// Numbers alone are written once a minute.
	before := w.policy.Status.Rollout.Canary.DeepCopy()
	w.time = w.time.Add(59 * time.Second)
	w.reconcile(answered(0, 9, 0, 9, 0))
	if diff := cmp.Diff(before, w.policy.Status.Rollout.Canary); diff != "" {
		t.Errorf("within a minute (-before +after):\n%s", diff)
	}
}

// TestATrialWaitsForItsPods wants the reason why a candidate is not tried.
func TestATrialWaitsForItsPods(t *testing.T) {
	for name, tc := range map[string]struct {
		say    func([]observation)
		reason string
		want   string
	}{
		"one is loading": {loading(0), v1alpha1.ReasonCanary, "once every pod has loaded it"},
		"one has no room": {func(pods []observation) {
			pods[1].status.Candidate.Served, pods[1].status.Candidate.Error = false, &contract.LoadError{Message: "both sets need 3 GiB"}
		}, v1alpha1.ReasonCandidateRefused, "Pod b does not load expert set"},
		"one is too old":            {func(pods []observation) { pods[0].status.Candidate = nil }, v1alpha1.ReasonCandidateRefused, "its runtime knows of no candidates"},
		"one is of the base before": {func(pods []observation) { pods[0].current = false }, v1alpha1.ReasonCanary, "once every pod has loaded it"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTrials(t, tried(withoutObserve), "a", "b")
			s := w.reconcile(tc.say)
			if c := w.policy.Status.Rollout.Canary; s.reason != tc.reason || !strings.Contains(s.problem.Error(), tc.want) || c.State != v1alpha1.TrialLoading {
				t.Errorf("%+v: %v, %+v", s, s.problem, c)
			}
		})
	}
	w := newTrials(t, tried())
	if w.reconcile(); w.policy.Status.Rollout.Observe.State != v1alpha1.TrialLoading {
		t.Errorf("without pods: %+v", w.policy.Status.Rollout.Observe)
	}
}

// TestTrialsOfAnotherSetBeginAnew changes the set in the midst of a canary, and the steps.
func TestTrialsOfAnotherSetBeginAnew(t *testing.T) {
	w := newTrials(t, tried(withoutObserve), "a")
	w.reconcile()
	w.pass(10)
	w.reconcile()
	w.reconcile()
	if c := w.policy.Status.Rollout.Canary; c.Step != 2 {
		t.Fatalf("%+v", c)
	}
	w.policy.Spec.Rollout.Canary.Steps = []v1alpha1.CanaryStep{{Percent: 30, Minutes: 100}}
	if s := w.reconcile(); s.beside.Percent != 30 || w.policy.Status.Rollout.Canary.Step != 1 {
		t.Errorf("with fewer steps: %+v", w.policy.Status.Rollout.Canary)
	}
	w.chosen = choose(policy(), readyBase(), found(expert("math"), expert("code", func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Digest = digest("5") })))
	s := w.reconcile()
	if c := w.policy.Status.Rollout.Canary; c.Step != 1 || s.beside.Salt != w.chosen.digest || string(c.CandidateDigest) != w.chosen.digest || *c.Candidate.Requests != 0 {
		t.Errorf("another set: %+v, %+v", s, c)
	}
	// Who asks for no canary any more has the set at once.
	w.policy.Spec.Rollout.Canary = nil
	if s := w.reconcile(); !s.promoted {
		t.Errorf("without a canary: %+v", s)
	}
}

// trialMessages are what is said of trials.
func trialMessages(t *testing.T) []statustest.Message {
	t.Helper()
	var all []statustest.Message
	add := func(name string, s stage) { all = append(all, statustest.Of(name, status.Ready{}, s.problem)) }
	w := newTrials(t, tried(), "a", "b")
	add("an expert set is loaded beside the one that serves", w.reconcile(loading(0)))
	w.pass(1)
	choices := func(pods []observation) {
		pods[0].status.Candidate.Observed = &contract.Observed{Compared: 40, Different: 6}
	}
	add("an expert set is observed", w.reconcile(loadedAt(0, w.time), choices))
	w.pass(30)
	add("an expert set has been observed", w.reconcile())
	add("an expert set is to be a canary", w.reconcile(loading(0)))
	add("a pod has no room for another expert set", w.reconcile(func(pods []observation) {
		pods[0].status.Candidate.Error = &contract.LoadError{Message: "there is no memory for a candidate beside the set: both sets need 3.0 GiB for experts, of which the one that is served needs 1.5 GiB, and there are 2.0 GiB; give the pods more, or take fewer experts"}
	}))
	add("a pod knows of no candidates", w.reconcile(func(pods []observation) { pods[0].status.Candidate = nil }))
	w.pass(1)
	w.reconcile()
	w.pass(1)
	add("an expert set is a canary", w.reconcile(answered(0, 300, 3, 40, 1)))
	aborts := newTrials(t, tried(withoutObserve), "a")
	aborts.reconcile()
	aborts.pass(1)
	add("a canary is withdrawn, since it fails more often", aborts.reconcile(answered(0, 300, 3, 40, 4)))
	aborts = newTrials(t, tried(withoutObserve, func(r *v1alpha1.RolloutSpec) { r.Canary.Abort = &v1alpha1.CanaryAbort{MaxErrorRate: "0.05"} }), "a")
	aborts.reconcile()
	aborts.pass(1)
	add("a canary is withdrawn, since it fails too often", aborts.reconcile(answered(0, 300, 3, 40, 4)))
	w.pass(10)
	w.reconcile()
	w.reconcile()
	w.pass(20)
	add("a canary has passed", w.reconcile())
	s := promoted(w.policy.Status.Rollout, w.chosen)
	return append(all, statustest.Of("an expert set serves that was a canary", status.Ready{Reason: s.reason, Message: s.message}, nil))
}

// TestAStepIsToldOnce: when every pod divides the conversations so, and not again.
func TestAStepIsToldOnce(t *testing.T) {
	w := newTrials(t, tried(withoutObserve), "a")
	told := func(says ...func([]observation)) int32 {
		t.Helper()
		before := w.policy.DeepCopy()
		w.reconcile(says...)
		if c := begun(before, w.policy); c != nil {
			return c.Percent
		}
		return 0
	}
	for _, step := range []struct {
		name    string
		minutes int
		says    func([]observation)
		want    int32
	}{
		{"a pod loads it", 0, loading(0), 0},
		{"it is loaded", 1, func(pods []observation) { pods[0].status.Candidate.Served = true }, 5},
		{"it goes on", 1, answered(0, 10, 0, 1, 0), 0},
		{"its time is over", 10, answered(0, 100, 0, 5, 0), 0},
		{"the next one begins", 0, answered(0, 100, 0, 5, 0), 50},
		{"that goes on", 1, answered(0, 100, 0, 5, 0), 0},
	} {
		w.pass(step.minutes)
		if got := told(step.says); got != step.want {
			t.Errorf("%s: the step of %d percent is told, want %d (%+v)", step.name, got, step.want, w.policy.Status.Rollout.Canary)
		}
	}
}

// TestWhatAnOperatorOfBeforeCountedStays: it knew of no outcomes.
func TestWhatAnOperatorOfBeforeCountedStays(t *testing.T) {
	known := []v1alpha1.TrialPod{{Name: gonePods, Counts: []int64{10, 1, 0, 500, 4, 0, 0, 100}}}
	pods, sum := tally(known, nil, func(contract.ServingStatus) ([]int64, bool) { return nil, false }, canaryCounts)
	stable, candidate := sideStatuses(sum)
	if *stable.Requests != 10 || *stable.Errors != 1 || *candidate.Requests != 4 || stable.Right != nil || candidate.Wrong != nil {
		t.Errorf("%+v, %+v", stable, candidate)
	}
	if len(pods) != 1 || len(pods[0].Counts) != canaryCounts {
		t.Errorf("pods %+v", pods)
	}
	sum[2*sideCounts+1], sum[2*sideCounts+outcomeCounts] = 3, 7
	if stable, candidate = sideStatuses(sum); *stable.Right != 0 || *stable.Wrong != 3 || *candidate.Right != 7 || *candidate.Wrong != 0 {
		t.Errorf("%+v, %+v", stable, candidate)
	}
}
