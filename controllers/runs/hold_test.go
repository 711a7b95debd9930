package runs

import (
	"errors"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
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
