package runs

import (
	"context"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// pauses are how long a failed run waits before it is begun anew: first, then
// twice as long each time, up to longest, and at most times in all.
type pauses struct {
	first, longest time.Duration
	times          int32
	// stalled says that somebody must act, though nothing here would tell that
	// they did.
	stalled bool
}

// A day of trying: 1, 2, 4, 8 and 16 minutes, then every half hour.
var passing = pauses{first: time.Minute, longest: 30 * time.Minute, times: 52}

// What is granted at a source is seen only by asking it.
var granted = pauses{first: 5 * time.Minute, longest: time.Hour, times: 1 << 20, stalled: true}

// retries are the reasons of failures that are tried again. Everything else
// needs somebody who changes something, which a watch tells.
var retries = map[string]pauses{
	contract.ReasonSourceUnreachable: passing,
	contract.ReasonSourceNotFound:    passing,
	contract.ReasonDiskFull:          passing,
	contract.ReasonDiskReadOnly:      passing,
	contract.ReasonInterrupted:       passing,
	contract.ReasonNoDevice:          passing,
	v1alpha1.ReasonEvicted:           passing,
	contract.ReasonUnauthorized:      granted,
}

// secretInterval is how often the Secret of a source that refused its token is
// looked at.
const secretInterval = time.Minute

// plan is when a failed run is begun anew.
type plan struct {
	pauses

	again bool
	at    time.Time
}

// planRetry decides about a run that failed for a reason at a time, after so
// many retries.
func planRetry(reason string, failed time.Time, done int32) plan {
	p, ok := retries[reason]
	if !ok || done >= p.times {
		return plan{pauses: p}
	}
	pause := p.longest
	if done < 16 { // The shift cannot overflow.
		pause = min(p.first<<done, p.longest)
	}
	return plan{pauses: p, again: true, at: failed.Add(pause)}
}

// failed explains a Job that failed, and deletes it where the time has come to
// begin anew; the next reconciliation makes it again.
func (r Runner) failed(ctx context.Context, job *batchv1.Job, out outcome.Outcome, record *v1alpha1.RunStatus) error {
	now, cause := r.now(), status.Tidy(out.Message)
	at := now
	if out.CompletionTime != nil {
		at = out.CompletionTime.Time
	}
	next := planRetry(out.Reason, at, ptr.Deref(record.Retries, 0))
	renewed, err := r.secretRenewed(ctx, job, out.Reason)
	if err != nil {
		return err
	}
	if renewed || (next.again && !now.Before(next.at)) {
		if err := r.delete(ctx, job); err != nil {
			return err
		}
		record.Retries = new(ptr.Deref(record.Retries, 0) + 1)
		return status.Wait(out.Reason, "%s. It is tried again now", cause).Warn()
	}
	switch {
	case next.again && next.stalled:
		stalled := status.Stall(out.Reason, "%s. Correct the Secret, which is noticed within a minute; it is tried again at %s anyway",
			cause, clock(next.at))
		stalled.After = min(secretInterval, next.at.Sub(now))
		return stalled
	case next.again:
		return status.Wait(out.Reason, "%s. It is tried again at %s", cause, clock(next.at)).Warn().Again(next.at.Sub(now))
	case next.times > 0:
		return status.Stall(out.Reason, "%s. It was tried %d times, for a day; delete Job %s to try once more as it is, or change the object",
			cause, ptr.Deref(record.Retries, 0)+1, job.Name)
	default:
		return Explain(job, out, "", "")
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// secretRenewed reports whether one of the Secrets with the credentials that a source
// refused is there, and another than when the Job was made.
func (r Runner) secretRenewed(ctx context.Context, job *batchv1.Job, reason string) (bool, error) {
	was := job.Annotations[v1alpha1.AnnotationSecretVersion]
	if was == "" || reason != contract.ReasonUnauthorized {
		return false, nil
	}
	for each := range strings.SplitSeq(was, ",") {
		name, before, _ := strings.Cut(each, "/")
		is, err := r.secretVersion(ctx, client.ObjectKey{Namespace: job.Namespace, Name: name})
		if err != nil || is != before && is != "" {
			return err == nil, err
		}
	}
	return false, nil
}

// secretVersions are the names and versions of Secrets, as AnnotationSecretVersion has
// them.
func (r Runner) secretVersions(ctx context.Context, namespace string, names []string) (string, error) {
	var all []string
	for _, name := range names {
		version, err := r.secretVersion(ctx, client.ObjectKey{Namespace: namespace, Name: name})
		if err != nil {
			return "", err
		}
		all = append(all, name+"/"+version)
	}
	return strings.Join(all, ","), nil
}

// secretVersion is the resource version of a Secret, empty where it is not
// there. Its content is not read.
func (r Runner) secretVersion(ctx context.Context, key client.ObjectKey) (string, error) {
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := r.Live.Get(ctx, key, meta)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the version of Secret %s: %w", key.Name, err)
	}
	return meta.ResourceVersion, nil
}
