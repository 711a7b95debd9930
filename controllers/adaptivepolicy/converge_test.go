package adaptivepolicy

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// digestOf is a digest of this digit.
func digestOf(digit string) string { return contract.DigestPrefix + strings.Repeat(digit, 64) }

// seenPod is what judge and converse set of an observation.
type seenPod struct {
	Desired, Loaded  string
	Loading, Refused bool
	Missing          []string
	Trouble          string
	Reason           string // Of the failure.
}

func (o *observation) summary() seenPod {
	s := seenPod{Desired: o.desired, Loaded: o.loaded, Loading: o.loading, Refused: o.refused, Missing: o.missing, Trouble: o.trouble}
	if o.failure != nil {
		s.Reason = o.failure.Reason
	}
	return s
}

func TestHowAPodStands(t *testing.T) {
	want, other, partial := digestOf("1"), digestOf("2"), digestOf("3")
	late := &contract.LoadError{Digest: want, Reason: contract.ReasonExpertMissing, Message: `expert "law": it is not there`}
	for _, tc := range []struct {
		name   string
		past   bool // The pod serves the base before.
		status contract.ServingStatus
		want   seenPod
	}{
		{
			name:   "serves what is expected",
			status: contract.ServingStatus{DesiredDigest: want, ExpertSetDigest: want},
			want:   seenPod{Desired: want, Loaded: want},
		},
		{
			name:   "loads it for the first time",
			status: contract.ServingStatus{DesiredDigest: want, Loading: &contract.LoadingSet{Digest: want}},
			want:   seenPod{Desired: want, Loading: true},
		},
		{
			name:   "loads it and serves the one before",
			status: contract.ServingStatus{DesiredDigest: want, ExpertSetDigest: other, Loading: &contract.LoadingSet{Digest: want}},
			want:   seenPod{Desired: want, Loaded: other, Loading: true},
		},
		{
			name: "serves it without an expert",
			status: contract.ServingStatus{DesiredDigest: want, ExpertSetDigest: partial, Error: late, Experts: []contract.ServedExpert{
				{Name: "math", State: contract.ExpertServed}, {Name: "law", State: contract.ExpertFailed, Error: late}, {Name: "old"},
			}},
			want: seenPod{Desired: want, Loaded: partial, Refused: true, Missing: []string{"law"}, Trouble: late.Message, Reason: contract.ReasonExpertMissing},
		},
		{
			name:   "serves nothing, since nothing could be loaded",
			status: contract.ServingStatus{DesiredDigest: want, Error: late},
			want:   seenPod{Desired: want, Refused: true, Trouble: late.Message, Reason: contract.ReasonExpertMissing},
		},
		{
			name:   "was told something else by somebody else",
			status: contract.ServingStatus{DesiredDigest: other, ExpertSetDigest: partial},
			want: seenPod{
				Desired: other, Loaded: partial, Refused: true,
				Trouble: "it was given expert set " + want + ` and reports that it was told to serve "` + other + `"`,
			},
		},
		{
			name:   "does not say what it was told, and serves what is expected",
			status: contract.ServingStatus{ExpertSetDigest: want},
			want:   seenPod{Loaded: want},
		},
		{
			name: "serves the base before", past: true,
			status: contract.ServingStatus{DesiredDigest: other, ExpertSetDigest: other},
			want:   seenPod{Desired: other, Loaded: other},
		},
		{
			name: "serves the base before, without an expert", past: true,
			status: contract.ServingStatus{DesiredDigest: other, ExpertSetDigest: partial, Error: late},
			want:   seenPod{Desired: other, Loaded: partial, Trouble: late.Message},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := observation{current: !tc.past, status: tc.status}
			o.judge(want)
			if diff := cmp.Diff(tc.want, o.summary()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoIsOfferedTheSet(t *testing.T) {
	want, other := digestOf("1"), digestOf("2")
	for name, tc := range map[string]struct {
		status contract.ServingStatus
		want   bool
	}{
		"a pod that starts":                       {contract.ServingStatus{}, true},
		"one with another set":                    {contract.ServingStatus{DesiredDigest: other, ExpertSetDigest: other}, true},
		"one that loads another and serves ours":  {contract.ServingStatus{DesiredDigest: other, ExpertSetDigest: want}, true},
		"one that was told":                       {contract.ServingStatus{DesiredDigest: want, ExpertSetDigest: other}, false},
		"one that was told and could not load it": {contract.ServingStatus{DesiredDigest: want, Error: &contract.LoadError{}}, false},
		"one of an older runtime that serves it":  {contract.ServingStatus{ExpertSetDigest: want}, false},
	} {
		if got := unaware(tc.status, want); got != tc.want {
			t.Errorf("%s: offered %v", name, got)
		}
	}
}

// TestTheConversationWithAPod asks pods over HTTP that answer in many ways, and
// counts what they are offered.
func TestTheConversationWithAPod(t *testing.T) {
	chosen := choice{set: contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{}}}
	var err error
	if chosen.digest, err = chosen.set.Digest(); err != nil {
		t.Fatal(err)
	}
	other := contract.ServingStatus{DesiredDigest: digestOf("2"), ExpertSetDigest: digestOf("2")}
	told := contract.ServingStatus{DesiredDigest: chosen.digest, ExpertSetDigest: digestOf("2"), Loading: &contract.LoadingSet{Digest: chosen.digest}}
	answer := func(code int, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(body)
		}
	}
	for _, tc := range []struct {
		name     string
		get, put http.HandlerFunc
		offers   int32
		want     seenPod
		trouble  string
	}{
		{
			name: "it records the set", get: answer(200, other), put: answer(202, told), offers: 1,
			want: seenPod{Desired: chosen.digest, Loaded: digestOf("2"), Loading: true},
		},
		{
			name: "it has recorded it before", get: answer(200, told),
			want: seenPod{Desired: chosen.digest, Loaded: digestOf("2"), Loading: true},
		},
		{
			name: "it does not take it", get: answer(200, other), offers: 1,
			put:     answer(422, contract.ServingStatus{Error: &contract.LoadError{Message: "strategy Magic is unknown"}}),
			want:    seenPod{Desired: digestOf("2"), Loaded: digestOf("2"), Refused: true},
			trouble: "strategy Magic is unknown",
		},
		{
			name: "it knows another token", get: answer(200, other), put: answer(401, nil), offers: 1,
			want: seenPod{Desired: digestOf("2"), Loaded: digestOf("2"), Refused: true}, trouble: "401",
		},
		{
			name: "it fails", get: answer(200, other), put: answer(500, nil), offers: 1,
			want: seenPod{Desired: digestOf("2"), Loaded: digestOf("2")}, trouble: "500",
		},
		{
			name: "it answers garbage", get: answer(200, "?"), trouble: "cannot unmarshal",
		},
		{
			name: "it is cut off while it is offered the set", get: answer(200, other), offers: 1,
			put:  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			want: seenPod{Desired: digestOf("2"), Loaded: digestOf("2")}, trouble: "EOF",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var offers atomic.Int32
			pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPut {
					tc.get(w, r)
					return
				}
				offers.Add(1)
				if got := r.Header.Get("Authorization"); got != "Bearer token" {
					t.Errorf("Authorization is %q", got)
				}
				tc.put(w, r)
			}))
			defer pod.Close()
			r := &Reconciler{Pods: podclient.New()}
			r.Pods.URL = func(_ *corev1.Pod, path string) (string, error) { return pod.URL + path, nil }
			o := observation{current: true, pod: &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "serve-1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
			}}
			r.converse(t.Context(), &o, "token", chosen)
			got := o.summary()
			if (got.Trouble != "") != (tc.trouble != "") || !strings.Contains(got.Trouble, tc.trouble) {
				t.Errorf("trouble %q, want %q", got.Trouble, tc.trouble)
			}
			got.Trouble = ""
			if diff := cmp.Diff(tc.want, got); diff != "" || offers.Load() != tc.offers {
				t.Errorf("%d offers, want %d; (-want +got):\n%s", offers.Load(), tc.offers, diff)
			}
		})
	}
}

// TestLoadingIsNoRefusal looks at how several pods together make the condition.
func TestLoadingIsNoRefusal(t *testing.T) {
	chosen := choice{digest: digestOf("1")}
	pod := func(name string, s contract.ServingStatus) observation {
		o := observation{current: true, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, status: s}
		o.judge(chosen.digest)
		return o
	}
	served := pod("a", contract.ServingStatus{DesiredDigest: chosen.digest, ExpertSetDigest: chosen.digest})
	loading := pod("b", contract.ServingStatus{DesiredDigest: chosen.digest})
	failed := pod("c", contract.ServingStatus{DesiredDigest: chosen.digest, Error: &contract.LoadError{Message: "its folder is gone"}})
	for name, tc := range map[string]struct {
		seen []observation
		want string
	}{
		"all serve it":          {[]observation{served, served}, ""},
		"one loads it":          {[]observation{served, loading}, "1 of 2 pods have loaded"},
		"one could not load it": {[]observation{served, loading, failed}, "its folder is gone"},
	} {
		err := loaded(chosen, tc.seen)
		if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if agree(chosen, tc.seen) != (tc.want == "") {
			t.Errorf("%s: they agree %v", name, agree(chosen, tc.seen))
		}
	}
}

// TestAPodOfALostNodeIsNotAsked makes sure that nobody waits for what cannot answer, that the
// pod is none of those that answer requests, and that the node is named.
func TestAPodOfALostNodeIsNotAsked(t *testing.T) {
	o := serving("p1", "set", func(o *observation) {
		o.pod.Spec.NodeName = "worker-2"
		o.pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "192.0.2.1", Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
		}}
		o.status = contract.ServingStatus{}
	})
	pods := podclient.New()
	pods.URL = func(pod *corev1.Pod, path string) (string, error) {
		t.Errorf("pod %s was asked for %s", pod.Name, path)
		return "", podclient.ErrNoAddress
	}
	(&Reconciler{Pods: pods}).converse(t.Context(), &o, "token", choice{digest: "set"})
	if o.reason != v1alpha1.ReasonNodeLost || !strings.Contains(o.hindrance, "Node worker-2 of pod p1 does not report") {
		t.Errorf("%q: %q", o.reason, o.hindrance)
	}
	err := rolledOut(deployed(2), []observation{serving("p0", "set"), o})
	if got := statustest.Verdict(err); got != "Waiting NodeLost" {
		t.Errorf("the policy is %q", got)
	}
	holds, _, message := available(answer{seen: []observation{serving("p0", "set"), o}, expected: "set", with: "with all"}, true)
	if !holds || message != "Requests are answered, with all" {
		t.Errorf("with another pod: %v, %q", holds, message)
	}
	if holds, _, _ := available(answer{seen: []observation{o}, expected: "set"}, true); holds {
		t.Error("requests are answered, though the only pod is on a node that does not report")
	}
}
