package desired

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	policyac "k8s.io/client-go/applyconfigurations/policy/v1"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
)

const (
	// defaultDrainSeconds is what the runtime takes for requests in flight unless it is
	// told otherwise (server.DefaultGrace).
	defaultDrainSeconds = 25
	// tellSeconds is what it has beside them: clients whose requests it ends are told.
	tellSeconds = 5
)

// endSeconds is what a serving pod has from the word to end until it is killed: the pause
// in which it disappears from the Service, the time for requests in flight, and the time
// to tell clients that theirs ended.
func endSeconds(policy *v1alpha1.AdaptivePolicy) int64 {
	return pauseSeconds + int64(ptr.Deref(policy.Spec.Serving.DrainSeconds, defaultDrainSeconds)) + tellSeconds
}

// spread puts the pods of one version of a policy on different nodes, where there are some,
// unless a podTemplate says how they are spread. What a volume allows comes first: pods of
// a volume that one node can mount are all there.
func (p *podBuilder) spread(policy *v1alpha1.AdaptivePolicy) {
	shape := p.template.Spec
	if len(shape.TopologySpreadConstraints) > 0 {
		return
	}
	shape.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: PolicySelector(policy)},
		// Pods of the version before are on their way out.
		MatchLabelKeys: []string{appsv1.DefaultDeploymentUniqueLabelKey},
	}}
}

// WantsBudget reports whether the operator makes a PodDisruptionBudget for a policy.
func WantsBudget(policy *v1alpha1.AdaptivePolicy) bool {
	d := policy.Spec.Serving.Disruption
	return d == nil || d.Budget != v1alpha1.BudgetNone
}

// Budget bounds how many pods of a policy are evicted at a time. It is there for one
// replica too, which it lets go: so that it need not come and go with their number.
// Pods that are not ready never hold up a node.
func Budget(policy *v1alpha1.AdaptivePolicy) *policyac.PodDisruptionBudgetApplyConfiguration {
	most := int32(1)
	if d := policy.Spec.Serving.Disruption; d != nil {
		most = ptr.Deref(d.MaxUnavailable, most)
	}
	return policyac.PodDisruptionBudget(policy.Name, policy.Namespace).
		WithLabels(policyLabels(policy)).
		WithOwnerReferences(controlledBy("AdaptivePolicy", policy)).
		WithSpec(policyac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(most)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(metaac.LabelSelector().WithMatchLabels(PolicySelector(policy))))
}
