package runs

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

// holding is what to do with the suspension of a Job that is there.
type holding int

const (
	leave holding = iota
	suspend
	resume
)

// decideHold decides about a Job's suspension, which belongs to whoever set it:
// the operator takes back only its own. wanted is what the user's object asks
// for.
func decideHold(job *batchv1.Job, wanted bool) holding {
	is := ptr.Deref(job.Spec.Suspend, false)
	_, ours := job.Annotations[v1alpha1.AnnotationSuspended]
	switch {
	case Finished(job):
		return leave
	case wanted && !is:
		return suspend
	case !wanted && ours:
		return resume
	default:
		return leave
	}
}

// hold suspends a Job or takes the operator's own suspension back. The change
// is refused where the Job is not as it was read, and tried again.
func (r Runner) hold(ctx context.Context, job *batchv1.Job, wanted bool) error {
	before := job.DeepCopy()
	switch decideHold(job, wanted) {
	case suspend:
		job.Spec.Suspend = new(true)
		if job.Annotations == nil {
			job.Annotations = map[string]string{}
		}
		job.Annotations[v1alpha1.AnnotationSuspended] = "true"
	case resume:
		job.Spec.Suspend = new(false)
		delete(job.Annotations, v1alpha1.AnnotationSuspended)
	default:
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, job, patch); err != nil {
		return fmt.Errorf("changing the suspension of Job %s: %w", job.Name, err)
	}
	return nil
}

// suspended says who holds a Job.
func suspended(job *batchv1.Job) error {
	if _, ours := job.Annotations[v1alpha1.AnnotationSuspended]; ours {
		return heldByUser()
	}
	if queue := job.Labels[v1alpha1.LabelQueue]; queue != "" {
		return status.Wait(v1alpha1.ReasonSuspended,
			"Queue %s holds Job %s; it goes on, from its last checkpoint, when the queue admits it", queue, job.Name)
	}
	return status.Wait(v1alpha1.ReasonSuspended,
		"Somebody else suspended Job %s; it goes on, from its last checkpoint, when its spec.suspend is false again", job.Name)
}

func heldByUser() error {
	return status.Wait(v1alpha1.ReasonSuspended, "Suspended; set spec.training.suspend to false to go on")
}

// queued reports whether a queue admits a Job with these labels.
func queued(labels map[string]string) bool { return labels[v1alpha1.LabelQueue] != "" }

// withdraw takes a run out of its queue while its user holds it: a queue undoes
// the suspension of a Job that it has admitted, and a Job that is gone takes no
// quota. Its pod leaves a checkpoint, from which the next Job goes on.
func (r Runner) withdraw(ctx context.Context, job *batchv1.Job, there bool) error {
	if there && job.DeletionTimestamp.IsZero() {
		if err := r.delete(ctx, job); err != nil {
			return err
		}
	}
	return heldByUser()
}
