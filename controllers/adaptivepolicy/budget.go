package adaptivepolicy

import (
	"context"
	"fmt"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
)

// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete

// budget applies the PodDisruptionBudget of a policy, or deletes it where none is asked
// for: the eviction API refuses a pod that two of them select. Somebody else's of that
// name is a problem to be told, and keeps no pod from serving.
func (r *Reconciler) budget(ctx context.Context, policy *v1alpha1.AdaptivePolicy) error {
	if desired.WantsBudget(policy) {
		return r.Applier.Apply(ctx, policy, &policyv1.PodDisruptionBudget{}, desired.Budget(policy))
	}
	// From the cache alone, which has the operator's own: one that it does not know yet
	// brings the policy here again.
	var live policyv1.PodDisruptionBudget
	err := r.Client.Get(ctx, client.ObjectKeyFromObject(policy), &live)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading PodDisruptionBudget %s: %w", policy.Name, err)
	}
	if err != nil || !metav1.IsControlledBy(&live, policy) || !live.DeletionTimestamp.IsZero() {
		return nil
	}
	return r.Applier.Delete(ctx, &live)
}
