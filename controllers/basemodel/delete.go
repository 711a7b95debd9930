package basemodel

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/index"
	"github.com/transformersquared/operator/controllers/status"
)

// maxListed is the number of referring objects that the status lists.
const maxListed = 20

// release sees to the finalizer: a BaseModel that lives has it, and one that is
// deleted loses it (released is true) once nothing refers to it.
func (r *Reconciler) release(ctx context.Context, base *v1alpha1.BaseModel) (released bool, err error) {
	before := base.DeepCopy()
	if base.DeletionTimestamp.IsZero() {
		if !controllerutil.AddFinalizer(base, v1alpha1.FinalizerInUse) {
			return false, nil
		}
		return false, r.patchFinalizers(ctx, base, before)
	}
	users, err := r.users(ctx, base)
	if err != nil || len(users) > 0 {
		return false, err
	}
	if !controllerutil.ContainsFinalizer(base, v1alpha1.FinalizerInUse) {
		return true, nil
	}
	if err := r.dropClaim(ctx, base); err != nil {
		return false, err
	}
	controllerutil.RemoveFinalizer(base, v1alpha1.FinalizerInUse)
	return true, r.patchFinalizers(ctx, base, before)
}

func (r *Reconciler) patchFinalizers(ctx context.Context, base, before *v1alpha1.BaseModel) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, base, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("changing the finalizers: %w", err)
	}
	return nil
}

// references writes which objects use the model into its status.
func (r *Reconciler) references(ctx context.Context, base *v1alpha1.BaseModel) error {
	users, err := r.users(ctx, base)
	if err != nil {
		return err
	}
	base.Status.ReferencedBy = nil
	if len(users) > 0 {
		base.Status.ReferencedBy = &v1alpha1.ReferencedBy{
			Count: int32(len(users)), Objects: users[:min(len(users), maxListed)],
		}
	}
	return nil
}

// users are the objects that refer to the model, as Kind/name, sorted.
func (r *Reconciler) users(ctx context.Context, base *v1alpha1.BaseModel) ([]string, error) {
	byBase := []client.ListOption{
		client.InNamespace(base.Namespace), client.MatchingFields{index.ByBaseModel: base.Name},
		client.UnsafeDisableDeepCopy, // Only names are read.
	}
	var experts v1alpha1.ExpertVectorList
	if err := r.Client.List(ctx, &experts, byBase...); err != nil {
		return nil, fmt.Errorf("listing ExpertVectors: %w", err)
	}
	var policies v1alpha1.AdaptivePolicyList
	if err := r.Client.List(ctx, &policies, byBase...); err != nil {
		return nil, fmt.Errorf("listing AdaptivePolicies: %w", err)
	}
	users := make([]string, 0, len(experts.Items)+len(policies.Items))
	for i := range policies.Items {
		users = append(users, "AdaptivePolicy/"+policies.Items[i].Name)
	}
	for i := range experts.Items {
		users = append(users, "ExpertVector/"+experts.Items[i].Name)
	}
	slices.Sort(users)
	return users, nil
}

// inUse says what a deleted BaseModel waits for. Deleting one of the objects
// wakes it.
func inUse(base *v1alpha1.BaseModel) error {
	users := base.Status.ReferencedBy
	if users == nil {
		return status.Wait(v1alpha1.ReasonTerminating, "Being deleted")
	}
	list := strings.Join(users.Objects, ", ")
	if int(users.Count) > len(users.Objects) {
		list += fmt.Sprintf(" and %d more", int(users.Count)-len(users.Objects))
	}
	return status.Wait(v1alpha1.ReasonInUse,
		"It is deleted when nothing refers to it any more; delete first %s", list).Warn()
}
