package adaptivepolicy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

const expected = "sha256:expected"

// pod is what was seen of a pod: of the present base, and serving the expected
// set, unless it is changed.
func pod(name string, change ...func(*observation)) observation {
	o := observation{
		pod:     &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}},
		current: true, status: contract.ServingStatus{ExpertSetDigest: expected},
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

// What pods compute on is what they say: those that have not loaded the model, or
// are of an older runtime, say nothing.
func TestDevicesAreCounted(t *testing.T) {
	on := func(device string) func(*observation) {
		return func(o *observation) { o.status.Device = device }
	}
	long := strings.Repeat("x", 200)
	for _, tc := range []struct {
		name string
		seen []observation
		want []v1alpha1.PolicyDevice
	}{
		{"no pods", nil, nil},
		{"an older runtime", []observation{pod("a")}, nil},
		{
			"two kinds", []observation{pod("a", on("cuda (H100)")), pod("b", on("cpu (avx512, 2 threads)")), pod("c", on("cuda (H100)")), pod("d")},
			[]v1alpha1.PolicyDevice{{Name: "cpu (avx512, 2 threads)", Pods: 1}, {Name: "cuda (H100)", Pods: 2}},
		},
		{"a long name", []observation{pod("a", on(long)), pod("b", on(long))}, []v1alpha1.PolicyDevice{{Name: long[:125] + "…", Pods: 2}}},
	} {
		if diff := cmp.Diff(tc.want, devices(tc.seen)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	var many []observation
	for i := range 40 {
		many = append(many, pod(fmt.Sprint(i), on(fmt.Sprintf("device %02d", i))))
	}
	if got := devices(many); len(got) != maxDevices || got[0].Name != "device 00" {
		t.Errorf("of 40 devices %d are listed, %v first", len(got), got[0])
	}
}

func TestPodsThatDifferAreListedAndAllAreCounted(t *testing.T) {
	chosen := choice{digest: expected}
	another := func(o *observation) { o.status.ExpertSetDigest = "sha256:another" }
	refused := func(o *observation) { o.refused, o.trouble = true, "expert law: file is truncated" }
	stuck := func(o *observation) { o.hindrance, o.trouble = "no node takes it", "no node takes it" }
	starting := func(o *observation) { o.trouble, o.status = "the pod is starting", contract.ServingStatus{} }
	old := func(o *observation) { o.current = false }
	for _, tc := range []struct {
		name   string
		seen   []observation
		counts [4]int32 // total, current, updating, failed
		pods   []v1alpha1.PolicyPod
	}{
		{name: "no pods"},
		{name: "all as expected", seen: []observation{pod("a"), pod("b")}, counts: [4]int32{2, 2, 0, 0}},
		{
			name:   "the failed ones come first",
			seen:   []observation{pod("a", another), pod("b"), pod("c", another, refused), pod("d", starting), pod("e", stuck, starting), pod("f", old)},
			counts: [4]int32{6, 1, 3, 2},
			pods: []v1alpha1.PolicyPod{
				{Name: "c", ExpertSetDigest: "sha256:another", Error: "expert law: file is truncated"},
				{Name: "e", Error: "the pod is starting"},
				{Name: "a", ExpertSetDigest: "sha256:another"},
				{Name: "d", Error: "the pod is starting"},
				{Name: "f", ExpertSetDigest: expected},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			counts, pods := podStatuses(chosen, tc.seen)
			if diff := cmp.Diff(tc.counts, [4]int32{*counts.Total, *counts.Current, *counts.Updating, *counts.Failed}); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.pods, pods); diff != "" && len(tc.pods)+len(pods) > 0 {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheListOfPodsIsBounded(t *testing.T) {
	var seen []observation
	for i := range 100 {
		seen = append(seen, pod(fmt.Sprintf("pod-%02d", i), func(o *observation) { o.trouble = strings.Repeat("x", 2*maxError) }))
	}
	counts, pods := podStatuses(choice{digest: expected}, seen)
	if *counts.Total != 100 || *counts.Updating != 100 || len(pods) != maxPods {
		t.Errorf("%d pods are listed of %d, %d updating", len(pods), *counts.Total, *counts.Updating)
	}
	for _, p := range pods {
		if len(p.Error) > maxError {
			t.Fatalf("an error has %d bytes, the schema takes %d", len(p.Error), maxError)
		}
	}
}

func TestWhatWasChosenLast(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	chose := func(expert string, at time.Time) observation {
		return pod(expert, func(o *observation) {
			o.status.LastAdaptationTime = at
			o.status.LastAdaptation = &contract.Adaptation{
				Strategy: contract.StrategyPrompt, Expert: expert, Weights: map[string]float64{expert: 1},
			}
		})
	}
	said := func(expert string, at time.Time) *v1alpha1.AdaptationStatus {
		return &v1alpha1.AdaptationStatus{
			Strategy: v1alpha1.StrategyPrompt, Expert: expert, Time: metav1.NewTime(at),
			Weights: []v1alpha1.ExpertWeight{{Name: expert, Weight: "1.0000"}},
		}
	}
	mixed := pod("mixed", func(o *observation) {
		o.status.LastAdaptationTime = noon
		o.status.LastAdaptation = &contract.Adaptation{
			Strategy: contract.StrategyPrompt, Expert: "math+base", Weights: map[string]float64{"math": 15. / 16, contract.BaseName: 1. / 16},
		}
	})
	for _, tc := range []struct {
		name string
		was  *v1alpha1.AdaptationStatus
		seen []observation
		now  time.Time
		want *v1alpha1.AdaptationStatus
	}{
		{name: "nothing yet", seen: []observation{pod("a")}, now: noon},
		{name: "the first at once", seen: []observation{chose("math", noon)}, now: noon, want: said("math", noon)},
		{
			name: "the latest of all pods", now: noon,
			seen: []observation{chose("math", noon.Add(-time.Second)), chose("code", noon), chose("law", noon.Add(-time.Minute))},
			want: said("code", noon),
		},
		{
			name: "a mixture, with the base's share", seen: []observation{mixed}, now: noon,
			want: &v1alpha1.AdaptationStatus{
				Strategy: v1alpha1.StrategyPrompt, Expert: "math+base", Time: metav1.NewTime(noon),
				Weights: []v1alpha1.ExpertWeight{{Name: "base", Weight: "0.0625"}, {Name: "math", Weight: "0.9375"}},
			},
		},
		{
			name: "not another within a minute", was: said("math", noon), now: noon.Add(59 * time.Second),
			seen: []observation{chose("code", noon.Add(50*time.Second))}, want: said("math", noon),
		},
		{
			name: "another after a minute, though it was chosen before", was: said("math", noon), now: noon.Add(time.Minute),
			seen: []observation{chose("code", noon.Add(time.Second))}, want: said("code", noon.Add(time.Second)),
		},
		{
			name: "the same again changes nothing, to the second", was: said("math", noon), now: noon.Add(time.Hour),
			seen: []observation{chose("math", noon.Add(300*time.Millisecond))}, want: said("math", noon),
		},
		{
			name: "what a pod that is gone chose stays", was: said("math", noon), now: noon.Add(time.Hour),
			seen: []observation{pod("new")}, want: said("math", noon),
		},
		{
			name: "a choice without a time is not known to be the last", now: noon,
			seen: []observation{chose("math", time.Time{})},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, adaptation(tc.was, tc.seen, tc.now)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestExpertSummary(t *testing.T) {
	for want, states := range map[string][]v1alpha1.ExpertState{
		"0/0": nil,
		"2/2": {v1alpha1.ExpertServed, v1alpha1.ExpertServed},
		"1/5": {v1alpha1.ExpertLoading, v1alpha1.ExpertServed, v1alpha1.ExpertUpdating, v1alpha1.ExpertMissing, v1alpha1.ExpertNotReady},
	} {
		var experts []v1alpha1.PolicyExpertStatus
		for _, s := range states {
			experts = append(experts, v1alpha1.PolicyExpertStatus{State: s})
		}
		if got := expertSummary(experts); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
