// Package runs takes care of the Jobs of an object: one at a time, the one that
// its specification asks for.
package runs

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
)

// PollInterval is how often a running pod is asked for its progress.
const PollInterval = 5 * time.Second

// ResultSucceeded is the result of a run that succeeded.
const ResultSucceeded = v1alpha1.ReasonSucceeded

// Runner takes care of Jobs.
type Runner struct {
	// Client writes, and reads from the cache.
	Client client.Client
	// Live reads from the API server.
	Live    client.Reader
	Applier apply.Applier
}

// Ensure makes the run's Job and returns it with the pods that carry its
// labels. Jobs of other runs are deleted first, and the next begins only when
// none of their pods lives any more, because both would write to the same volume; until then,
// and until the new Job is in the cache, the error is a *status.Waiting.
func (r Runner) Ensure(ctx context.Context, owner client.Object, selector client.MatchingLabels, run desired.Run) (*batchv1.Job, []corev1.Pod, error) {
	jobs, pods, err := r.list(ctx, owner, selector)
	if err != nil {
		return nil, nil, err
	}
	if err := r.endOthers(ctx, jobs, pods, run.JobName); err != nil {
		return nil, nil, err
	}
	job := &batchv1.Job{}
	found, err := r.Applier.Apply(ctx, owner, job, run.Job)
	if err != nil {
		return nil, nil, err
	}
	if !found {
		return nil, nil, status.Wait(v1alpha1.ReasonProgressing, "Made Job %s for run %s", run.JobName, run.ID)
	}
	if !job.DeletionTimestamp.IsZero() {
		return nil, nil, status.Wait(v1alpha1.ReasonPreviousRun, "Job %s is being deleted and will be made again", job.Name)
	}
	// The Job read is as it was before it was applied; what it is asked to do
	// now counts.
	job.Spec.Suspend = run.Job.Spec.Suspend
	return job, pods, nil
}

// Observe is outcome.Observe for a run's Job. The caches of Jobs and pods are
// not in step: a Job may be seen to be over before its pod is. Then the pods are
// read from the API server before anything is concluded.
func (r Runner) Observe(ctx context.Context, job *batchv1.Job, pods []corev1.Pod, selector client.MatchingLabels, memoryField string) (outcome.Outcome, error) {
	out := outcome.Observe(job, pods, memoryField)
	if !out.Over() || out.Seen {
		return out, nil
	}
	var list corev1.PodList
	if err := r.Live.List(ctx, &list, client.InNamespace(job.Namespace), selector); err != nil {
		return out, fmt.Errorf("listing pods: %w", err)
	}
	return outcome.Observe(job, list.Items, memoryField), nil
}

// Again deletes a finished Job whose result cannot be read any more (its pod
// was deleted before the operator saw it), so that the next reconciliation runs
// it again; what it made is in the volume and found there.
func (r Runner) Again(ctx context.Context, job *batchv1.Job) error {
	if err := r.delete(ctx, job); err != nil {
		return err
	}
	return status.Wait(v1alpha1.ReasonProgressing,
		"The result of Job %s was lost with its pod; it runs once more and finds what it made", job.Name).Warn()
}

func (r Runner) list(ctx context.Context, owner client.Object, selector client.MatchingLabels) ([]batchv1.Job, []corev1.Pod, error) {
	var jobs batchv1.JobList
	if err := r.Client.List(ctx, &jobs, client.InNamespace(owner.GetNamespace()), selector); err != nil {
		return nil, nil, fmt.Errorf("listing Jobs: %w", err)
	}
	own := jobs.Items[:0]
	for _, job := range jobs.Items {
		if metav1.IsControlledBy(&job, owner) {
			own = append(own, job)
		}
	}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(owner.GetNamespace()), selector); err != nil {
		return nil, nil, fmt.Errorf("listing pods: %w", err)
	}
	return own, pods.Items, nil
}

func (r Runner) endOthers(ctx context.Context, jobs []batchv1.Job, pods []corev1.Pod, current string) error {
	var ending string
	for i := range jobs {
		job := &jobs[i]
		if job.Name == current {
			continue
		}
		if !finished(job) {
			ending = "Job " + job.Name
		}
		if job.DeletionTimestamp.IsZero() {
			if err := r.delete(ctx, job); err != nil {
				return err
			}
		}
	}
	for i := range pods {
		pod := &pods[i]
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if owner := metav1.GetControllerOf(pod); !over && (owner == nil || owner.Name != current) {
			ending = "pod " + pod.Name
		}
	}
	if ending == "" {
		return nil
	}
	return status.Wait(v1alpha1.ReasonPreviousRun, "Waiting for %s of the previous run to end", ending)
}

// finished reports whether a Job is over: what it wrote stays as it is.
func finished(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// delete deletes a Job and, before it disappears, its pods.
func (r Runner) delete(ctx context.Context, job *batchv1.Job) error {
	err := r.Client.Delete(ctx, job,
		client.PropagationPolicy(metav1.DeletePropagationForeground),
		client.Preconditions{UID: &job.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Job %s: %w", job.Name, err)
	}
	return nil
}

// Record is the status of a run, continued from what was known of it.
func Record(was *v1alpha1.RunStatus, run desired.Run, job *batchv1.Job, out outcome.Outcome) v1alpha1.RunStatus {
	record := v1alpha1.RunStatus{ID: run.ID, JobName: job.Name, StartTime: job.CreationTimestamp}
	if was != nil && was.ID == run.ID {
		record = *was.DeepCopy()
		record.JobName = job.Name
	}
	record.Result, record.CompletionTime = "", nil
	record.Failures = nil
	if out.Failures > 0 {
		record.Failures = new(out.Failures)
	}
	if out.CompletionTime != nil {
		record.CompletionTime = out.CompletionTime.DeepCopy()
	}
	switch out.State {
	case outcome.Succeeded:
		record.Result = ResultSucceeded
	case outcome.Failed:
		record.Result = status.Clip(out.Reason, 64)
	}
	return record
}

// Explain turns the outcome of a run that has not succeeded into the error
// that ends the reconciliation. doing is the reason while a pod runs, and
// describe says how far it is.
func Explain(job *batchv1.Job, out outcome.Outcome, doing, describe string) error {
	switch out.State {
	case outcome.Failed:
		return status.Stall(out.Reason, "%s. Then change the object, or delete Job %s to try once more as it is",
			out.Message, job.Name)
	case outcome.Retrying:
		return status.Wait(out.Reason, "%s. It is tried again (%d of %d failed pods)",
			out.Message, out.Failures, ptr.Deref(job.Spec.BackoffLimit, 0)+1).Warn()
	case outcome.Blocked:
		return status.Wait(out.Reason, "%s", out.Message).Warn()
	case outcome.Suspended:
		return status.Wait(v1alpha1.ReasonSuspended, "Suspended; set spec.training.suspend to false to go on")
	case outcome.Running:
		if out.Failures > 0 {
			describe += fmt.Sprintf(" (after %d failed pods)", out.Failures)
		}
		return status.Wait(doing, "%s", describe).Again(pollAfter(out, time.Now()))
	default:
		return status.Wait(out.Reason, "%s", out.Message)
	}
}
