package expertvector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
)

// base finds the BaseModel and makes sure that it has been decomposed once.
func (r *Reconciler) base(ctx context.Context, expert *v1alpha1.ExpertVector) (*v1alpha1.BaseModel, error) {
	base := &v1alpha1.BaseModel{}
	key := client.ObjectKey{Namespace: expert.Namespace, Name: expert.Spec.BaseModelRef.Name}
	err := r.Client.Get(ctx, key, base)
	if apierrors.IsNotFound(err) {
		return nil, status.Wait(v1alpha1.ReasonBaseNotFound,
			"BaseModel %s (spec.baseModelRef) is not there; make it", key.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading BaseModel %s: %w", key.Name, err)
	}
	if base.Status.Artifact == nil || base.Status.Decomposition == nil {
		return nil, notReady(base)
	}
	return base, nil
}

func notReady(base *v1alpha1.BaseModel) error {
	return status.Wait(v1alpha1.ReasonBaseNotReady, "Waiting for BaseModel %s to be decomposed: %s",
		base.Name, status.Explain(base))
}

// startable says why a run cannot begin now: an expert is made only for a base
// that stays as it is, and only for modules that it decomposes.
func startable(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel) error {
	if !base.DeletionTimestamp.IsZero() {
		return status.Wait(v1alpha1.ReasonBaseTerminating, "BaseModel %s is being deleted", base.Name).Warn()
	}
	if !status.Holds(base, v1alpha1.ConditionDecomposed) {
		return notReady(base)
	}
	if expert.Spec.Training == nil {
		return nil
	}
	var missing []string
	for _, module := range expert.Spec.Training.Modules {
		if !slices.Contains(desired.Modules(base), module) {
			missing = append(missing, string(module))
		}
	}
	if len(missing) > 0 {
		return status.Stall(v1alpha1.ReasonModulesNotDecomposed,
			"spec.training.modules asks for %s, which BaseModel %s does not decompose; take them out, or add them to its spec.decomposition.modules",
			strings.Join(missing, ", "), base.Name)
	}
	return nil
}
