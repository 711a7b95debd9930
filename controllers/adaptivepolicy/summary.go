package adaptivepolicy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// maxError bounds the error of a pod in the status.
const maxError = 1024

// summarise writes what was seen into the policy's status.
func summarise(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, d deployment, chosen choice, seen []observation) {
	s := &policy.Status
	s.Replicas = new(d.object.Status.Replicas)
	s.ReadyReplicas = new(d.object.Status.ReadyReplicas)
	s.Selector = apilabels.SelectorFromSet(desired.PolicySelector(policy)).String()
	s.URL = desired.URL(policy)
	s.BaseDigest = base.Status.Artifact.Digest
	s.DecompositionDigest = base.Status.Decomposition.Digest
	s.ExpertSetDigest = v1alpha1.Digest(chosen.digest)
	s.Pods = podStatuses(seen)
	s.Experts = expertStatuses(chosen, seen)
	s.Adaptation = adaptation(chosen, seen)
}

func podStatuses(seen []observation) []v1alpha1.PolicyPod {
	pods := make([]v1alpha1.PolicyPod, 0, len(seen))
	for _, o := range seen {
		pods = append(pods, v1alpha1.PolicyPod{
			Name: o.pod.Name, ExpertSetDigest: v1alpha1.Digest(o.status.ExpertSetDigest),
			Error: status.Clip(o.trouble, maxError),
		})
	}
	if len(pods) == 0 {
		return nil
	}
	return pods
}

func expertStatuses(chosen choice, seen []observation) []v1alpha1.PolicyExpertStatus {
	requests := map[string]int64{}
	for _, o := range seen {
		for _, e := range o.status.Experts {
			requests[e.Name] += e.Requests
		}
	}
	everywhere := len(seen) > 0 && agree(chosen, seen)
	var experts []v1alpha1.PolicyExpertStatus
	for _, c := range chosen.candidates {
		e := v1alpha1.PolicyExpertStatus{Name: c.name, State: c.state, Weight: c.weight}
		if c.served {
			e.Digest = c.expert.Status.Artifact.Digest
			e.Score, e.Baseline = c.expert.Status.Score, c.expert.Status.BaselineScore
			e.Requests = new(requests[c.name])
			if everywhere && c.state == v1alpha1.ExpertLoading {
				e.State = v1alpha1.ExpertServed
			}
		}
		experts = append(experts, e)
	}
	return experts
}

// adaptation sums up what the pods have been choosing.
func adaptation(chosen choice, seen []observation) *v1alpha1.AdaptationStatus {
	a := &v1alpha1.AdaptationStatus{Strategy: v1alpha1.StrategyType(chosen.set.Strategy)}
	var requests, fallbacks int64
	var last *contract.Adaptation
	for _, o := range seen {
		requests += o.status.Requests
		fallbacks += o.status.Fallbacks
		if o.status.LastAdaptation != nil {
			last = o.status.LastAdaptation
		}
	}
	if requests > 0 {
		a.Requests = new(requests)
		a.FallbackRate = v1alpha1.Score(strconv.FormatFloat(float64(fallbacks)/float64(requests), 'f', 4, 64))
	}
	if last != nil {
		a.Last = status.Clip(last.Expert, 63)
		for name, weight := range last.Weights {
			a.Weights = append(a.Weights, v1alpha1.ExpertWeight{
				Name: name, Weight: v1alpha1.Decimal(strconv.FormatFloat(weight, 'f', 4, 64)),
			})
		}
		slices.SortFunc(a.Weights, func(x, y v1alpha1.ExpertWeight) int { return cmp.Compare(x.Name, y.Name) })
	}
	return a
}

// agree reports whether every pod serves the base and the expert set that are
// expected.
func agree(chosen choice, seen []observation) bool {
	for _, o := range seen {
		if !o.current || o.trouble != "" || o.status.ExpertSetDigest != chosen.digest {
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
	if !status.IsReady(base) {
		baseProblem = baseNotReady(base)
	}
	if err := status.First(chosen.problem, baseProblem, rollout, loading); err != nil {
		return status.Ready{}, hasten(err, rollout, loading)
	}
	if ptr.Deref(policy.Spec.Serving.Replicas, 1) == 0 {
		return status.Ready{Reason: v1alpha1.ReasonScaledToZero, Message: "No replica is asked for (spec.serving.replicas is 0)"}, nil
	}
	return status.Ready{
		Reason: v1alpha1.ReasonServing, After: idleInterval,
		Message: fmt.Sprintf("All pods (%d) serve the expected experts (%d) at %s", len(seen), len(chosen.set.Experts), desired.URL(policy)),
	}, nil
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
		e.After = interval
	case *status.Stalled:
		e.After = interval
	}
	return err
}

// rolledOut says whether the Deployment has the pods that it should have.
func rolledOut(d deployment, seen []observation) error {
	for _, o := range seen {
		if o.hindrance != "" {
			return status.Wait(o.reason, "%s", o.hindrance).Warn()
		}
	}
	if failed := deploymentCondition(d.object, appsv1.DeploymentReplicaFailure); failed != nil {
		return status.Wait(v1alpha1.ReasonRejected, "Deployment %s cannot make its pods: %s", d.object.Name, failed.Message).Warn()
	}
	s := d.object.Status
	want := ptr.Deref(d.object.Spec.Replicas, 1)
	if d.rolling || s.UpdatedReplicas != want || s.ReadyReplicas != want || s.Replicas != want {
		return status.Wait(v1alpha1.ReasonRollingOut, "%d of %d pods are up to date and ready", min(s.UpdatedReplicas, s.ReadyReplicas), want)
	}
	return nil
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
	var refused *observation
	for i := range seen {
		o := &seen[i]
		if o.current && o.trouble == "" && o.status.ExpertSetDigest == chosen.digest {
			have++
		}
		if o.refused && refused == nil {
			refused = o
		}
	}
	if refused != nil {
		return status.Wait(v1alpha1.ReasonExpertSetRefused,
			"Pod %s does not serve all of the expert set: %s", refused.pod.Name, refused.trouble).Warn()
	}
	if have != len(seen) {
		return status.Wait(v1alpha1.ReasonLoadingExperts, "%d of %d pods report expert set %s", have, len(seen), chosen.digest)
	}
	return nil
}
