package runs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

var noon = metav1.NewTime(time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC))

func TestWhatPassesByItselfIsTriedForADayWithGrowingPauses(t *testing.T) {
	var all time.Duration
	last := time.Duration(0)
	for done := range passing.times {
		p := planRetry(contract.ReasonSourceUnreachable, noon.Time, done)
		pause := p.at.Sub(noon.Time)
		if !p.again || pause < last || pause < passing.first || pause > passing.longest {
			t.Fatalf("after %d retries: %+v, a pause of %v after one of %v", done, p, pause, last)
		}
		last = pause
		all += pause
	}
	if all < 24*time.Hour || all > 25*time.Hour {
		t.Errorf("all pauses are %v, want a day", all)
	}
	if p := planRetry(contract.ReasonSourceUnreachable, noon.Time, passing.times); p.again {
		t.Errorf("it is never given up: %+v", p)
	}
}

func TestWhichFailuresAreTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		reason         string
		again, stalled bool
	}{
		{contract.ReasonSourceUnreachable, true, false},
		{contract.ReasonSourceNotFound, true, false},
		{contract.ReasonDiskFull, true, false},
		{contract.ReasonDiskReadOnly, true, false},
		{v1alpha1.ReasonEvicted, true, false},
		{contract.ReasonNoDevice, true, false},
		{contract.ReasonDeviceMemory, false, false},
		{contract.ReasonDeviceUnsupported, false, false},
		{contract.ReasonUnauthorized, true, true},
		{contract.ReasonDigestMismatch, false, false},
		{contract.ReasonInvalidDataset, false, false},
		{contract.ReasonDiverged, false, false},
		{v1alpha1.ReasonOOMKilled, false, false},
		{v1alpha1.ReasonCrashed, false, false},
	} {
		if p := planRetry(tc.reason, noon.Time, 0); p.again != tc.again || p.stalled != tc.stalled {
			t.Errorf("%s: %+v", tc.reason, p)
		}
	}
}

// failedJob is a Job whose pod a source refused, or could not reach, at noon.
func failedJob(annotations map[string]string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "tiny-1", Namespace: "demo", UID: "job", Annotations: annotations}}
}

func timed(t *testing.T, now time.Time, objects ...client.Object) Runner {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	return Runner{Client: c, Live: c, Applier: apply.New(c, c), Now: func() time.Time { return now }}
}

func exists(t *testing.T, r Runner, job *batchv1.Job) bool {
	t.Helper()
	err := r.Client.Get(context.WithoutCancel(t.Context()), client.ObjectKeyFromObject(job), &batchv1.Job{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestAFailedRunIsBegunAnew(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hub", Namespace: "demo", ResourceVersion: "7"}}
	same := map[string]string{v1alpha1.AnnotationSecretVersion: "absent/,hub/7"}
	other := map[string]string{v1alpha1.AnnotationSecretVersion: "absent/,hub/6"}
	for _, tc := range []struct {
		name        string
		reason      string
		annotations map[string]string
		after       time.Duration
		retries     int32
		// want is in the message; stalled and gone say what became of the object
		// and of its Job, look when the operator looks again.
		want          string
		stalled, gone bool
		look          time.Duration
	}{
		{
			name: "before its pause is over", reason: contract.ReasonSourceUnreachable, after: 20 * time.Second,
			want: "no route to the source. It is tried again at 12:01:00 UTC", look: 40 * time.Second,
		},
		{
			name: "when its pause is over", reason: contract.ReasonSourceUnreachable, after: time.Minute,
			want: "no route to the source. It is tried again now", gone: true,
		},
		{
			name: "after a longer pause each time", reason: contract.ReasonSourceUnreachable, after: 4 * time.Minute, retries: 3,
			want: "It is tried again at 12:08:00 UTC", look: 4 * time.Minute,
		},
		{
			name: "until a day is over", reason: contract.ReasonSourceUnreachable, after: time.Hour, retries: 52,
			want: "It was tried 53 times, for a day; delete Job tiny-1", stalled: true,
		},
		{
			name: "never, where somebody must change it", reason: contract.ReasonDigestMismatch, after: time.Hour,
			want: "Change the object, or delete Job tiny-1", stalled: true,
		},
		{
			name: "a refused token is looked at each minute", reason: contract.ReasonUnauthorized, annotations: same, after: time.Minute,
			want: "Correct the Secret, which is noticed within a minute; it is tried again at 12:05:00 UTC", stalled: true, look: time.Minute,
		},
		{
			name: "a refused token, once its Secret is changed", reason: contract.ReasonUnauthorized, annotations: other, after: time.Minute,
			want: "It is tried again now", gone: true,
		},
		{
			name: "a refused token, since the source may know it by now", reason: contract.ReasonUnauthorized, annotations: same, after: 5 * time.Minute,
			want: "It is tried again now", gone: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			job := failedJob(tc.annotations)
			r := timed(t, noon.Add(tc.after), job, secret)
			record := &v1alpha1.RunStatus{}
			if tc.retries > 0 {
				record.Retries = new(tc.retries)
			}
			out := outcome.Outcome{State: outcome.Failed, Reason: tc.reason, Message: "no route to the source", CompletionTime: &noon}
			err := r.Explain(t.Context(), job, out, record, "", "")

			var stalled *status.Stalled
			var waiting *status.Waiting
			var message string
			var look time.Duration
			switch {
			case errors.As(err, &stalled):
				message, look = stalled.Message, stalled.After
			case errors.As(err, &waiting):
				message, look = waiting.Message, waiting.After
			}
			if !strings.Contains(message, tc.want) || (stalled != nil) != tc.stalled || look != tc.look {
				t.Errorf("got %v after %v", err, look)
			}
			if exists(t, r, job) == tc.gone {
				t.Errorf("its Job is there: %v", !tc.gone)
			}
			if done := record.Retries; tc.gone && (done == nil || *done != tc.retries+1) {
				t.Errorf("%v retries are counted", done)
			}
		})
	}
}

// The cache shows a Job for a while as it was before it was deleted: its failure
// is not counted again, and what is made next is another Job.
func TestAFailedRunIsCountedOnceThoughTheCacheIsBehind(t *testing.T) {
	failed := job("new", over)
	r, server := runner(t, []client.Object{failed.DeepCopy()}, []client.Object{failed.DeepCopy()})
	r.Now = func() time.Time { return noon.Add(time.Hour) }
	record := &v1alpha1.RunStatus{Retries: new(int32(9))}
	for i := range 2 {
		job, _, err := r.Ensure(t.Context(), owner, selector, wanted("new"))
		if err != nil {
			t.Fatal(err)
		}
		if Finished(job) != (i == 0) {
			t.Fatalf("reconciliation %d sees a Job that is over: %v", i+1, Finished(job))
		}
		if !Finished(job) {
			continue
		}
		out := outcome.Outcome{State: outcome.Failed, Reason: contract.ReasonSourceUnreachable, Message: "away", CompletionTime: &noon}
		if err := r.Explain(t.Context(), job, out, record, "", ""); err == nil {
			t.Fatal("a run that failed is explained by nothing")
		}
	}
	if *record.Retries != 10 {
		t.Errorf("%d retries are counted, want 10", *record.Retries)
	}
	again := &batchv1.Job{}
	if err := server.Get(t.Context(), client.ObjectKeyFromObject(failed), again); err != nil || Finished(again) {
		t.Errorf("the Job was not made again: %v", err)
	}
}

// A Job that is about to be made is marked with the version of its token's Secret,
// also where the cache still shows the one before.
func TestEveryJobIsMarkedWithTheVersionOfItsSecret(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hub", Namespace: "demo", ResourceVersion: "7"}}
	before := job("new", over)
	r, server := runner(t, []client.Object{before}, []client.Object{before.DeepCopy(), secret})
	if err := r.delete(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	run := wanted("new")
	run.Secrets = []string{"hub", "not-there-yet"}
	if _, _, err := r.Ensure(t.Context(), owner, selector, run); err != nil {
		t.Fatal(err)
	}
	again := &batchv1.Job{}
	if err := server.Get(t.Context(), client.ObjectKeyFromObject(before), again); err != nil {
		t.Fatal(err)
	}
	if got := again.Annotations[v1alpha1.AnnotationSecretVersion]; got != "hub/7,not-there-yet/" {
		t.Errorf("it is marked %q, want hub/7,not-there-yet/", got)
	}
}
