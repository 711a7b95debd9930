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
		if err := r.Applier.Apply(ctx, base, claim, desired.Claim(base)); err != nil {
			return nil, err
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
	if err := usable(claim); err != nil {
		return nil, err
	}
	return claim, nil
}

// usable says why nothing can be done with a claim.
func usable(claim *corev1.PersistentVolumeClaim) error {
	switch {
	case claim.Status.Phase == corev1.ClaimLost:
		return status.Stall(v1alpha1.ReasonClaimLost,
			"PersistentVolumeClaim %s has lost its volume; delete the claim to begin with an empty one", claim.Name)
	case !claim.DeletionTimestamp.IsZero():
		return status.Wait(v1alpha1.ReasonTerminating, "PersistentVolumeClaim %s is being deleted", claim.Name)
	}
	return nil
}

// grown says that a claim which has a volume has not grown yet to what was asked
// for. One whose file system grows when a pod mounts it next has grown.
func grown(base *v1alpha1.BaseModel, claim *corev1.PersistentVolumeClaim) error {
	if base.Spec.Storage.ExistingClaim != "" {
		return nil
	}
	have, bound := claim.Status.Capacity[corev1.ResourceStorage]
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !bound || have.Cmp(want) >= 0 {
		return nil
	}
	for _, c := range claim.Status.Conditions {
		if c.Type == corev1.PersistentVolumeClaimFileSystemResizePending && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return status.Wait(v1alpha1.ReasonClaimResizing,
		"The model is there; PersistentVolumeClaim %s has %s and is to grow to %s", claim.Name, &have, &want)
}
