package adaptivepolicy

import (
	"cmp"
	"fmt"
	"math/big"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// A trial stands between a set that the gate lets pass and its promotion: an observation, then
// a canary, each if spec.rollout asks for it. While it goes on, pods have the set as candidate
// beside the stable one. As for the whole rollout, each reconciliation finds its way from the
// status: a reconciliation that has asked the pods writes how far the trial is, and the next
// one does as the status says. Time counts from when the status says that every pod had begun.

// Defaults of spec.rollout.canary.abort and of spec.rollout.observe.percent.
const (
	defaultErrorIncrease  = v1alpha1.Decimal("0.05")
	defaultCanaryRequests = 20
	defaultObserved       = 10
)

const (
	// trialInterval is how often pods are asked how a trial goes.
	trialInterval = 10 * time.Second
	// countInterval is how often what they have counted is written.
	countInterval = time.Minute
)

// now is the time, which tests set.
func (r *Reconciler) now() metav1.Time {
	if r.Now != nil {
		return metav1.NewTime(r.Now()).Rfc3339Copy()
	}
	return metav1.Now().Rfc3339Copy()
}

// try is the stage of a set that nothing but its trials keeps from serving. passed is its stage
// behind them.
func try(policy *v1alpha1.AdaptivePolicy, reference *desired.StableSet, chosen choice, passed stage) stage {
	spec, now := policy.Spec.Rollout, policy.Status.Rollout
	stable, candidate := v1alpha1.Digest(setDigest(reference.Set)), v1alpha1.Digest(chosen.digest)
	if spec.Observe == nil {
		now.Observe = nil
	} else {
		if o := now.Observe; o == nil || o.StableDigest != stable || o.CandidateDigest != candidate {
			now.Observe = &v1alpha1.ObserveStatus{
				StableDigest: stable, CandidateDigest: candidate, State: v1alpha1.TrialLoading, Compared: new(int64), Different: new(int64),
			}
		}
		if now.Observe.State != v1alpha1.TrialPassed {
			return observing(spec.Observe, now.Observe, chosen)
		}
	}
	if spec.Canary == nil {
		now.Canary = nil
		return passed
	}
	c := now.Canary
	if c == nil || c.StableDigest != stable || c.CandidateDigest != candidate ||
		c.State == v1alpha1.TrialAborted && tooManyErrors(spec.Canary.Abort, c.Stable, c.Candidate) == "" {
		c = &v1alpha1.CanaryStatus{
			StableDigest: stable, CandidateDigest: candidate, State: v1alpha1.TrialLoading, Step: 1, Percent: spec.Canary.Steps[0].Percent,
		}
		c.Stable, c.Candidate = sideStatuses(nil)
		now.Canary = c
	}
	switch c.State {
	case v1alpha1.TrialPassed:
		return passed.afterCanary(c, chosen)
	case v1alpha1.TrialAborted:
		return aborted(spec.Canary, c)
	}
	// Of fewer steps than there were, the last one is that which goes on.
	c.Step = min(c.Step, int32(len(spec.Canary.Steps)))
	c.Percent = spec.Canary.Steps[c.Step-1].Percent
	return dividing(spec.Canary, c, chosen)
}

// observing is the stage of a set that chooses beside.
func observing(spec *v1alpha1.RolloutObserve, o *v1alpha1.ObserveStatus, chosen choice) stage {
	message := fmt.Sprintf("Expert set %s is being loaded beside the one that serves, to choose as that does", o.CandidateDigest)
	switch o.State {
	case v1alpha1.TrialPassed:
		message = fmt.Sprintf("Expert set %s has been observed: of its %d choices %d were others than those of the one that serves", o.CandidateDigest, *o.Compared, *o.Different)
	case v1alpha1.TrialRunning:
		message = fmt.Sprintf("Expert set %s chooses beside the one that serves, and answers nothing: of %d choices %d were others",
			o.CandidateDigest, *o.Compared, *o.Different)
		if spec.Requests > 0 {
			message += fmt.Sprintf(", of %d that are to be compared", spec.Requests)
		}
		if spec.Minutes > 0 {
			message += ". It ends by " + clock(o.Since, spec.Minutes)
		}
	}
	return stage{
		reason: v1alpha1.ReasonObserving, summary: "Observing", message: message,
		problem: status.Wait(v1alpha1.ReasonObserving, "%s", message).Again(askAgain(o.State)),
		beside: &contract.CandidateSet{
			Set: chosen.set, Mode: contract.CandidateObserve, Percent: int(cmp.Or(spec.Percent, defaultObserved)), Salt: chosen.digest,
		},
	}
}

// dividing is the stage of a set that answers a share.
func dividing(spec *v1alpha1.RolloutCanary, c *v1alpha1.CanaryStatus, chosen choice) stage {
	step := fmt.Sprintf("step %d of %d", c.Step, len(spec.Steps))
	message := fmt.Sprintf("Expert set %s is to answer %d percent of the conversations (%s), once every pod has loaded it", c.CandidateDigest, c.Percent, step)
	switch c.State {
	case v1alpha1.TrialPassed:
		message = fmt.Sprintf("Expert set %s was a canary, and begins to serve: %s", c.CandidateDigest, failures(c))
	case v1alpha1.TrialRunning:
		message = fmt.Sprintf("Expert set %s answers %d percent of the conversations (%s, until %s): %s",
			c.CandidateDigest, c.Percent, step, clock(c.Since, spec.Steps[c.Step-1].Minutes), failures(c))
	}
	return stage{
		reason: v1alpha1.ReasonCanary, summary: "Canary " + strconv.Itoa(int(c.Percent)) + "%", message: message,
		problem: status.Wait(v1alpha1.ReasonCanary, "%s", message).Again(askAgain(c.State)),
		// The salt is the set's own, so that each set has other conversations first.
		beside: &contract.CandidateSet{Set: chosen.set, Mode: contract.CandidateCanary, Percent: int(c.Percent), Salt: chosen.digest},
	}
}

// aborted is the stage of a set that was withdrawn.
func aborted(spec *v1alpha1.RolloutCanary, c *v1alpha1.CanaryStatus) stage {
	message := fmt.Sprintf("Expert set %s was withdrawn at %d percent of the conversations, and the set before is served on: %s; %s. "+
		"Look at the pods' logs, and train or choose the experts otherwise, or let more fail in spec.rollout.canary.abort",
		c.CandidateDigest, c.Percent, failures(c), tooManyErrors(spec.Abort, c.Stable, c.Candidate))
	return stage{
		reason: v1alpha1.ReasonCanaryAborted, summary: "Aborted", message: message,
		problem: status.Stall(v1alpha1.ReasonCanaryAborted, "%s", message),
	}
}

// afterCanary says of a set that serves how it did as a canary, if it was one.
func (s stage) afterCanary(c *v1alpha1.CanaryStatus, chosen choice) stage {
	if c != nil && string(c.CandidateDigest) == chosen.digest && c.State == v1alpha1.TrialPassed {
		s.message += ". As a canary, " + failures(c)
	}
	return s
}

// askAgain is when pods are asked again.
func askAgain(state v1alpha1.TrialState) time.Duration {
	if state == v1alpha1.TrialRunning {
		return trialInterval
	}
	return convergingInterval
}

// clock is when so many minutes will have passed.
func clock(since metav1.Time, minutes int32) string {
	return since.Add(time.Duration(minutes) * time.Minute).UTC().Format(time.RFC3339)
}

// failures says in words what both sides have counted.
func failures(c *v1alpha1.CanaryStatus) string {
	return fmt.Sprintf("%d of its %d requests have failed, and %d of %d of the set before",
		*c.Candidate.Errors, *c.Candidate.Requests, *c.Stable.Errors, *c.Stable.Requests)
}

// tooManyErrors says why a set is to be withdrawn; empty where it is not.
func tooManyErrors(abort *v1alpha1.CanaryAbort, stable, candidate v1alpha1.SideStatus) string {
	limits := v1alpha1.CanaryAbort{}
	if abort != nil {
		limits = *abort
	}
	if *candidate.Requests < int64(cmp.Or(limits.MinRequests, defaultCanaryRequests)) {
		return ""
	}
	rate, before := errorRate(candidate), errorRate(stable)
	if most := limits.MaxErrorRate; most != "" && rate.Cmp(rational(most)) > 0 {
		return fmt.Sprintf("a share of %s, above %s (spec.rollout.canary.abort.maxErrorRate)", rate.FloatString(4), most)
	}
	increase := new(big.Rat).Sub(rate, before)
	if most := cmp.Or(limits.MaxErrorIncrease, defaultErrorIncrease); increase.Cmp(rational(most)) > 0 {
		return fmt.Sprintf("a share of %s, %s more, above %s (spec.rollout.canary.abort.maxErrorIncrease)", rate.FloatString(4), increase.FloatString(4), most)
	}
	return ""
}

// errorRate is the share of requests that have failed, 0 of none.
func errorRate(s v1alpha1.SideStatus) *big.Rat {
	if *s.Requests == 0 {
		return new(big.Rat)
	}
	return big.NewRat(*s.Errors, *s.Requests)
}

// advance writes how far a trial is by what the pods say, and whether it has ended. It returns
// what is to be said of the policy. What it writes is done by the next reconciliation.
func (r *Reconciler) advance(policy *v1alpha1.AdaptivePolicy, chosen choice, seen []observation) error {
	s := chosen.trial
	if s == nil {
		return nil
	}
	now, rollout := r.now(), policy.Status.Rollout
	there, refused := divided(s.beside, seen)
	if s.beside.Mode == contract.CandidateObserve {
		observe(policy.Spec.Rollout.Observe, rollout.Observe, s.beside, seen, there, now)
		*s = withBeside(observing(policy.Spec.Rollout.Observe, rollout.Observe, choice{}), s.beside)
	} else {
		step(policy.Spec.Rollout.Canary, rollout.Canary, s.beside, seen, there, now)
		if rollout.Canary.State == v1alpha1.TrialAborted {
			*s = aborted(policy.Spec.Rollout.Canary, rollout.Canary)
		} else {
			*s = withBeside(dividing(policy.Spec.Rollout.Canary, rollout.Canary, choice{}), s.beside)
		}
	}
	if refused != nil && s.beside != nil {
		s.reason = v1alpha1.ReasonCandidateRefused
		s.message = fmt.Sprintf("Pod %s does not load expert set %s beside the one that serves: %s", refused.pod.Name, rollout.Candidate.Digest, refused.beside)
		s.problem = status.Wait(s.reason, "%s", s.message).Warn().Again(trialInterval)
	}
	rollout.Summary = s.summary
	status.Set(policy, v1alpha1.ConditionRolledOut, false, s.reason, s.message)
	return s.problem
}

func withBeside(s stage, beside *contract.CandidateSet) stage {
	s.beside = beside
	return s
}

// divided reports whether every pod has a candidate in use as it was offered, and which pod
// cannot.
func divided(c *contract.CandidateSet, seen []observation) (all bool, refused *observation) {
	all = len(seen) > 0
	for i := range seen {
		o := &seen[i]
		all = all && o.current && has(o.status, c) && o.status.Candidate.Served
		if refused == nil && o.current && o.beside != "" {
			refused = o
		}
	}
	return all, refused
}

// has reports whether a pod has been told of a candidate, or of none.
func has(s contract.ServingStatus, c *contract.CandidateSet) bool {
	if c == nil || s.Candidate == nil {
		return c == nil && s.Candidate == nil
	}
	return s.Candidate.Digest == setDigest(c.Set) && s.Candidate.Mode == c.Mode && s.Candidate.Percent == c.Percent && s.Candidate.Salt == c.Salt
}

// observe takes an observation further.
func observe(spec *v1alpha1.RolloutObserve, o *v1alpha1.ObserveStatus, c *contract.CandidateSet, seen []observation, there bool, now metav1.Time) {
	before := o.State
	pods, sum := tally(o.Pods, seen, observed(c), observeCounts)
	if there && o.State == v1alpha1.TrialLoading {
		o.State, o.Since = v1alpha1.TrialRunning, now
	}
	if o.State == v1alpha1.TrialRunning &&
		(spec.Minutes > 0 && over(o.Since, spec.Minutes, now) || spec.Requests > 0 && sum[0] >= int64(spec.Requests)) {
		o.State = v1alpha1.TrialPassed
	}
	if o.State == before && !due(o.Counted, now) {
		return
	}
	o.Counted, o.Pods = now, pods
	o.Compared, o.Different, o.Failed, o.Dropped = new(sum[0]), new(sum[1]), new(sum[2]), new(sum[3])
	if sum[0] > 0 {
		o.DifferentShare = share(int(sum[1]), int(sum[0]))
	}
	o.Pairs = decisionPairs(c, seen)
}

// step takes a canary further.
func step(spec *v1alpha1.RolloutCanary, c *v1alpha1.CanaryStatus, beside *contract.CandidateSet, seen []observation, there bool, now metav1.Time) {
	before := *c
	pods, sum := tally(c.Pods, seen, compared(beside), canaryCounts)
	stable, candidate := sideStatuses(sum)
	if there && c.State == v1alpha1.TrialLoading {
		c.State, c.Since = v1alpha1.TrialRunning, now
	}
	switch {
	case tooManyErrors(spec.Abort, stable, candidate) != "":
		c.State = v1alpha1.TrialAborted
	case c.State != v1alpha1.TrialRunning || !over(c.Since, spec.Steps[c.Step-1].Minutes, now):
	case int(c.Step) == len(spec.Steps):
		c.State = v1alpha1.TrialPassed
	default:
		c.Step++
		c.Percent, c.State, c.Since = spec.Steps[c.Step-1].Percent, v1alpha1.TrialLoading, metav1.Time{}
	}
	if c.State == before.State && c.Step == before.Step && !due(c.Counted, now) {
		return
	}
	c.Counted, c.Pods, c.Stable, c.Candidate = now, pods, stable, candidate
}

// begun is the canary whose step begins with a reconciliation: every pod divides the
// conversations as it says since then. It is nil where none does.
func begun(before, after *v1alpha1.AdaptivePolicy) *v1alpha1.CanaryStatus {
	canary := func(p *v1alpha1.AdaptivePolicy) v1alpha1.CanaryStatus {
		if p.Status.Rollout == nil || p.Status.Rollout.Canary == nil || p.Status.Rollout.Canary.State != v1alpha1.TrialRunning {
			return v1alpha1.CanaryStatus{}
		}
		return *p.Status.Rollout.Canary
	}
	was, is := canary(before), canary(after)
	if is.Step == 0 || is.Step == was.Step && is.CandidateDigest == was.CandidateDigest && is.StableDigest == was.StableDigest {
		return nil
	}
	return &is
}

// tellStep records an event of a step that begins. Its action names the percentage: events that
// differ in nothing but their words are one to those who collect them.
func (r *Reconciler) tellStep(before, policy *v1alpha1.AdaptivePolicy) {
	c := begun(before, policy)
	if c == nil || policy.Spec.Rollout == nil || policy.Spec.Rollout.Canary == nil {
		return
	}
	steps := policy.Spec.Rollout.Canary.Steps
	message := fmt.Sprintf("Expert set %s answers %d percent of the conversations (step %d of %d, until %s)",
		c.CandidateDigest, c.Percent, c.Step, len(steps), clock(c.Since, steps[c.Step-1].Minutes))
	r.Status.Events.Eventf(policy, nil, corev1.EventTypeNormal, v1alpha1.ReasonCanary, fmt.Sprintf("Canary%dPercent", c.Percent), "%s", message)
}

// over reports whether so many minutes have passed.
func over(since metav1.Time, minutes int32, now metav1.Time) bool {
	return !now.Time.Before(since.Add(time.Duration(minutes) * time.Minute))
}

// due reports whether what was counted is to be written again.
func due(counted, now metav1.Time) bool { return now.Sub(counted.Time) >= countInterval }

// besideTrouble says why a pod does not have the candidate that it was offered; empty where it
// has, or is loading it.
func besideTrouble(s contract.ServingStatus, c *contract.CandidateSet) string {
	switch {
	case c == nil:
		return ""
	case s.Candidate == nil:
		return "its runtime knows of no candidates; let it have the operator's version"
	case s.Candidate.Error != nil:
		return s.Candidate.Error.Message
	}
	return ""
}
