package basemodel

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
)

// volume makes the model's claim, or finds the one that its user made.
func (r *Reconciler) volume(ctx context.Context, base *v1alpha1.BaseModel) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if base.Spec.Storage.ExistingClaim == "" {
		found, err := r.Applier.Apply(ctx, base, claim, desired.Claim(base))
		if err != nil {
			return nil, err
		}
		if !found {
			claim.Name = desired.ClaimName(base)
			claim.Status.Phase = corev1.ClaimPending
		}
	} else {
		key := client.ObjectKey{Namespace: base.Namespace, Name: base.Spec.Storage.ExistingClaim}
		err := r.Client.Get(ctx, key, claim)
		if apierrors.IsNotFound(err) {
			return nil, status.Wait(v1alpha1.ReasonClaimNotFound,
				"PersistentVolumeClaim %s (spec.storage.existingClaim) is not there; make it", key.Name).Warn()
		}
		if err != nil {
			return nil, fmt.Errorf("reading PersistentVolumeClaim %s: %w", key.Name, err)
		}
	}
	switch {
	case claim.Status.Phase == corev1.ClaimLost:
		return nil, status.Stall(v1alpha1.ReasonClaimLost,
			"PersistentVolumeClaim %s has lost its volume; delete the claim to begin with an empty one", claim.Name)
	case !claim.DeletionTimestamp.IsZero():
		return nil, status.Wait(v1alpha1.ReasonTerminating, "PersistentVolumeClaim %s is being deleted", claim.Name)
	}
	return claim, nil
}
