package adaptivepolicy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// maxError bounds the error of a pod in the status, maxChoice the name of what was
// chosen, maxDevice that of a device, and maxPods and maxDevices what is listed.
const (
	maxError   = 1024
	maxChoice  = 1024
	maxDevice  = 128
	maxPods    = 16
	maxDevices = 16
)

// adaptationInterval is how long what was chosen last stays in the status while
// other choices are made: at every poll would be a write for each.
const adaptationInterval = time.Minute

// summarise writes what was seen into the policy's status.
func summarise(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, d deployment, chosen choice, seen []observation, now time.Time) {
	s := &policy.Status
	setReplicas(policy, d.object)
	s.Selector = apilabels.SelectorFromSet(desired.PolicySelector(policy)).String()
	s.URL = desired.URL(policy)
	s.BaseDigest = base.Status.Artifact.Digest
	s.DecompositionDigest = base.Status.Decomposition.Digest
	s.ExpertSetDigest = v1alpha1.Digest(chosen.digest)
	s.PodCounts, s.Pods = podStatuses(chosen, seen)
	s.Devices = devices(seen)
	s.Experts = expertStatuses(chosen, seen)
	s.ExpertSummary = expertSummary(s.Experts)
	classifierStatus(policy, chosen, seen)
	probeStatus(policy, chosen, seen)
	setTransferred(policy, chosen, seen)
	s.Adaptation = adaptation(s.Adaptation, seen, now)
}

// setReplicas writes how many pods there are, and how many of those that are asked
// for take requests.
func setReplicas(policy *v1alpha1.AdaptivePolicy, d *appsv1.Deployment) {
	s := &policy.Status
	s.Replicas, s.ReadyReplicas = new(d.Status.Replicas), new(d.Status.ReadyReplicas)
	s.ReplicaSummary = fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(policy.Spec.Serving.Replicas, 1))
}

// podStatuses counts the pods, and lists those that do not serve what is
// expected, the failed ones first.
func podStatuses(chosen choice, seen []observation) (*v1alpha1.PodCounts, []v1alpha1.PolicyPod) {
	var current, failed int32
	var failing, updating []v1alpha1.PolicyPod
	for i := range seen {
		o := &seen[i]
		pod := v1alpha1.PolicyPod{
			Name: o.pod.Name, ExpertSetDigest: v1alpha1.Digest(o.status.ExpertSetDigest),
			Error: status.Clip(o.trouble, maxError),
		}
		switch {
		case o.serves(chosen):
			current++
		case o.refused || o.hindrance != "":
			failed++
			failing = append(failing, pod)
		default:
			updating = append(updating, pod)
		}
	}
	total := int32(len(seen))
	counts := &v1alpha1.PodCounts{
		Total: new(total), Current: new(current), Updating: new(total - current - failed), Failed: new(failed),
	}
	pods := append(failing, updating...)
	return counts, pods[:min(len(pods), maxPods)]
}

// devices counts the pods by what they compute on, as they say.
func devices(seen []observation) []v1alpha1.PolicyDevice {
	pods := map[string]int32{}
	for i := range seen {
		if name := seen[i].status.Device; name != "" {
			pods[status.Clip(name, maxDevice)]++
		}
	}
	var list []v1alpha1.PolicyDevice
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		list = append(list, v1alpha1.PolicyDevice{Name: name, Pods: pods[name]})
	}
	return list[:min(len(list), maxDevices)]
}

func expertStatuses(chosen choice, seen []observation) []v1alpha1.PolicyExpertStatus {
	everywhere := len(seen) > 0 && agree(chosen, seen)
	var experts []v1alpha1.PolicyExpertStatus
	for _, c := range chosen.candidates {
		e := v1alpha1.PolicyExpertStatus{Name: c.name, State: c.state, Weight: c.weight}
		if c.state == v1alpha1.ExpertBelowBaseline {
			e.Score, e.BaselineScore = c.expert.Status.Score, c.expert.Status.BaselineScore
		}
		if c.served {
			e.Digest = c.artifact()
			e.TransferredFrom = c.from
			if c.from == "" {
				e.Score, e.BaselineScore = c.expert.Status.Score, c.expert.Status.BaselineScore
			}
			if everywhere && c.state == v1alpha1.ExpertLoading {
				e.State = v1alpha1.ExpertServed
			}
			if c.held {
				e.State, e.Digest, e.TransferredFrom = v1alpha1.ExpertHeld, c.offered, ""
			}
		} else if c.offered != "" {
			e.Digest = c.offered
		}
		experts = append(experts, e)
	}
	markLost(experts, seen)
	return experts
}

// expertSummary is the number of experts that every pod serves, of all.
func expertSummary(experts []v1alpha1.PolicyExpertStatus) string {
	served := 0
	for _, e := range experts {
		if e.State == v1alpha1.ExpertServed {
			served++
		}
	}
	return fmt.Sprintf("%d/%d", served, len(experts))
}

// adaptation is what was chosen last by any pod, or what the status had before:
// until that is old enough, or where nothing has been chosen since.
func adaptation(was *v1alpha1.AdaptationStatus, seen []observation, now time.Time) *v1alpha1.AdaptationStatus {
	var last *contract.ServingStatus
	for i := range seen {
		s := &seen[i].status
		if s.LastAdaptation != nil && !s.LastAdaptationTime.IsZero() &&
			(last == nil || s.LastAdaptationTime.After(last.LastAdaptationTime)) {
			last = s
		}
	}
	if last == nil {
		return was
	}
	// The API has whole seconds, and pods have clocks of their own.
	at := metav1.NewTime(last.LastAdaptationTime).Rfc3339Copy()
	if was != nil && (!at.After(was.Time.Time) || now.Sub(was.Time.Time) < adaptationInterval) {
		return was
	}
	a := &v1alpha1.AdaptationStatus{
		Strategy: v1alpha1.StrategyType(last.LastAdaptation.Strategy), Time: at,
		Expert: status.Clip(cmp.Or(last.LastAdaptation.Expert, contract.BaseName), maxChoice),
	}
	for name, weight := range last.LastAdaptation.Weights {
		a.Weights = append(a.Weights, v1alpha1.ExpertWeight{
			Name: name, Weight: v1alpha1.Decimal(strconv.FormatFloat(weight, 'f', 4, 64)),
		})
	}
	slices.SortFunc(a.Weights, func(x, y v1alpha1.ExpertWeight) int { return cmp.Compare(x.Name, y.Name) })
	return a
}

// serves reports whether a pod serves the base and the expert set that are
// expected.
func (o *observation) serves(chosen choice) bool {
	return o.current && o.trouble == "" && o.status.ExpertSetDigest == chosen.digest
}

// agree reports whether every pod serves the base and the expert set that are
// expected.
func agree(chosen choice, seen []observation) bool {
	for i := range seen {
		if !seen[i].serves(chosen) {
			return false
		}
	}
	return true
}

// conclude says how the policy stands: what is wrong with what it refers to
// comes before what its pods still have to do.
func conclude(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, d deployment, chosen choice, seen []observation) (status.Ready, error) {
	rollout := rolledOut(d, seen)
	loading := loaded(chosen, seen)
	var baseProblem error
	if !status.Holds(base, v1alpha1.ConditionDecomposed) {
		baseProblem = baseNotReady(base)
	}
	if err := status.First(chosen.problem, baseProblem, rollout, loading); err != nil {
		return status.Ready{}, hasten(err, rollout, loading)
	}
	if ptr.Deref(policy.Spec.Serving.Replicas, 1) == 0 {
		return status.Ready{Reason: v1alpha1.ReasonScaledToZero, Message: "No replica is asked for (spec.serving.replicas is 0)"}, nil
	}
	message := fmt.Sprintf("Every pod (%d) serves the expected experts (%d) at %s", len(seen), len(chosen.set.Experts), desired.URL(policy))
	if c := chosen.classifier; c != nil && c.stale(chosen.question) {
		message += fmt.Sprintf(". Its classifier %s was trained for other skills (condition %s)", c.name, v1alpha1.ConditionClassifierCurrent)
	}
	return status.Ready{Reason: v1alpha1.ReasonServing, After: idleInterval, Message: message}, nil
}

// hasten makes sure that pods are asked again: soon while one of them has still
// something to do, and now and then while the policy waits for something else.
func hasten(err error, rollout, loading error) error {
	interval := idleInterval
	if rollout != nil || loading != nil {
		interval = convergingInterval
	}
	switch e := err.(type) { //nolint:errorlint // First returns what the steps returned.
	case *status.Waiting:
		e.After = sooner(e.After, interval)
	case *status.Stalled:
		e.After = sooner(e.After, interval)
	}
	return err
}

// sooner is the shorter of two intervals, where 0 is none.
func sooner(asked, otherwise time.Duration) time.Duration {
	if asked > 0 {
		return min(asked, otherwise)
	}
	return otherwise
}

// rolledOut says whether the Deployment, as the API server has it, has the pods
// that it should have, and no others: its own status says so for its present
// generation, and they are the pods that were asked.
func rolledOut(d deployment, seen []observation) error {
	for _, o := range seen {
		if o.hindrance != "" {
			return status.Wait(o.reason, "%s", o.hindrance).Warn()
		}
	}
	if failed := deploymentCondition(d.object, appsv1.DeploymentReplicaFailure); failed != nil {
		return status.Wait(v1alpha1.ReasonRejected, "Deployment %s cannot make its pods: %s", d.object.Name, failed.Message).Warn()
	}
	s, want := d.object.Status, d.want()
	if s.ObservedGeneration < d.object.Generation {
		return status.Wait(v1alpha1.ReasonRollingOut, "Deployment %s was changed a moment ago and has not begun to change its pods", d.object.Name)
	}
	switch old := s.Replicas - s.UpdatedReplicas; {
	case s.UpdatedReplicas < want:
		return status.Wait(v1alpha1.ReasonRollingOut, "This version has %d of %s", s.UpdatedReplicas, countPods(want))
	case old > 0:
		return status.Wait(v1alpha1.ReasonRollingOut, "Waiting for %s of the version before to end", countPods(old))
	case s.UpdatedReplicas > want:
		return status.Wait(v1alpha1.ReasonRollingOut, "Waiting for %s to end, more than are asked for", countPods(s.UpdatedReplicas-want))
	case s.AvailableReplicas < want:
		return status.Wait(v1alpha1.ReasonRollingOut, "Available are %d of %s", s.AvailableReplicas, countPods(want))
	}
	present := 0
	for _, o := range seen {
		if o.pod.Annotations[v1alpha1.AnnotationTemplate] == d.template() {
			present++
		}
	}
	if present != int(want) || len(seen) != int(want) {
		return status.Wait(v1alpha1.ReasonRollingOut, "Deployment %s has %s, of which %d answered the operator, beside %d of other versions",
			d.object.Name, countPods(want), present, len(seen)-present)
	}
	return nil
}

func countPods(n int32) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

func deploymentCondition(d *appsv1.Deployment, conditionType appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == conditionType && c.Status == "True" {
			return c
		}
	}
	return nil
}

// loaded says whether every pod serves the expected set.
func loaded(chosen choice, seen []observation) error {
	var have int
	var refused, silent *observation
	for i := range seen {
		o := &seen[i]
		if o.serves(chosen) {
			have++
		}
		if o.refused && refused == nil {
			refused = o
		}
		if o.silent && silent == nil {
			silent = o
		}
	}
	if err := lost(chosen, seen); err != nil {
		return err
	}
	if err := lostProbe(chosen, seen); err != nil {
		return err
	}
	if err := misfits(chosen, seen); err != nil {
		return err
	}
	if refused != nil {
		return status.Wait(v1alpha1.ReasonExpertSetRefused,
			"Pod %s does not serve all of the expert set: %s", refused.pod.Name, refused.trouble).Warn()
	}
	if have != len(seen) {
		told := fmt.Sprintf("%d of %s have loaded expert set %s", have, countPods(int32(len(seen))), chosen.digest)
		if silent != nil { // It may well serve the set.
			told = fmt.Sprintf("%d of %s report expert set %s. Pod %s cannot be asked: %s", have, countPods(int32(len(seen))), chosen.digest, silent.pod.Name, silent.trouble)
		}
		return status.Wait(v1alpha1.ReasonLoadingExperts, "%s", told)
	}
	return nil
}
