package adaptivepolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

func decomposedBase() *v1alpha1.BaseModel {
	return &v1alpha1.BaseModel{
		ObjectMeta: metav1.ObjectMeta{Name: "tiny"},
		Status: v1alpha1.BaseModelStatus{
			Artifact:      &v1alpha1.ModelArtifact{Digest: "sha256:model"},
			Decomposition: &v1alpha1.DecompositionStatus{Digest: "sha256:factors"},
		},
	}
}

func readyExpert(name string) *v1alpha1.ExpertVector {
	return &v1alpha1.ExpertVector{
		ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1},
		Spec:       v1alpha1.ExpertVectorSpec{BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: name},
		Status: v1alpha1.ExpertVectorStatus{
			Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded, ObservedGeneration: 1,
			}},
			Artifact: &v1alpha1.ExpertArtifact{Digest: v1alpha1.Digest("sha256:" + name)}, DecompositionDigest: "sha256:factors",
		},
	}
}

// TestASelectorThatFindsTooMany keeps the set within what a pod takes and the
// status within what the schema takes, and says so.
func TestASelectorThatFindsTooMany(t *testing.T) {
	for _, tc := range []struct {
		found   int
		stalled bool
	}{{contract.MaxExperts, false}, {contract.MaxExperts + 2, true}} {
		experts := map[string]*v1alpha1.ExpertVector{}
		for i := range tc.found {
			name := fmt.Sprintf("skill-%03d", i)
			experts[name] = readyExpert(name)
		}
		policy := &v1alpha1.AdaptivePolicy{Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, ExpertSelector: &metav1.LabelSelector{},
		}}
		chosen := choose(policy, decomposedBase(), experts)
		if len(chosen.candidates) != contract.MaxExperts || len(chosen.set.Experts) != contract.MaxExperts {
			t.Errorf("of %d, %d are in the status and %d in the set", tc.found, len(chosen.candidates), len(chosen.set.Experts))
		}
		var stalled *status.Stalled
		if errors.As(chosen.problem, &stalled) != tc.stalled {
			t.Fatalf("of %d: problem %v", tc.found, chosen.problem)
		}
		if tc.stalled && (stalled.Reason != ReasonTooManyExperts || !strings.Contains(stalled.Message, "find 66 experts")) {
			t.Errorf("got %v", stalled)
		}
	}
}

func TestTheFallbackIsInTheSetOnceItIsServed(t *testing.T) {
	expert := func(name string) *v1alpha1.Fallback {
		return &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: name}
	}
	unready := readyExpert("code")
	unready.Status.Artifact = nil
	for _, tc := range []struct {
		name     string
		fallback *v1alpha1.Fallback
		code     *v1alpha1.ExpertVector
		want     string
		reason   string
	}{
		{name: "none is the base", code: readyExpert("code")},
		{name: "the base", fallback: &v1alpha1.Fallback{Type: v1alpha1.FallbackBase}, code: readyExpert("code")},
		{name: "an expert", fallback: expert("code"), code: readyExpert("code"), want: "code"},
		{name: "one without an artifact", fallback: expert("code"), code: unready, reason: v1alpha1.ReasonExpertsNotReady},
		{name: "nobody", fallback: expert("law"), code: readyExpert("code"), reason: v1alpha1.ReasonFallbackNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := &v1alpha1.AdaptivePolicy{Spec: v1alpha1.AdaptivePolicySpec{
				BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Strategy: v1alpha1.Strategy{Fallback: tc.fallback},
				Experts: []v1alpha1.PolicyExpert{{Name: "code"}},
			}}
			chosen := choose(policy, decomposedBase(), map[string]*v1alpha1.ExpertVector{"code": tc.code})
			if chosen.set.Fallback != tc.want {
				t.Errorf("got %q, want %q", chosen.set.Fallback, tc.want)
			}
			got := ""
			if chosen.problem != nil {
				got, _, _ = strings.Cut(chosen.problem.Error(), ":")
			}
			if got != tc.reason {
				t.Errorf("problem %v, want reason %q", chosen.problem, tc.reason)
			}
		})
	}
}

// TestWhatAStrategyIsToldReachesTheSet holds the block of a strategy against the
// set that pods are given. What the runtime does anyway is left out, so that a pod
// of a version before finds the same digest.
func TestWhatAStrategyIsToldReachesTheSet(t *testing.T) {
	for _, tc := range []struct {
		name  string
		block *v1alpha1.PromptStrategy
		talk  *v1alpha1.Conversation
		want  contract.ExpertSet
	}{
		{name: "nothing", want: contract.ExpertSet{}},
		{name: "a conversation as it is without saying", talk: &v1alpha1.Conversation{Type: v1alpha1.ConversationEachTurn}},
		{
			name: "an expert that stays", talk: &v1alpha1.Conversation{Type: v1alpha1.ConversationKeep},
			want: contract.ExpertSet{Conversation: &contract.Conversation{Mode: "Keep"}},
		},
		{
			name: "an expert that stays for a while", talk: &v1alpha1.Conversation{Type: v1alpha1.ConversationSwitch},
			want: contract.ExpertSet{Conversation: &contract.Conversation{Mode: "Switch", Margin: 0.2}},
		},
		{
			name: "an expert that stays for long",
			talk: &v1alpha1.Conversation{Type: v1alpha1.ConversationSwitch, Switch: &v1alpha1.SwitchConversation{Margin: "0.75"}},
			want: contract.ExpertSet{Conversation: &contract.Conversation{Mode: "Switch", Margin: 0.75}},
		},
		{name: "a block that says what goes without saying", block: &v1alpha1.PromptStrategy{TopK: 1, MinProbability: "0.0"}},
		{
			name: "everything",
			block: &v1alpha1.PromptStrategy{
				Template: "{skills} {prompt}", RequestTokens: ptr.To[int32](64), MinProbability: "2.5e-1", TopK: 3,
			},
			want: contract.ExpertSet{PromptTemplate: "{skills} {prompt}", RequestTokens: 64, MinProbability: 0.25, TopK: 3},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := &v1alpha1.AdaptivePolicy{Spec: v1alpha1.AdaptivePolicySpec{
				BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt, Prompt: tc.block, Conversation: tc.talk},
			}}
			tc.want.Strategy, tc.want.Experts = contract.StrategyPrompt, []contract.ExpertRef{}
			chosen := choose(policy, decomposedBase(), nil)
			if diff := cmp.Diff(tc.want, chosen.set); diff != "" || chosen.problem != nil {
				t.Errorf("problem %v; set (-want +got):\n%s", chosen.problem, diff)
			}
		})
	}
}

// TestExpertsThatActOnAnswersAreApart serves those that act on what the first does.
func TestExpertsThatActOnAnswersAreApart(t *testing.T) {
	for _, first := range []string{"math", "code"} {
		found := map[string]*v1alpha1.ExpertVector{"math": readyExpert("math"), "code": readyExpert("code")}
		found["code"].Status.Artifact.Activation = v1alpha1.ActivationAnswer
		policy := &v1alpha1.AdaptivePolicy{Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Strategy: v1alpha1.Strategy{Type: v1alpha1.StrategyPrompt},
			Experts: []v1alpha1.PolicyExpert{{Name: first}},
		}}
		for name := range found {
			if name != first {
				policy.Spec.Experts = append(policy.Spec.Experts, v1alpha1.PolicyExpert{Name: name})
			}
		}
		chosen := choose(policy, decomposedBase(), found)
		if len(chosen.set.Experts) != 1 || chosen.set.Experts[0].Name != first || chosen.candidates[1].state != v1alpha1.ExpertMismatch {
			t.Errorf("with %s first, served are %v, and the other is %s", first, chosen.set.Experts, chosen.candidates[1].state)
		}
		if chosen.problem == nil || !strings.HasPrefix(chosen.problem.Error(), v1alpha1.ReasonMixedActivations) {
			t.Errorf("problem %v", chosen.problem)
		}
		policy.Spec.Experts = policy.Spec.Experts[:1]
		if alone := choose(policy, decomposedBase(), found); alone.problem != nil || len(alone.set.Experts) != 1 {
			t.Errorf("%s alone: %v", first, alone.problem)
		}
	}
}

// TestTwoExpertsOfOneSkill cannot be told apart by pass 1, which Fixed does without.
func TestTwoExpertsOfOneSkill(t *testing.T) {
	for kind, want := range map[v1alpha1.StrategyType]int{v1alpha1.StrategyPrompt: 1, v1alpha1.StrategyFixed: 2} {
		twin := readyExpert("twin")
		twin.Spec.Skill = "math"
		policy := &v1alpha1.AdaptivePolicy{Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Strategy: v1alpha1.Strategy{Type: kind},
			Experts: []v1alpha1.PolicyExpert{{Name: "math"}, {Name: "twin"}},
		}}
		chosen := choose(policy, decomposedBase(), map[string]*v1alpha1.ExpertVector{"math": readyExpert("math"), "twin": twin})
		if len(chosen.set.Experts) != want || (chosen.problem == nil) != (want == 2) {
			t.Errorf("%s serves %d of them, want %d (%v)", kind, len(chosen.set.Experts), want, chosen.problem)
		}
	}
}
