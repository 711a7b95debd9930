package warnings

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/transformersquared/operator/api/v1alpha1"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is an event that was seen last so many seconds after t0, told in the way
// of one of the recorders that there are.
func at(second int, kind, reason, message string) corev1.Event {
	return corev1.Event{Type: kind, Reason: reason, Message: message, LastTimestamp: metav1.NewTime(t0.Add(time.Duration(second) * time.Second))}
}

func TestNewestEventCounts(t *testing.T) {
	quota := at(3, corev1.EventTypeWarning, "FailedCreate", "exceeded quota: none")
	series := corev1.Event{
		Type: corev1.EventTypeWarning, Reason: "FailedMount", Message: "timed out", EventTime: metav1.NewMicroTime(t0),
		Series: &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(t0.Add(time.Minute))},
	}
	for _, tc := range []struct {
		name   string
		events []corev1.Event
		want   *Warning
	}{
		{name: "nothing was told"},
		{name: "all is well", events: []corev1.Event{at(1, corev1.EventTypeNormal, "Scheduled", "to node a")}},
		{name: "a quota forbids the pod", events: []corev1.Event{quota}, want: &Warning{v1alpha1.ReasonRejected, "exceeded quota: none"}},
		{
			name:   "the quota was raised since",
			events: []corev1.Event{at(9, corev1.EventTypeNormal, "SuccessfulCreate", "made pod x"), quota},
		},
		{
			name:   "a warning of the second in which it was scheduled",
			events: []corev1.Event{at(3, corev1.EventTypeWarning, "FailedAttachVolume", "in use elsewhere"), at(3, corev1.EventTypeNormal, "Scheduled", "to node a")},
			want:   &Warning{v1alpha1.ReasonVolume, "in use elsewhere"},
		},
		{
			name:   "one that is seen again and again",
			events: []corev1.Event{at(9, corev1.EventTypeNormal, "Scheduled", "to node a"), series},
			want:   &Warning{v1alpha1.ReasonVolume, "timed out"},
		},
		{
			name:   "something that has no word of its own",
			events: []corev1.Event{at(1, corev1.EventTypeWarning, "FailedCreatePodSandBox", "no network")},
			want:   &Warning{v1alpha1.ReasonPending, "no network"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, newest(tc.events)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyTheEventsOfTheObjectAreRead(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	event := func(name, uid, message string) *corev1.Event {
		e := at(1, corev1.EventTypeWarning, "FailedCreate", message)
		e.Name, e.Namespace = name, "demo"
		e.InvolvedObject.UID = types.UID(uid)
		return &e
	}
	c := fake.NewClientBuilder().WithScheme(scheme).
		WithObjects(event("a", "mine", "exceeded quota"), event("b", "theirs", "something else")).
		WithIndex(&corev1.Event{}, "involvedObject.uid", func(o client.Object) []string {
			return []string{string(o.(*corev1.Event).InvolvedObject.UID)}
		}).Build()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "demo", UID: "mine"}}
	got, err := Latest(t.Context(), c, pod)
	if err != nil || got == nil || got.Message != "exceeded quota" {
		t.Errorf("got %+v, %v", got, err)
	}
	pod.UID = "nobody"
	if got, err := Latest(t.Context(), c, pod); err != nil || got != nil {
		t.Errorf("got %+v, %v for an object without events", got, err)
	}
}
