package adaptivepolicy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// verdict is an error as "Stalled Reason", "Waiting Reason" or "".
var verdict = statustest.Verdict

func TestJudgeSaysWhetherAnExpertIsServed(t *testing.T) {
	for _, tc := range []struct {
		name    string
		expert  *v1alpha1.ExpertVector
		policy  *v1alpha1.AdaptivePolicy
		only    bool // it is selected, not named
		state   v1alpha1.ExpertState
		served  bool
		want    string
		message []string
	}{
		{name: "it is there", expert: expert("math"), state: v1alpha1.ExpertLoading, served: true},
		{name: "it is not there", state: v1alpha1.ExpertMissing, want: "Waiting ExpertNotFound", message: []string{"math"}},
		{
			name: "it is being deleted", expert: expert("math", func(e *v1alpha1.ExpertVector) { e.DeletionTimestamp = &metav1.Time{} }),
			state: v1alpha1.ExpertLoading, served: true, // A zero time is none.
		},
		{
			name: "it is being deleted for real", expert: expert("math", func(e *v1alpha1.ExpertVector) { e.DeletionTimestamp = new(metav1.Now()) }),
			state: v1alpha1.ExpertMissing, want: "Waiting ExpertNotFound",
		},
		{
			name: "it is of another base", expert: expert("math", func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }),
			state: v1alpha1.ExpertMismatch, want: "Stalled ExpertOfAnotherBaseModel", message: []string{"other", "tiny"},
		},
		{
			name: "it is being trained for the first time", expert: expert("math", training, func(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil }),
			state: v1alpha1.ExpertNotReady, want: "Waiting ExpertsNotReady", message: []string{"Training: Iteration 3/40"},
		},
		{
			name: "it scales another decomposition, and its next run goes on", expert: expert("math", training, func(e *v1alpha1.ExpertVector) { e.Status.DecompositionDigest = digest("9") }),
			state: v1alpha1.ExpertMismatch, want: "Waiting DecompositionMismatch", message: []string{string(digest("9")), string(digest("b")), "Training"},
		},
		{
			name: "it scales another decomposition, which it has not seen", expert: expert("math", func(e *v1alpha1.ExpertVector) { e.Status.DecompositionDigest = digest("9") }),
			state: v1alpha1.ExpertMismatch, want: "Waiting DecompositionMismatch", message: []string{"it has not begun"},
		},
		{
			name: "it is trained anew", expert: expert("math", training),
			state: v1alpha1.ExpertUpdating, served: true, want: "Waiting ExpertsNotReady", message: []string{"previous artifact", "Iteration 3/40"},
		},
		{
			name: "it is worse than the base", expert: expert("math", worse), state: v1alpha1.ExpertBelowBaseline,
			want: "Stalled BelowBaseline", message: []string{"0.0625", "0.4688", "minGain", "-1"},
		},
		{name: "it is worse than the base, and only selected", expert: expert("math", worse), only: true, state: v1alpha1.ExpertBelowBaseline},
		{
			name: "it is worse than the base, and trained anew", expert: expert("math", worse, training), state: v1alpha1.ExpertBelowBaseline,
			want: "Waiting ExpertsNotReady", message: []string{"0.0625", "Iteration 3/40"},
		},
		{
			name: "it is worse than the base, and wanted all the same", expert: expert("math", worse),
			policy: policy(gate("-1")), state: v1alpha1.ExpertLoading, served: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := candidate{name: "math", expert: tc.expert, named: !tc.only}
			p := tc.policy
			if p == nil {
				p = policy()
			}
			err := judge(&c, p, readyBase())
			if c.state != tc.state || c.served != tc.served {
				t.Errorf("state %s, served %v; want %s, %v", c.state, c.served, tc.state, tc.served)
			}
			if got := verdict(err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			for _, part := range tc.message {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func gate(gain v1alpha1.Gain) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: gain}}
	}
}

func TestGainedComparesScoresAsTheyAreWritten(t *testing.T) {
	for _, tc := range []struct {
		name            string
		score, baseline v1alpha1.Score
		policy          *v1alpha1.AdaptivePolicy
		want            bool
	}{
		{"better", "0.5157", "0.5156", policy(), true},
		{"equal", "0.5156", "0.5156", policy(), true},
		{"worse by the least", "0.5155", "0.5156", policy(), false},
		{"as good as asked, where float64 would say it is not", "0.3000", "0.1000", policy(gate("0.2")), true},
		{"less than asked", "0.2999", "0.1000", policy(gate("0.2")), false},
		{"a little worse is taken", "0.4000", "0.5000", policy(gate("-0.1")), true},
		{"everything is taken", "0.0000", "1.0000", policy(gate("-1")), true},
		{"a gate without a gain is the default", "0.4000", "0.5000", policy(gate("")), false},
		{"imported: no scores", "", "", policy(), true},
		{"no baseline", "0.1000", "", policy(), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := expert("math", func(e *v1alpha1.ExpertVector) { e.Status.Score, e.Status.BaselineScore = tc.score, tc.baseline })
			if got := gained(tc.policy, e); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestContextFits(t *testing.T) {
	asking := func(n int32) *v1alpha1.AdaptivePolicy {
		return policy(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.ContextLength = &n })
	}
	for _, tc := range []struct {
		name   string
		policy *v1alpha1.AdaptivePolicy
		base   *v1alpha1.BaseModel
		want   string
	}{
		{"nothing is asked for", policy(), readyBase(), ""},
		{"less", asking(384), readyBase(), ""},
		{"all of it", asking(512), readyBase(), ""},
		{"more", asking(513), readyBase(), "Stalled ContextTooLong"},
		{"a model that does not say", asking(513), readyBase(func(b *v1alpha1.BaseModel) { b.Status.Architecture.ContextLength = 0 }), ""},
		{"a model of which nothing is known", asking(513), readyBase(func(b *v1alpha1.BaseModel) { b.Status.Architecture = nil }), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := contextFits(tc.policy, tc.base)
			if got := verdict(err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if err != nil && (!strings.Contains(err.Error(), "513") || !strings.Contains(err.Error(), "512")) {
				t.Errorf("%q does not say both numbers", err)
			}
		})
	}
}

func TestChooseInTheOrderInWhichThePolicyNames(t *testing.T) {
	ref := func(name string, digit string) contract.ExpertRef {
		return contract.ExpertRef{Name: name, Skill: name, Description: "all of " + name, Digest: string(digest(digit))}
	}
	for _, tc := range []struct {
		name   string
		policy *v1alpha1.AdaptivePolicy
		found  map[string]*v1alpha1.ExpertVector
		want   []contract.ExpertRef
		misfit bool
		states map[string]v1alpha1.ExpertState
		wants  string
	}{
		{
			name: "all of them", policy: policy(), found: found(expert("code"), expert("math")),
			want:   []contract.ExpertRef{ref("math", "1"), ref("code", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "Loading", "code": "Loading"},
		},
		{
			name: "named ones first, then those that are selected, by name", found: found(expert("a"), expert("math"), expert("z"), expert("code")),
			policy: policy(selecting, func(p *v1alpha1.AdaptivePolicy) { p.Spec.Experts = []v1alpha1.PolicyExpert{{Name: "z"}} }),
			want:   []contract.ExpertRef{ref("z", "1"), ref("a", "1"), ref("code", "1"), ref("math", "1")},
			states: map[string]v1alpha1.ExpertState{"a": "Loading", "z": "Loading", "math": "Loading", "code": "Loading"},
		},
		{
			name: "a selector finds none of another base, none that is deleted, none without the label", policy: policy(selecting),
			found: found(expert("math"),
				expert("other", func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }),
				expert("gone", func(e *v1alpha1.ExpertVector) { e.DeletionTimestamp = new(metav1.Now()) }),
				expert("plain", func(e *v1alpha1.ExpertVector) { e.Labels = nil })),
			want: []contract.ExpertRef{ref("math", "1")}, states: map[string]v1alpha1.ExpertState{"math": "Loading"},
		},
		{
			name: "the rest is served while one is not there", policy: policy(), found: found(expert("code")),
			want:   []contract.ExpertRef{ref("code", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "Missing", "code": "Loading"}, wants: "Waiting ExpertNotFound",
		},
		{
			name: "the rest is served while one is worse than the base", policy: policy(), found: found(expert("math", worse), expert("code")),
			want:   []contract.ExpertRef{ref("code", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "BelowBaseline", "code": "Loading"}, wants: "Stalled BelowBaseline",
		},
		{
			name: "a selected one that is worse is left out, and nothing is wrong", policy: policy(selecting), found: found(expert("math", worse), expert("code")),
			want:   []contract.ExpertRef{ref("code", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "BelowBaseline", "code": "Loading"},
		},
		{
			name: "two with one skill", policy: policy(), found: found(expert("math"), expert("code", func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "math" })),
			want:   []contract.ExpertRef{ref("math", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "Loading", "code": "Mismatch"}, wants: "Stalled DuplicateSkill",
		},
		{
			name: "one that does not fit the base any more", policy: policy(), misfit: true,
			found:  found(expert("math"), expert("code", training, func(e *v1alpha1.ExpertVector) { e.Status.DecompositionDigest = digest("9") })),
			want:   []contract.ExpertRef{ref("math", "1")},
			states: map[string]v1alpha1.ExpertState{"math": "Loading", "code": "Mismatch"}, wants: "Waiting DecompositionMismatch",
		},
		{
			name: "who must act comes before what passes", policy: policy(), found: found(expert("code", worse)),
			states: map[string]v1alpha1.ExpertState{"math": "Missing", "code": "BelowBaseline"}, want: []contract.ExpertRef{}, wants: "Stalled BelowBaseline",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := choose(tc.policy, readyBase(), tc.found)
			if diff := cmp.Diff(tc.want, got.set.Experts); diff != "" {
				t.Errorf("experts (-want +got):\n%s", diff)
			}
			states := map[string]v1alpha1.ExpertState{}
			for _, c := range got.candidates {
				states[c.name] = c.state
			}
			if diff := cmp.Diff(tc.states, states); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
			if got.fits == tc.misfit {
				t.Errorf("fits: %v", got.fits)
			}
			if v := verdict(got.problem); v != tc.wants {
				t.Errorf("%q, want %q", v, tc.wants)
			}
			if digest, err := got.set.Digest(); err != nil || digest != got.digest {
				t.Errorf("digest %s, want %s", got.digest, digest)
			}
		})
	}
}
