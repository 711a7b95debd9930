package adaptivepolicy

import (
	"context"
	"fmt"
	"strings"
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
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// missing makes a pod say that it serves all but one expert, and why not that one.
func missing(name, reason, digit string) func(*observation) {
	return func(o *observation) {
		wrong := &contract.LoadError{Digest: digestOf(digit), Reason: reason, Message: fmt.Sprintf("expert %q: it is not there", name)}
		o.status.Error, o.failure, o.refused, o.trouble = wrong, wrong, true, wrong.Message
		o.status.Experts = []contract.ServedExpert{
			{Name: name, State: contract.ExpertFailed, Error: wrong}, {Name: "other", State: contract.ExpertServed, Digest: digestOf("1")},
		}
	}
}

func unstored(e *v1alpha1.ExpertVector) {
	status.Set(e, v1alpha1.ConditionStored, false, v1alpha1.ReasonRenewing, "Pods do not find it")
}

// Only an artifact that is not there, and is the one that the ExpertVector has,
// is lost.
func TestWhatIsLost(t *testing.T) {
	chosen := choose(policy(), readyBase(), found(expert("math"), expert("code")))
	for _, tc := range []struct {
		name string
		seen []observation
		want v1alpha1.ExpertState
		said string
	}{
		{"no pod", nil, v1alpha1.ExpertLoading, ""},
		{"all have it", []observation{serving("p", chosen.digest)}, v1alpha1.ExpertServed, ""},
		{
			"its folder is gone", []observation{serving("p", "less", missing("math", contract.ReasonExpertMissing, "1"))},
			v1alpha1.ExpertLost, "Waiting ExpertLost",
		},
		{
			"one of two pods has it in memory", []observation{serving("p", chosen.digest), serving("q", "less", missing("math", contract.ReasonExpertMissing, "1"))},
			v1alpha1.ExpertLost, "Waiting ExpertLost",
		},
		{
			"it is another than its name says", []observation{serving("p", "less", missing("math", contract.ReasonDigestMismatch, "1"))},
			v1alpha1.ExpertRefused, "Waiting ExpertSetRefused",
		},
		{
			"it cannot be read", []observation{serving("p", "less", missing("math", contract.ReasonInternal, "1"))},
			v1alpha1.ExpertRefused, "Waiting ExpertSetRefused",
		},
		{
			"the artifact of before is not there", []observation{serving("p", "less", missing("math", contract.ReasonExpertMissing, "7"))},
			v1alpha1.ExpertLoading, "Waiting ExpertSetRefused",
		},
		{
			"a pod of the base before misses it", []observation{serving("p", "less", missing("math", contract.ReasonExpertMissing, "1"), oldBase)},
			v1alpha1.ExpertLoading, "Waiting ExpertSetRefused",
		},
		{
			"another expert is gone", []observation{serving("p", "less", missing("code", contract.ReasonExpertMissing, "1"))},
			v1alpha1.ExpertLoading, "Waiting ExpertLost",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := expertStatuses(chosen, tc.seen)[0].State; got != tc.want {
				t.Errorf("math is %s, want %s", got, tc.want)
			}
			if got := verdict(loaded(chosen, tc.seen)); got != tc.said {
				t.Errorf("it says %q, want %q", got, tc.said)
			}
		})
	}
}

// What the status says of an expert that is lost is over when no pod says so,
// also where the policy cannot be realised.
func TestALostExpertIsLostNoLonger(t *testing.T) {
	experts := []v1alpha1.PolicyExpertStatus{
		{Name: "math", State: v1alpha1.ExpertLost, Digest: digest("1")}, {Name: "code", State: v1alpha1.ExpertUpdating, Digest: digest("1")},
		{Name: "law", State: v1alpha1.ExpertNotReady},
	}
	markLost(experts, []observation{serving("p", "less", missing("code", contract.ReasonExpertMissing, "1"))})
	want := []v1alpha1.PolicyExpertStatus{
		{Name: "math", State: v1alpha1.ExpertLoading, Digest: digest("1")}, {Name: "code", State: v1alpha1.ExpertLost, Digest: digest("1")},
		{Name: "law", State: v1alpha1.ExpertNotReady},
	}
	if diff := cmp.Diff(want, experts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// startingSince is a pod that has been starting for a while.
func startingSince(age time.Duration) observation {
	return observation{starting: true, current: true, trouble: "the pod is starting", pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "p1", Namespace: "demo", UID: "p1", CreationTimestamp: metav1.NewTime(time.Now().Add(-age)),
	}}}
}

// eventsOf is an API server that has told this of a pod.
func eventsOf(t *testing.T, pod *corev1.Pod, reason, message string) client.Reader {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).
		WithIndex(&corev1.Event{}, "involvedObject.uid", func(o client.Object) []string {
			return []string{string(o.(*corev1.Event).InvolvedObject.UID)}
		}).
		WithObjects(&corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "told", Namespace: pod.Namespace},
			InvolvedObject: corev1.ObjectReference{UID: pod.UID}, Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		}).Build()
}

func TestWhatKeepsAPodFromStarting(t *testing.T) {
	other := func(o *observation) { o.pod.UID = types.UID("other") }
	for _, tc := range []struct {
		name   string
		age    time.Duration
		change func(*observation)
		reason string // Of what the event says; empty where none is read.
		want   string
	}{
		{name: "its volume cannot be mounted", age: time.Minute, reason: "FailedMount", want: v1alpha1.ReasonVolume},
		{name: "it has no network", age: time.Minute, reason: "FailedCreatePodSandBox", want: v1alpha1.ReasonPending},
		{name: "it was made a moment ago", age: time.Second, reason: "FailedMount"},
		{name: "nothing was told of it", age: time.Minute, reason: "FailedMount", change: other},
		{name: "it runs", age: time.Minute, reason: "FailedMount", change: func(o *observation) { o.starting = false }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := startingSince(tc.age)
			r := &Reconciler{Live: eventsOf(t, o.pod, tc.reason, "no such share")}
			if tc.change != nil {
				tc.change(&o)
			}
			seen := []observation{o}
			if err := r.warned(t.Context(), seen); err != nil {
				t.Fatal(err)
			}
			if got := seen[0]; got.reason != tc.want || (tc.want != "") != strings.Contains(got.hindrance, "no such share") {
				t.Errorf("%q: %q, want %q", got.reason, got.hindrance, tc.want)
			}
		})
	}
}

// counted counts what it is asked.
type counted struct {
	client.Reader
	lists int
}

func (c *counted) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	c.lists++
	return c.Reader.List(ctx, list, opts...)
}

func TestTheEventsOfFewPodsAreRead(t *testing.T) {
	seen := make([]observation, 50)
	for i := range seen {
		seen[i] = startingSince(time.Minute)
	}
	c := &counted{Reader: eventsOf(t, seen[0].pod, "FailedMount", "no such share")}
	if err := (&Reconciler{Live: c}).warned(t.Context(), seen); err != nil {
		t.Fatal(err)
	}
	if c.lists != maxWarned || seen[0].hindrance == "" {
		t.Errorf("%d lists, the first %q", c.lists, seen[0].hindrance)
	}
}
