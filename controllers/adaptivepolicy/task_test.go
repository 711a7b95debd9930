package adaptivepolicy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/apply"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/runs"
)

// TestProgressIsThatOfTheRunUnderWay: what another run had come to is forgotten before anything
// is waited for, here for that run's pod to end.
func TestProgressIsThatOfTheRunUnderWay(t *testing.T) {
	selector := client.MatchingLabels{"task": "probe"}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "assistant-old", Namespace: "demo", Labels: selector},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for name, tc := range map[string]struct {
		remembered []v1alpha1.RunStatus
		forgotten  bool
	}{
		"there was none":           {nil, true},
		"it is another":            {[]v1alpha1.RunStatus{{ID: "old"}, {ID: "run"}}, true},
		"it is the one under way":  {[]v1alpha1.RunStatus{{ID: "run"}}, false},
		"it is, after one of them": {[]v1alpha1.RunStatus{{ID: "run"}, {ID: "old"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy()
			c := clientOf(t, p, pod.DeepCopy())
			r := &Reconciler{Runner: runs.Runner{Client: c, Live: c, Applier: apply.New(c, c)}}
			forgotten := false
			err := r.perform(t.Context(), p, task{
				selector: selector, run: desired.Run{ID: "run", JobName: "assistant-run"}, runs: &tc.remembered,
				forget: func() { forgotten = true },
			})
			if reasonOf(err) != v1alpha1.ReasonPreviousRun || forgotten != tc.forgotten {
				t.Errorf("forgotten: %v, want %v (%v)", forgotten, tc.forgotten, err)
			}
		})
	}
}
