package runs

import (
	"errors"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/status"
)

// TestAYoungRunIsLookedAtEachSecond goes by the container that runs: what came
// before it, such as pulling its image, took as long as it took.
func TestAYoungRunIsLookedAtEachSecond(t *testing.T) {
	now := time.Now()
	running := func(name string, age time.Duration) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-age))},
		}}
	}
	for name, c := range map[string]struct {
		status corev1.PodStatus
		want   time.Duration
	}{
		"just started":     {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running("train", 0)}}, time.Second},
		"59 s old":         {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running("train", 59*time.Second)}}, time.Second},
		"a minute old":     {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running("train", time.Minute)}}, 5 * time.Second},
		"an old companion": {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running("judge", time.Hour), running("train", 0)}}, time.Second},
		"an init container": {corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{running("train", time.Hour)},
		}, 5 * time.Second},
		"nothing is known yet": {corev1.PodStatus{}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			out := outcome.Outcome{State: outcome.Running, Container: "train", Pod: &corev1.Pod{Status: c.status}}
			var waiting *status.Waiting
			if err := Explain(&batchv1.Job{}, out, "Training", "Iteration 1/40"); !errors.As(err, &waiting) || waiting.After != c.want {
				t.Errorf("got %#v, want to be asked again after %s", err, c.want)
			}
		})
	}
}
