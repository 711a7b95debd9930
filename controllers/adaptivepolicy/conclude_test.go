package adaptivepolicy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
)

// A policy is rolled out by its Deployment's word about its present generation,
// and by the pods that were asked: never by the one alone.
func TestRolledOut(t *testing.T) {
	with := func(f func(s *appsv1.DeploymentStatus)) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { f(&d.Status) }
	}
	one, two := serving("p1", "set"), serving("p2", "set")
	for _, tc := range []struct {
		name       string
		deployment deployment
		seen       []observation
		want       string
		message    []string
	}{
		{name: "both pods", deployment: deployed(2), seen: []observation{one, two}},
		{name: "none is asked for, none is there", deployment: deployed(0)},
		{
			name: "its controller has not seen the change", deployment: deployed(1, with(func(s *appsv1.DeploymentStatus) { s.ObservedGeneration = 2 })),
			seen: []observation{one}, want: "Waiting RollingOut", message: []string{"was changed a moment ago"},
		},
		{
			name: "0 to 1 replicas, not seen by its controller", want: "Waiting RollingOut",
			deployment: deployed(1, func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2} }),
		},
		{
			name: "0 to 1 replicas, seen by its controller", want: "Waiting RollingOut", message: []string{"0 of 1 pod"},
			deployment: deployed(1, func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{ObservedGeneration: 3} }),
		},
		{
			name: "it is new and has no status", want: "Waiting RollingOut",
			deployment: deployed(1, func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{} }),
		},
		{
			name: "a new pod starts beside the old one", deployment: deployed(1, with(func(s *appsv1.DeploymentStatus) { s.Replicas = 2 })),
			seen: []observation{one, serving("p0", "set", oldVersion)}, want: "Waiting RollingOut", message: []string{"1 pod of the version before"},
		},
		{
			name: "a new pod is not available", deployment: deployed(2, with(func(s *appsv1.DeploymentStatus) { s.AvailableReplicas = 1 })),
			seen: []observation{one, two}, want: "Waiting RollingOut", message: []string{"1 of 2 pods"},
		},
		{
			name: "fewer are asked for than run", deployment: deployed(1, with(func(s *appsv1.DeploymentStatus) { s.Replicas, s.UpdatedReplicas = 2, 2 })),
			seen: []observation{one, two}, want: "Waiting RollingOut", message: []string{"1 pod to end"},
		},
		{
			name: "scaled to zero, and a pod runs", deployment: deployed(0, with(func(s *appsv1.DeploymentStatus) { s.Replicas, s.UpdatedReplicas = 1, 1 })),
			seen: []observation{one}, want: "Waiting RollingOut",
		},
		{
			name: "rolled out, and the operator has not seen the pods", deployment: deployed(1), want: "Waiting RollingOut", message: []string{"which 0"},
		},
		{
			name: "rolled out, and the operator has seen the pod from before", deployment: deployed(1),
			seen: []observation{serving("p0", "set", oldVersion)}, want: "Waiting RollingOut", message: []string{"which 0", "1 of other versions"},
		},
		{
			name: "the operator has seen one pod more", deployment: deployed(1),
			seen: []observation{one, serving("p0", "set", oldVersion)}, want: "Waiting RollingOut", message: []string{"which 1", "1 of other versions"},
		},
		{
			name: "a pod crashes", deployment: deployed(1), seen: []observation{serving("p1", "", crashing)},
			want: "Waiting OOMKilled", message: []string{"raise spec.serving.resources.limits.memory"},
		},
		{
			name: "a quota forbids the pods", want: "Waiting Rejected", message: []string{"exceeded quota"},
			deployment: deployed(1, with(func(s *appsv1.DeploymentStatus) {
				s.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: "True", Message: "exceeded quota"}}
			})),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := rolledOut(tc.deployment, tc.seen)
			if got := verdict(err); got != tc.want {
				t.Fatalf("%q (%v), want %q", got, err, tc.want)
			}
			for _, part := range tc.message {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func TestLoaded(t *testing.T) {
	chosen := choice{digest: "set"}
	for _, tc := range []struct {
		name string
		seen []observation
		want string
	}{
		{"no pod has anything to load", nil, ""},
		{"all have it", []observation{serving("p1", "set"), serving("p2", "set")}, ""},
		{"one has the one before", []observation{serving("p1", "set"), serving("p2", "before")}, "Waiting LoadingExperts"},
		{"one has it for another base", []observation{serving("p1", "set", oldBase)}, "Waiting LoadingExperts"},
		{"one does not answer", []observation{serving("p1", "set", silent)}, "Waiting LoadingExperts"},
		{"one refuses it", []observation{serving("p1", "set"), serving("p2", "before", refusing)}, "Waiting ExpertSetRefused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := loaded(chosen, tc.seen)
			if got := verdict(err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if agrees := agree(chosen, tc.seen); agrees != (tc.want == "") {
				t.Errorf("agree: %v", agrees)
			}
		})
	}
}

func TestConclude(t *testing.T) {
	replicas := func(n int32) func(*v1alpha1.AdaptivePolicy) {
		return func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.Replicas = &n }
	}
	chosen := func(problem error) choice { return choice{digest: "set", problem: problem} }
	decomposing := readyBase(func(b *v1alpha1.BaseModel) {
		status.SetConditions(b, status.Verdict{Reason: v1alpha1.ReasonDecomposing, Message: "7 of 42"})
		status.Set(b, v1alpha1.ConditionDecomposed, false, v1alpha1.ReasonDecomposing, "7 of 42")
	})
	for _, tc := range []struct {
		name       string
		policy     *v1alpha1.AdaptivePolicy
		base       *v1alpha1.BaseModel
		deployment deployment
		chosen     choice
		seen       []observation
		ready      string
		want       string
		soon       bool
	}{
		{
			name: "it serves", policy: policy(), base: readyBase(), deployment: deployed(1), chosen: chosen(nil),
			seen: []observation{serving("p1", "set")}, ready: v1alpha1.ReasonServing,
		},
		{
			name: "it is scaled to zero", policy: policy(replicas(0)), base: readyBase(), deployment: deployed(0), chosen: chosen(nil),
			ready: v1alpha1.ReasonScaledToZero,
		},
		{
			name: "it rolls out", policy: policy(), base: readyBase(), deployment: deployed(1), chosen: chosen(nil),
			want: "Waiting RollingOut", soon: true,
		},
		{
			name: "a pod loads", policy: policy(), base: readyBase(), deployment: deployed(1), chosen: chosen(nil),
			seen: []observation{serving("p1", "before")}, want: "Waiting LoadingExperts", soon: true,
		},
		{
			name: "an expert is trained anew, and all pods serve", policy: policy(), base: readyBase(), deployment: deployed(1),
			chosen: chosen(status.Wait(v1alpha1.ReasonExpertsNotReady, "x")), seen: []observation{serving("p1", "set")},
			want: "Waiting ExpertsNotReady",
		},
		{
			name: "somebody must act, while a pod loads", policy: policy(), base: readyBase(), deployment: deployed(1),
			chosen: chosen(status.Stall(v1alpha1.ReasonDuplicateSkill, "x")), seen: []observation{serving("p1", "before")},
			want: "Stalled DuplicateSkill", soon: true,
		},
		{
			name: "the base is decomposed anew", policy: policy(), base: decomposing, deployment: deployed(1), chosen: chosen(nil),
			seen: []observation{serving("p1", "set")}, want: "Waiting BaseModelNotReady",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ready, err := conclude(tc.policy, tc.base, tc.deployment, tc.chosen, tc.seen)
			if got := verdict(err); got != tc.want || ready.Reason != tc.ready {
				t.Fatalf("ready %q, %q; want %q, %q", ready.Reason, got, tc.ready, tc.want)
			}
			if err == nil {
				return
			}
			want := idleInterval
			if tc.soon {
				want = convergingInterval
			}
			if v := status.Judge(ready, err); v.After != want {
				t.Errorf("it is looked at again after %v, want %v", v.After, want)
			}
		})
	}
}

func TestAvailableIsWhatClientsMeet(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer answer
		was    bool
		want   bool
		reason string
	}{
		{name: "there is no pod", answer: answer{expected: "set"}, reason: v1alpha1.ReasonNoPodAnswers},
		{name: "no pod is asked for", answer: answer{off: true}, was: true, reason: v1alpha1.ReasonScaledToZero},
		{name: "no pod is asked for, and one is left", answer: answer{off: true, seen: []observation{serving("p", "set")}}, want: true, reason: v1alpha1.ReasonAnswering},
		{name: "a pod has the expected set", answer: answer{expected: "set", seen: []observation{serving("p", "set")}}, want: true, reason: v1alpha1.ReasonAnswering},
		{name: "a pod has the set from before", answer: answer{expected: "set", seen: []observation{serving("p", "before")}}, want: true, reason: v1alpha1.ReasonAnswering},
		{
			name: "a pod refuses the set and has the one before", want: true, reason: v1alpha1.ReasonAnswering,
			answer: answer{expected: "set", seen: []observation{serving("p", "before", refusing)}},
		},
		{name: "a pod serves the base from before", answer: answer{seen: []observation{serving("p", "before", oldBase)}}, want: true, reason: v1alpha1.ReasonAnswering},
		{name: "a pod has loaded nothing", answer: answer{seen: []observation{serving("p", "")}}, was: true, reason: v1alpha1.ReasonNoPodAnswers},
		{name: "a pod is not ready", answer: answer{expected: "set", seen: []observation{serving("p", "set", unready)}}, was: true, reason: v1alpha1.ReasonNoPodAnswers},
		{name: "a pod crashes", answer: answer{seen: []observation{serving("p", "", crashing, unready)}}, was: true, reason: v1alpha1.ReasonNoPodAnswers},
		{name: "a pod is ready and cannot be asked, as before it could", answer: answer{seen: []observation{serving("p", "", silent)}}, was: true, want: true, reason: v1alpha1.ReasonAnswering},
		{name: "a pod is ready and could never be asked", answer: answer{seen: []observation{serving("p", "", silent)}}, reason: v1alpha1.ReasonNoPodAnswers},
		{
			name: "one of two is enough", want: true, reason: v1alpha1.ReasonAnswering,
			answer: answer{expected: "set", seen: []observation{serving("p", "set"), serving("q", "", unready)}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			holds, reason, message := available(tc.answer, tc.was)
			if holds != tc.want || reason != tc.reason || message == "" {
				t.Errorf("%v %s (%s), want %v %s", holds, reason, message, tc.want, tc.reason)
			}
		})
	}
}

func TestExpertStates(t *testing.T) {
	chosen := choose(policy(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Experts = []v1alpha1.PolicyExpert{{Name: "math"}, {Name: "slow"}, {Name: "bad"}, {Name: "none"}}
	}), readyBase(), found(expert("math"), expert("slow", training), expert("bad", worse)))
	states := func(seen ...observation) map[string]v1alpha1.ExpertState {
		got := map[string]v1alpha1.ExpertState{}
		for _, e := range expertStatuses(chosen, seen) {
			got[e.Name] = e.State
		}
		return got
	}
	for _, tc := range []struct {
		name string
		seen []observation
		math v1alpha1.ExpertState
	}{
		{"no pod", nil, v1alpha1.ExpertLoading},
		{"a pod has the set", []observation{serving("p", chosen.digest)}, v1alpha1.ExpertServed},
		{"one of two has it", []observation{serving("p", chosen.digest), serving("q", "before")}, v1alpha1.ExpertLoading},
	} {
		want := map[string]v1alpha1.ExpertState{
			"math": tc.math, "slow": v1alpha1.ExpertUpdating, "bad": v1alpha1.ExpertBelowBaseline, "none": v1alpha1.ExpertMissing,
		}
		if diff := cmp.Diff(want, states(tc.seen...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	for _, e := range expertStatuses(chosen, nil) {
		if e.Name == "bad" && (e.Score != "0.0625" || e.BaselineScore != "0.4688" || e.Digest != "") {
			t.Errorf("an expert that is not served shows score %q, baseline %q, digest %q", e.Score, e.BaselineScore, e.Digest)
		}
	}
}
