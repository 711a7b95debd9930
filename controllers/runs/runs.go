// Package runs takes care of the Jobs of an object: one at a time, the one that
// its specification asks for.
package runs

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/warnings"
	"github.com/transformersquared/operator/runtime/contract"
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
	// Now is the time; nil means the clock's. Tests have another.
	Now func() time.Time
}

func (r Runner) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// Time is Now's, or the clock's.
func (r Runner) Time() time.Time { return r.now() }

// Ensure makes the run's Job and returns it with the pods that carry its
// labels. Jobs of other runs are deleted first, and the next begins only when
// none of their pods lives any more, because both would write to the same volume; until then
// the error is a *status.Waiting.
func (r Runner) Ensure(ctx context.Context, owner client.Object, selector client.MatchingLabels, run desired.Run) (*batchv1.Job, []corev1.Pod, error) {
	job := &batchv1.Job{}
	there, err := r.Applier.Look(ctx, client.ObjectKey{Namespace: owner.GetNamespace(), Name: run.JobName}, job)
	if err != nil {
		return nil, nil, err
	}
	reader := client.Reader(r.Client)
	if !there {
		// A Job is about to be made. The cache may not have seen the one that was
		// made a moment ago for what was asked then, nor that one's pods.
		reader = r.Live
	}
	jobs, pods, err := list(ctx, reader, owner, selector)
	if err != nil {
		return nil, nil, err
	}
	if err := r.endOthers(ctx, jobs, pods, run.JobName, there); err != nil {
		return nil, nil, err
	}
	if there && !apply.Owns(owner, job) {
		return nil, nil, apply.NameTaken(owner, "Job", job)
	}
	if run.Suspend && queued(run.Job.Labels) && !Finished(job) {
		return nil, nil, r.withdraw(ctx, job, there)
	}
	if !there {
		if err := r.make(ctx, owner, job, run); err != nil {
			return nil, nil, err
		}
	}
	if !job.DeletionTimestamp.IsZero() {
		return nil, nil, status.Wait(v1alpha1.ReasonPreviousRun, "Job %s is being deleted and will be made again", job.Name)
	}
	if err := r.hold(ctx, job, run.Suspend); err != nil {
		return nil, nil, err
	}
	return job, pods, nil
}

// Observe is outcome.Observe for a run's Job. The caches of Jobs and pods are
// not in step: a Job may be seen to be over before its pod is. Then the pods are
// read from the API server before anything is concluded. Where nothing goes on
// and neither Job nor pod says why, events do.
func (r Runner) Observe(ctx context.Context, job *batchv1.Job, pods []corev1.Pod, selector client.MatchingLabels, fields outcome.Fields) (outcome.Outcome, error) {
	out := outcome.Observe(job, pods, fields)
	switch {
	case out.Over() && !out.Seen:
		var list corev1.PodList
		if err := r.Live.List(ctx, &list, client.InNamespace(job.Namespace), selector); err != nil {
			return out, fmt.Errorf("listing pods: %w", err)
		}
		return outcome.Observe(job, list.Items, fields), nil
	case out.Waits != nil && r.now().Sub(out.Waits.GetCreationTimestamp().Time) > warnings.Patience:
		warning, err := warnings.Latest(ctx, r.Live, out.Waits)
		if err != nil {
			return out, err
		}
		if warning != nil {
			out.State, out.Reason = outcome.Blocked, warning.Reason
			out.Message = fmt.Sprintf("%s: %s", strings.TrimSuffix(out.Message, "."), warning.Message)
		}
	}
	return out, nil
}

// make makes a run's Job, and marks it with the versions of the Secrets whose credentials
// its pods show.
func (r Runner) make(ctx context.Context, owner client.Object, job *batchv1.Job, run desired.Run) error {
	if len(run.Secrets) > 0 {
		versions, err := r.secretVersions(ctx, owner.GetNamespace(), run.Secrets)
		if err != nil {
			return err
		}
		run.Job.WithAnnotations(map[string]string{v1alpha1.AnnotationSecretVersion: versions})
	}
	return r.Applier.Make(ctx, owner, job, run.Job)
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

// End deletes every Job of an object that carries these labels, as far as the cache has
// it: the event of another ends it, too.
func (r Runner) End(ctx context.Context, owner client.Object, selector client.MatchingLabels) error {
	jobs, _, err := list(ctx, r.Client, owner, selector)
	if err != nil {
		return err
	}
	for i := range jobs {
		if !jobs[i].DeletionTimestamp.IsZero() {
			continue
		}
		if err := r.delete(ctx, &jobs[i]); err != nil {
			return err
		}
	}
	return nil
}

// list finds the Jobs of an object and the pods that carry their labels.
func list(ctx context.Context, reader client.Reader, owner client.Object, selector client.MatchingLabels) ([]batchv1.Job, []corev1.Pod, error) {
	var jobs batchv1.JobList
	if err := reader.List(ctx, &jobs, client.InNamespace(owner.GetNamespace()), selector); err != nil {
		return nil, nil, fmt.Errorf("listing Jobs: %w", err)
	}
	own := jobs.Items[:0]
	for _, job := range jobs.Items {
		if metav1.IsControlledBy(&job, owner) {
			own = append(own, job)
		}
	}
	var pods corev1.PodList
	if err := reader.List(ctx, &pods, client.InNamespace(owner.GetNamespace()), selector); err != nil {
		return nil, nil, fmt.Errorf("listing pods: %w", err)
	}
	return own, pods.Items, nil
}

// endOthers deletes the Jobs but the current one, and waits until they and every
// pod that is not the current one's have ended. Where the current one is not there,
// a pod that goes on is of one that had its name.
func (r Runner) endOthers(ctx context.Context, jobs []batchv1.Job, pods []corev1.Pod, current string, there bool) error {
	var ending, lost string
	for i := range jobs {
		job := &jobs[i]
		if job.Name == current {
			continue
		}
		if !Finished(job) {
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
		if owner := metav1.GetControllerOf(pod); !over && (!there || owner == nil || owner.Name != current) {
			ending = "pod " + pod.Name
			lost = cmp.Or(lost, outcome.NodeLost(pod))
		}
	}
	switch {
	case ending == "":
		return nil
	case lost != "":
		return status.Wait(v1alpha1.ReasonNodeLost, "%s. Until then the next run does not begin, since both might write to the same volume", lost).Warn()
	}
	return status.Wait(v1alpha1.ReasonPreviousRun, "Waiting for %s of the previous run to end", ending)
}

// Finished reports whether a Job is over: what it wrote stays as it is.
func Finished(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// delete deletes a Job and, before it disappears, its pods.
func (r Runner) delete(ctx context.Context, job *batchv1.Job) error {
	return r.Applier.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationForeground))
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
	if out.Device != "" {
		record.Device = status.Clip(out.Device, maxDevice)
	}
	switch out.State {
	case outcome.Succeeded:
		record.Result = ResultSucceeded
	case outcome.Failed:
		record.Result = status.Clip(out.Reason, 64)
	}
	return record
}

// maxDevice bounds the name of a device in the status.
const maxDevice = 128

// maxRemembered is how many runs a status remembers.
const maxRemembered = 5

// ResultSuperseded is the result of a run that another one replaced.
const ResultSuperseded = "Superseded"

// Latest is the newest of the runs that a status remembers; nil without any.
func Latest(remembered []v1alpha1.RunStatus) *v1alpha1.RunStatus {
	if len(remembered) == 0 {
		return nil
	}
	return &remembered[0]
}

// IsLatest reports whether the newest of the runs that a status remembers is the one of this ID.
// Else what the status has of how far it is was another's.
func IsLatest(remembered []v1alpha1.RunStatus, id string) bool {
	latest := Latest(remembered)
	return latest != nil && latest.ID == id
}

// Remember returns the runs with a record first, and without the oldest.
func Remember(remembered []v1alpha1.RunStatus, record v1alpha1.RunStatus) []v1alpha1.RunStatus {
	list := []v1alpha1.RunStatus{record}
	for _, was := range remembered {
		if was.ID == record.ID || len(list) == maxRemembered {
			continue
		}
		if was.Result == "" {
			was.Result = ResultSuperseded
		}
		list = append(list, was)
	}
	return list
}

// Supersede ends the Job of the latest of the remembered runs, if that is another one than
// the run of this ID, whose result there is and is asked for again: nobody waits for what it
// would make. It reports whether there was one.
func (r Runner) Supersede(ctx context.Context, owner client.Object, selector client.MatchingLabels, remembered []v1alpha1.RunStatus, id string) (bool, error) {
	latest := Latest(remembered)
	if latest == nil || latest.ID == id || latest.Result != "" {
		return false, nil
	}
	if err := r.End(ctx, owner, selector); err != nil {
		return false, err
	}
	latest.Result = ResultSuperseded
	return true, nil
}

// Explain is the function of this name, and begins a run anew, after a pause that
// record counts, where what it failed for may pass by itself. A Job that has not
// begun is looked at again: no watch tells of what keeps it.
func (r Runner) Explain(ctx context.Context, job *batchv1.Job, out outcome.Outcome, record *v1alpha1.RunStatus, doing, describe string) error {
	if out.State == outcome.Failed {
		return r.failed(ctx, job, out, record)
	}
	err := Explain(job, out, doing, describe)
	if waiting, ok := err.(*status.Waiting); ok && out.Waits != nil { //nolint:errorlint // Explain returns it as it is.
		waiting.After = pause(r.now().Sub(job.CreationTimestamp.Time))
	}
	return err
}

// pause is how long to wait before a Job that has not begun is looked at again:
// the longer it has been waiting, the longer, within bounds.
func pause(age time.Duration) time.Duration {
	return min(max(age/4, PollInterval), time.Minute).Round(time.Second)
}

// Explain turns the outcome of a run that has not succeeded into the error
// that ends the reconciliation. doing is the reason while a pod runs, and
// describe says how far it is.
func Explain(job *batchv1.Job, out outcome.Outcome, doing, describe string) error {
	cause := status.Tidy(out.Message)
	switch out.State {
	case outcome.Failed:
		if out.GivenUp {
			cause += fmt.Sprintf(". Given up after %s", failedPods(out.Failures))
		}
		return status.Stall(out.Reason, "%s. Change the object, or delete Job %s to try once more as it is", cause, job.Name)
	case outcome.Retrying:
		if out.Failures == 0 {
			return status.Wait(out.Reason, "%s. Another pod goes on, and this is not counted as a failure", cause).Warn()
		}
		return status.Wait(out.Reason, "%s. Another pod tries again, after %s of at most %d",
			cause, failedPods(out.Failures), out.Allowed).Warn()
	case outcome.Blocked:
		return status.Wait(out.Reason, "%s", cause).Warn()
	case outcome.Suspended:
		return suspended(job)
	case outcome.Running:
		if out.Failures > 0 {
			describe += fmt.Sprintf(" (after %s)", failedPods(out.Failures))
		}
		return status.Wait(doing, "%s", describe).Again(pollAfter(out, time.Now()))
	default:
		return status.Wait(out.Reason, "%s", cause)
	}
}

// Silent is the error of a Job that ended well without a result that makes sense: what it
// did (made, found, pushed) is not known.
func Silent(job *batchv1.Job, did string) error {
	return status.Stall(contract.ReasonInternal,
		"Job %s succeeded without saying what it %s; is the runtime's image of another version than the operator?", job.Name, did)
}

func failedPods(n int32) string {
	if n == 1 {
		return "1 failed pod"
	}
	return fmt.Sprintf("%d failed pods", n)
}
