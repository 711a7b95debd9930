package basemodel

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
)

// volume makes the model's claim, or finds the one that its user made. problem
// is what keeps the claim from being as it is asked for while it can be used.
func (r *Reconciler) volume(ctx context.Context, base *v1alpha1.BaseModel) (claim *corev1.PersistentVolumeClaim, problem, err error) {
	if base.Spec.Storage.ExistingClaim == "" {
		claim, problem, err = r.ownClaim(ctx, base)
	} else {
		claim, err = r.existingClaim(ctx, base)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := usable(claim); err != nil {
		return nil, nil, err
	}
	return claim, problem, nil
}

// ownClaim makes the claim or changes it. A size that it cannot have is a
// problem of the size, not of the model.
func (r *Reconciler) ownClaim(ctx context.Context, base *v1alpha1.BaseModel) (claim *corev1.PersistentVolumeClaim, problem, err error) {
	claim = &corev1.PersistentVolumeClaim{}
	err = r.Applier.Apply(ctx, base, claim, desired.Claim(base))
	if err != nil && claim.UID != "" && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) {
		return claim, notResized(base, claim, err), nil
	}
	if err != nil {
		return nil, nil, err
	}
	return claim, nil, nil
}

func (r *Reconciler) existingClaim(ctx context.Context, base *v1alpha1.BaseModel) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	key := client.ObjectKey{Namespace: base.Namespace, Name: base.Spec.Storage.ExistingClaim}
	err := r.Client.Get(ctx, key, claim)
	if apierrors.IsNotFound(err) {
		return nil, status.Wait(v1alpha1.ReasonClaimNotFound,
			"PersistentVolumeClaim %s (spec.storage.existingClaim) is not there; make it", key.Name).Warn()
	}
	if err != nil {
		return nil, fmt.Errorf("reading PersistentVolumeClaim %s: %w", key.Name, err)
	}
	return claim, nil
}

// resizeRetry is when a size that was refused is asked for again: a storage
// class may have been changed, of which no watch tells.
const resizeRetry = 5 * time.Minute

// notResized says that a claim cannot have the size that is asked for, which
// size it has, and what to do.
func notResized(base *v1alpha1.BaseModel, claim *corev1.PersistentVolumeClaim, refusal error) error {
	has := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	wants := desired.ClaimSize(base)
	var stalled *status.Stalled
	switch wants.Cmp(has) {
	case 1:
		stalled = status.Stall(v1alpha1.ReasonClaimSize,
			"PersistentVolumeClaim %s has %s and cannot grow to %s; allow its storage class to expand volumes, or set spec.storage.size back to %s. It is usable as it is: %s",
			claim.Name, &has, &wants, &has, status.Refusal(refusal))
	case -1:
		stalled = status.Stall(v1alpha1.ReasonClaimSize,
			"PersistentVolumeClaim %s has %s and cannot shrink to %s; set spec.storage.size to %s. It is usable as it is",
			claim.Name, &has, &wants, &has)
	default:
		stalled = status.Stall(v1alpha1.ReasonRejected,
			"PersistentVolumeClaim %s cannot be changed; set spec.storage back to what it was. It is usable as it is: %s", claim.Name, status.Refusal(refusal))
	}
	stalled.After = resizeRetry
	return stalled
}

// dropClaim deletes the claim that was made for a BaseModel, once nothing uses
// it; one that is somebody else's, or a user's own, is left alone.
func (r *Reconciler) dropClaim(ctx context.Context, base *v1alpha1.BaseModel) error {
	if base.Spec.Storage.ExistingClaim != "" {
		return nil
	}
	claim := &corev1.PersistentVolumeClaim{}
	key := client.ObjectKey{Namespace: base.Namespace, Name: desired.ClaimName(base)}
	err := r.Client.Get(ctx, key, claim)
	if apierrors.IsNotFound(err) || (err == nil && (!apply.Owns(base, claim) || !claim.DeletionTimestamp.IsZero())) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading PersistentVolumeClaim %s: %w", key.Name, err)
	}
	if err := r.Client.Delete(ctx, claim, client.Preconditions{UID: &claim.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting PersistentVolumeClaim %s: %w", key.Name, err)
	}
	return nil
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
