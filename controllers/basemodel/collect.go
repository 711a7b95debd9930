package basemodel

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// DefaultCollectPause is how long after a run, and after another collection, a volume is
// collected: things change together, and each collection is a pod.
const DefaultCollectPause = 10 * time.Minute

// failedPauses is how many pauses there are after a collection that failed.
const failedPauses = 6

// news is an event that is recorded once the status is written.
type news struct {
	warning         bool
	reason, message string
}

// collect sees to the Job that removes from the volume what nothing refers to any more,
// and writes what it found into the status. It says nothing of whether the model is there,
// which stays as it is. after is when there is something to do next.
func (r *Reconciler) collect(ctx context.Context, base *v1alpha1.BaseModel) (after time.Duration, told *news, err error) {
	if !desired.Collects(base) {
		base.Status.Storage = nil
		return 0, nil, nil
	}
	job, err := r.collecting(ctx, r.Client, base)
	if err != nil {
		return 0, nil, err
	}
	if job != nil && !runs.Finished(job) {
		return 0, nil, nil // Its end wakes us, and there is one always.
	}
	if job != nil && (base.Status.Storage == nil || base.Status.Storage.JobName != job.Name) {
		if told, err = r.collected(ctx, base, job); err != nil {
			return 0, nil, err
		}
	}
	if left := r.collectAt(base).Sub(r.Runner.Time()); left > 0 {
		return left, told, nil
	}
	keep, err := references(ctx, r.Client, base.Namespace)
	if err != nil {
		return 0, told, err
	}
	id, err := desired.CollectID(base, keep)
	if err != nil {
		return 0, told, err
	}
	if s := base.Status.Storage; s != nil && s.InUseHash == id && s.Message == "" {
		return 0, told, nil
	}
	if len(keep) > desired.MaxKept {
		tooMany(base, id, len(keep), metav1.NewTime(r.Runner.Time()).Rfc3339Copy())
		return 0, told, nil
	}
	return 0, told, r.startCollection(ctx, base, keep)
}

// collectAt is when the volume may be collected next.
func (r *Reconciler) collectAt(base *v1alpha1.BaseModel) time.Time {
	pause := cmp.Or(r.CollectPause, DefaultCollectPause)
	var at time.Time
	if latest := runs.Latest(base.Status.Runs); latest != nil && latest.CompletionTime != nil {
		at = latest.CompletionTime.Add(pause)
	}
	if s := base.Status.Storage; s != nil && s.CollectionTime != nil {
		next := s.CollectionTime.Add(pause)
		if s.Message != "" {
			next = s.CollectionTime.Add(failedPauses * pause)
		}
		if next.After(at) {
			at = next
		}
	}
	return at
}

// collecting finds the newest Job that collects the volume; nil where there is none.
func (r *Reconciler) collecting(ctx context.Context, reader client.Reader, base *v1alpha1.BaseModel) (*batchv1.Job, error) {
	var jobs batchv1.JobList
	if err := reader.List(ctx, &jobs, client.InNamespace(base.Namespace), client.MatchingLabels(desired.CollectSelector(base))); err != nil {
		return nil, fmt.Errorf("listing Jobs: %w", err)
	}
	jobs.Items = slices.DeleteFunc(jobs.Items, func(job batchv1.Job) bool { return !metav1.IsControlledBy(&job, base) })
	if len(jobs.Items) == 0 {
		return nil, nil //nolint:nilnil // There is none.
	}
	newest := slices.MaxFunc(jobs.Items, func(a, b batchv1.Job) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return &newest, nil
}

// startCollection makes the Job, after the one before is gone. The cache may not have the
// one that was made a moment ago.
func (r *Reconciler) startCollection(ctx context.Context, base *v1alpha1.BaseModel, keep []string) error {
	before, err := r.collecting(ctx, r.Runner.Live, base)
	if err != nil {
		return err
	}
	if before != nil {
		if !runs.Finished(before) || !before.DeletionTimestamp.IsZero() {
			return nil
		}
		return r.Applier.Delete(ctx, before, client.PropagationPolicy(metav1.DeletePropagationForeground)) // Its end wakes us.
	}
	run, err := desired.Collect(base, keep, r.Runner.Time(), r.Settings)
	if err != nil {
		return err
	}
	return r.Applier.Make(ctx, base, &batchv1.Job{}, run.Job)
}

// collected writes what a Job that is over found into the status.
func (r *Reconciler) collected(ctx context.Context, base *v1alpha1.BaseModel, job *batchv1.Job) (*news, error) {
	var pods corev1.PodList
	selector := client.MatchingLabels(desired.CollectSelector(base))
	if err := r.Client.List(ctx, &pods, client.InNamespace(base.Namespace), selector); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	out, err := r.Runner.Observe(ctx, job, pods.Items, selector, fields)
	if err != nil {
		return nil, err
	}
	at := metav1.NewTime(r.Runner.Time()).Rfc3339Copy()
	if out.CompletionTime != nil {
		at = *out.CompletionTime
	}
	return acceptCollection(base, job, out, at), nil
}

// acceptCollection writes what came of a collection into the status, and returns what
// there is to tell of it.
func acceptCollection(base *v1alpha1.BaseModel, job *batchv1.Job, out outcome.Outcome, at metav1.Time) *news {
	now := &v1alpha1.StorageStatus{}
	if was := base.Status.Storage; was != nil {
		now = was.DeepCopy()
	}
	base.Status.Storage = now
	now.JobName, now.CollectionTime, now.InUseHash, now.Message = job.Name, &at, job.Labels[v1alpha1.LabelRun], ""
	result := out.Results[desired.ContainerCollect].Collect
	if out.State != outcome.Succeeded || result == nil {
		now.Message = status.Clip(cmp.Or(status.Tidy(out.Message), "Job "+job.Name+" did not say what it found"), maxMessage)
		return &news{true, v1alpha1.ReasonCollectionFailed, "The volume was not collected, which is tried again: " + now.Message}
	}
	used := int64(0)
	now.Kinds = nil
	for _, u := range result.Usage {
		used += max(u.SizeBytes, 0)
		now.Kinds = append(now.Kinds, v1alpha1.StorageKind{
			Kind: status.Clip(u.Kind, 32), Count: new(int32(max(u.Count, 0))), SizeBytes: new(max(u.SizeBytes, 0)),
		})
	}
	now.UsedBytes, now.CapacityBytes = new(used), new(max(result.CapacityBytes, 0))
	now.Removed, now.FreedBytes = new(int32(max(result.Removed, 0))), new(max(result.FreedBytes, 0))
	now.Summary = readable(used) + " of " + readable(max(result.CapacityBytes, 0))
	if result.Removed == 0 {
		return nil
	}
	return &news{false, v1alpha1.ReasonCollected, fmt.Sprintf("Removed from PersistentVolumeClaim %s what nothing refers to: %d artifacts and runs, %s",
		desired.ClaimName(base), result.Removed, readable(result.FreedBytes))}
}

// maxMessage bounds why a collection failed, as the schema does.
const maxMessage = 1024

// tooMany says that more is referred to than a collection can be told.
func tooMany(base *v1alpha1.BaseModel, id string, n int, at metav1.Time) {
	if base.Status.Storage == nil {
		base.Status.Storage = &v1alpha1.StorageStatus{}
	}
	s := base.Status.Storage
	s.InUseHash, s.CollectionTime = id, &at
	s.Message = fmt.Sprintf("%d things are referred to, and a collection takes %d: nothing is removed", n, desired.MaxKept)
}

// readable is a size with three digits and a binary unit, as people write quantities.
func readable(bytes int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}
	value, unit := float64(bytes), 0
	for value >= 1000 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit == 0 || value >= 100 {
		return fmt.Sprintf("%.0f%s", value, units[unit])
	}
	return fmt.Sprintf("%.3g%s", value, units[unit])
}
