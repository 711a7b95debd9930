package runs

import (
	"context"
	"errors"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/status"
)

func held(suspended, ours bool, labels map[string]string) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "math-1", Namespace: "demo", Labels: labels}}
	job.Spec.Suspend = new(suspended)
	if ours {
		job.Annotations = map[string]string{v1alpha1.AnnotationSuspended: "true"}
	}
	return job
}

func TestSuspensionBelongsToWhoeverSetIt(t *testing.T) {
	over := held(false, false, nil)
	over.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	for _, tc := range []struct {
		name   string
		job    *batchv1.Job
		wanted bool
		want   holding
	}{
		{"nobody wants it held", held(false, false, nil), false, leave},
		{"the user holds it", held(false, false, nil), true, suspend},
		{"it is held already", held(true, true, nil), true, leave},
		{"the user lets it go on", held(true, true, nil), false, resume},
		{"a queue holds it", held(true, false, nil), false, leave},
		{"a queue and the user hold it", held(true, false, nil), true, leave},
		{"somebody else took the operator's suspension back", held(false, true, nil), true, suspend},
		{"somebody else resumed it, and the user lets it", held(false, true, nil), false, resume},
		{"it is over", over, true, leave},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := decideHold(tc.job, tc.wanted); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestASuspendedJobSaysWhoHoldsIt(t *testing.T) {
	queue := map[string]string{v1alpha1.LabelQueue: "gpus"}
	for _, tc := range []struct {
		name string
		job  *batchv1.Job
		want string
	}{
		{"the user", held(true, true, nil), "spec.training.suspend to false"},
		{"a queue", held(true, false, queue), "Queue gpus holds Job math-1"},
		{"somebody else", held(true, false, nil), "Somebody else suspended Job math-1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var waiting *status.Waiting
			err := suspended(tc.job)
			if !errors.As(err, &waiting) || waiting.Reason != v1alpha1.ReasonSuspended || !strings.Contains(waiting.Message, tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A queue would take a Job up again that its user holds: it is withdrawn, once,
// and made again when the user lets it go on. A Job that is over has a result.
func TestAQueuedRunIsWithdrawnWhileItsUserHoldsIt(t *testing.T) {
	in := func(name string, change ...func(*batchv1.Job)) *batchv1.Job {
		return job(name, append(change, func(j *batchv1.Job) {
			j.Labels = map[string]string{"expert": "math", v1alpha1.LabelQueue: "gpus"}
		})...)
	}
	ending := func(j *batchv1.Job) {
		j.DeletionTimestamp, j.Finalizers = new(metav1.Now()), []string{"foregroundDeletion"}
	}
	for _, tc := range []struct {
		name    string
		there   []client.Object
		suspend bool
		// held says that the user is told so; jobs and deletions what becomes of
		// the Job.
		held            bool
		jobs, deletions int
	}{
		{name: "there is no Job yet", suspend: true, held: true},
		{name: "a Job goes on", there: []client.Object{in("new")}, suspend: true, held: true, deletions: 1},
		{name: "a Job is being deleted", there: []client.Object{in("new", ending)}, suspend: true, held: true, jobs: 1},
		{name: "a Job is over", there: []client.Object{in("new", over)}, suspend: true, jobs: 1},
		{name: "the user lets it go on", jobs: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, server := runner(t, tc.there, tc.there)
			counted := &deletions{Client: r.Client}
			r.Client, r.Applier = counted, apply.New(counted, server)
			run := wanted("new")
			run.Suspend = tc.suspend
			run.Job.WithLabels(map[string]string{v1alpha1.LabelQueue: "gpus"})
			for range 3 {
				_, _, err := r.Ensure(t.Context(), owner, selector, run)
				var waiting *status.Waiting
				held := errors.As(err, &waiting) && strings.Contains(waiting.Message, "spec.training.suspend")
				if held != tc.held || (err != nil && !held) {
					t.Fatalf("held: %v, want %v: %v", held, tc.held, err)
				}
			}
			var list batchv1.JobList
			if err := server.List(t.Context(), &list); err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != tc.jobs || counted.n != tc.deletions {
				t.Errorf("%d Jobs after %d deletions, want %d after %d", len(list.Items), counted.n, tc.jobs, tc.deletions)
			}
		})
	}
}

// deletions counts what is deleted.
type deletions struct {
	client.Client
	n int
}

func (d *deletions) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	d.n++
	return d.Client.Delete(ctx, o, opts...)
}
