package adaptivepolicy

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

// answer is what a policy's pods serve now.
type answer struct {
	seen []observation
	// off says that no pod is asked for.
	off bool
	// expected is the digest of the expert set that they should have; empty where
	// it is not known.
	expected string
	// with says in words what answers where they have it: not all that the policy asks
	// for may be in that set yet.
	with string
}

// observe looks at what a policy's pods serve, and offers them nothing: where
// nothing can be concluded of what they should serve, it is still true that they
// answer, or do not.
func (r *Reconciler) observe(ctx context.Context, policy *v1alpha1.AdaptivePolicy) error {
	var live appsv1.Deployment
	found, err := r.Applier.Look(ctx, client.ObjectKeyFromObject(policy), &live)
	if err != nil {
		return err
	}
	a := answer{expected: string(policy.Status.ExpertSetDigest)}
	if found && metav1.IsControlledBy(&live, policy) {
		if live.Spec.Template.Annotations[v1alpha1.AnnotationAdminScheme] != "" {
			if err := r.recallTrust(ctx, policy); err != nil {
				return err
			}
		}
		// A deployment without a run: no pod is current, and none is offered a set.
		if a.seen, err = r.converge(ctx, policy, deployment{object: &live}, choice{}); err != nil {
			return err
		}
		a.off = deployment{object: &live}.want() == 0
		for i := range a.seen {
			a.seen[i].current = a.seen[i].pod.Labels[v1alpha1.LabelRun] == live.Spec.Template.Labels[v1alpha1.LabelRun]
		}
		setReplicas(policy, &live)
		policy.Status.PodCounts, policy.Status.Pods = podStatuses(choice{digest: a.expected}, a.seen)
		policy.Status.Devices = devices(a.seen)
	}
	markLost(policy.Status.Experts, a.seen)
	markClassifierLost(policy, a.seen)
	setAvailable(policy, a)
	return nil
}

// setAvailable writes the condition Available.
func setAvailable(policy *v1alpha1.AdaptivePolicy, a answer) {
	was := meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionAvailable)
	a.with = answersWith(policy)
	holds, reason, message := available(a, was)
	status.Set(policy, v1alpha1.ConditionAvailable, holds, reason, message)
}

// answersWith says in words what answers where pods serve what they should, by what the
// status says of the experts.
func answersWith(policy *v1alpha1.AdaptivePolicy) string {
	s := &policy.Status
	if before := heldBefore(s); before != nil {
		return fmt.Sprintf("by the set before, of %d experts, until what the policy asks for may serve", len(before.Experts))
	}
	served := 0
	for _, e := range s.Experts {
		if e.Digest != "" && e.State != v1alpha1.ExpertLost && e.State != v1alpha1.ExpertRefused {
			served++
		}
	}
	searched := policy.Spec.Strategy.Type == v1alpha1.StrategyFewShot
	switch all := len(s.Experts); {
	case served == 0:
		return fmt.Sprintf("by the base weights: none of the experts (%d) can be served", all)
	case searched && (s.FewShot == nil || len(s.FewShot.Weights) == 0):
		return "by the base weights: those of the experts have yet to be found"
	case served < all:
		return fmt.Sprintf("with %d of %d experts", served, all)
	case s.Classifier != nil && s.Classifier.Digest == "":
		return "with the expected experts, but without a classifier: pass 1 runs with the base weights"
	}
	if policy.Spec.Strategy.Type == v1alpha1.StrategyProbe && (s.Probe == nil || s.Probe.State == "") {
		return "with the expected experts, but without a probe: the base is asked which skill a request wants"
	}
	return "with the expected experts"
}

// heldBefore is the set that serves while a rollout holds experts back; nil where none is held,
// or none was before. The policy's own list does not have all of its experts.
func heldBefore(s *v1alpha1.AdaptivePolicyStatus) *v1alpha1.RolloutSet {
	if s.Rollout == nil || !slices.ContainsFunc(s.Experts, func(e v1alpha1.PolicyExpertStatus) bool { return e.State == v1alpha1.ExpertHeld }) {
		return nil
	}
	return s.Rollout.Stable
}

// available says whether requests are answered now. A pod that is ready but was
// not to be asked answers if it did before (was): the kubelet asks it too, and
// takes readiness away where it is wrong.
func available(a answer, was bool) (holds bool, reason, message string) {
	var answering, told, expected, partly int32
	for _, o := range a.seen {
		asked := o.trouble == "" || o.refused
		if !podReady(o.pod) || (asked && o.status.ExpertSetDigest == "") || (!asked && !was) {
			continue
		}
		answering++
		if asked {
			told++
		}
		if asked && o.status.ExpertSetDigest == a.expected {
			expected++
		}
		if o.failure != nil {
			partly++
		}
	}
	switch total := int32(len(a.seen)); {
	case answering == 0 && total == 0 && a.off:
		return false, v1alpha1.ReasonScaledToZero, "No replica is asked for (spec.serving.replicas is 0)"
	case answering == 0 && total == 0:
		return false, v1alpha1.ReasonNoPodAnswers, "There is no pod yet"
	case answering == 0:
		return false, v1alpha1.ReasonNoPodAnswers, "None of " + countPods(total) + " is ready and has loaded experts"
	case told == 0:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, though no pod can be asked with which experts"
	case expected == answering:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, " + a.with
	case expected == told:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, " + a.with + ", by those pods that can be asked"
	case partly == answering:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, without all of the expected experts"
	case partly > 0:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, by some pods without all of the expected experts"
	case expected > 0:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, by some pods with the experts from before"
	default:
		return true, v1alpha1.ReasonAnswering, "Requests are answered, with the experts from before"
	}
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
