package adaptivepolicy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// naming is a policy whose classifier is the ExpertVector dispatch.
func naming(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := policy(change...)
	p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyClassifier, Classifier: &v1alpha1.ClassifierStrategy{
		ExpertRef: &v1alpha1.LocalRef{Name: "dispatch"},
	}}
	return p
}

// owning is one that trains its classifier itself.
func owning(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := naming(change...)
	p.Spec.Strategy.Classifier = &v1alpha1.ClassifierStrategy{Train: &v1alpha1.ClassifierTraining{}}
	return p
}

// taught is an expert that was trained in the cluster.
func taught(e *v1alpha1.ExpertVector) {
	e.Spec.Training = &v1alpha1.TrainingSpec{Dataset: v1alpha1.TrainingDataset{
		Train:      v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: e.Name, Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K},
		Validation: v1alpha1.Dataset{ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: e.Name, Key: "validation.jsonl"}, Format: v1alpha1.FormatGSM8K},
	}}
}

// dispatcher is a classifier that was trained for the skills math and code, as the
// experts of these tests have them.
func dispatcher(t *testing.T, name string, change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	t.Helper()
	question, err := contract.Pass1{Skills: []contract.SkillLine{
		{Skill: "math", Description: "all of math"}, {Skill: "code", Description: "all of code"},
	}}.Digest()
	if err != nil {
		t.Fatal(err)
	}
	e := expert(name, func(e *v1alpha1.ExpertVector) {
		e.Spec.Role, e.Spec.Skill = v1alpha1.RoleDispatcher, "dispatching"
		e.Status.Artifact = &v1alpha1.ExpertArtifact{Digest: digest("c"), TrainedFor: v1alpha1.Digest(question)}
	})
	for _, c := range change {
		c(e)
	}
	return e
}

// unknown is a classifier of which it is not known what it was trained for.
func unknown(e *v1alpha1.ExpertVector) { e.Status.Artifact.TrainedFor = "" }

// stale is one that was trained for something else.
func stale(e *v1alpha1.ExpertVector) { e.Status.Artifact.TrainedFor = digest("9") }

func unmade(e *v1alpha1.ExpertVector) { e.Status.Artifact = nil }

func TestClassifierIsServedBesideTheExperts(t *testing.T) {
	const own = "assistant-classifier"
	untaught := func(e *v1alpha1.ExpertVector) { e.Spec.Training = nil }
	for name, tc := range map[string]struct {
		policy     *v1alpha1.AdaptivePolicy
		classifier *v1alpha1.ExpertVector
		math       func(*v1alpha1.ExpertVector)
		serves     bool
		state      v1alpha1.ExpertState
		problem    string
		current    string
		untaught   []string
	}{
		"named, and current": {policy: naming(), classifier: dispatcher(t, "dispatch"), serves: true, state: v1alpha1.ExpertServed, current: v1alpha1.ReasonCurrent},
		"named, and stale: it is told, and nothing is waited for": {
			policy: naming(), classifier: dispatcher(t, "dispatch", stale), serves: true, state: v1alpha1.ExpertServed, current: v1alpha1.ReasonClassifierStale,
		},
		"named, and imported": {
			policy: naming(), classifier: dispatcher(t, "dispatch", unknown), serves: true, state: v1alpha1.ExpertServed, current: v1alpha1.ReasonClassifierUnknown,
		},
		"named, and not there": {policy: naming(), state: v1alpha1.ExpertMissing, problem: v1alpha1.ReasonClassifierNotReady, current: v1alpha1.ReasonClassifierNotReady},
		"named, and no dispatcher": {
			policy: naming(), classifier: expert("dispatch"), state: v1alpha1.ExpertMismatch, problem: v1alpha1.ReasonNoDispatcher, current: v1alpha1.ReasonClassifierNotReady,
		},
		"named, of another decomposition": {
			policy:     naming(),
			classifier: dispatcher(t, "dispatch", func(e *v1alpha1.ExpertVector) { e.Status.DecompositionDigest = digest("9") }),
			state:      v1alpha1.ExpertMismatch, problem: v1alpha1.ReasonDecompositionMismatch, current: v1alpha1.ReasonClassifierNotReady,
		},
		"worse than the base: pass 1 runs with this": {
			policy: naming(), classifier: dispatcher(t, "dispatch", worse),
			state: v1alpha1.ExpertBelowBaseline, problem: v1alpha1.ReasonBelowBaseline, current: v1alpha1.ReasonClassifierNotReady,
		},
		"as good as the base, where experts must be better": {
			policy: naming(func(p *v1alpha1.AdaptivePolicy) {
				p.Spec.Rollout = &v1alpha1.RolloutSpec{Gate: &v1alpha1.RolloutGate{MinGain: "0.1"}}
			}),
			classifier: dispatcher(t, "dispatch", func(e *v1alpha1.ExpertVector) { e.Status.Score = e.Status.BaselineScore }),
			serves:     true, state: v1alpha1.ExpertServed, current: v1alpha1.ReasonCurrent,
		},
		"its own, trained for the first time": {
			policy: owning(), classifier: dispatcher(t, own, unmade, training),
			state: v1alpha1.ExpertNotReady, problem: v1alpha1.ReasonClassifierNotReady, current: v1alpha1.ReasonClassifierNotReady,
		},
		"its own, trained again for other experts: the one before is served": {
			policy: owning(), classifier: dispatcher(t, own, stale, training), serves: true,
			state: v1alpha1.ExpertUpdating, problem: v1alpha1.ReasonClassifierStale, current: v1alpha1.ReasonClassifierStale,
		},
		"its own, trained again with other prompts": {
			policy: owning(), classifier: dispatcher(t, own, training), serves: true,
			state: v1alpha1.ExpertUpdating, problem: v1alpha1.ReasonExpertsNotReady, current: v1alpha1.ReasonCurrent,
		},
		"its own, with an expert below the gate left out of what it is trained for": {
			policy: owning(), classifier: dispatcher(t, own), math: worse, serves: true,
			state: v1alpha1.ExpertUpdating, problem: v1alpha1.ReasonBelowBaseline, current: v1alpha1.ReasonClassifierStale,
		},
		"its own, with nothing to teach": {
			policy: owning(), math: untaught, state: v1alpha1.ExpertMissing, problem: v1alpha1.ReasonClassifierUntrainable, current: v1alpha1.ReasonClassifierNotReady,
			untaught: []string{"math"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			math := expert("math", taught)
			if tc.math != nil {
				tc.math(math)
			}
			experts := found(math, expert("code", taught))
			if tc.classifier != nil {
				experts[tc.classifier.Name] = tc.classifier
			}
			chosen := choose(tc.policy, readyBase(), experts)
			if serves := chosen.set.Classifier != nil; serves != tc.serves || serves != (chosen.set.Strategy == contract.StrategyClassifier) {
				t.Errorf("strategy %s with classifier %+v, want one: %t", chosen.set.Strategy, chosen.set.Classifier, tc.serves)
			}
			if got := reasonOf(chosen.problem); got != tc.problem {
				t.Errorf("problem %q (%v), want %q", got, chosen.problem, tc.problem)
			}
			classifierStatus(tc.policy, chosen, []observation{serving("p", chosen.digest)})
			s := tc.policy.Status.Classifier
			c := meta.FindStatusCondition(tc.policy.Status.Conditions, v1alpha1.ConditionClassifierCurrent)
			if s.State != tc.state || c.Reason != tc.current || *s.Stale != (tc.current == v1alpha1.ReasonClassifierStale) {
				t.Errorf("state %s, %s, stale %t; want %s, %s", s.State, c.Reason, *s.Stale, tc.state, tc.current)
			}
			if diff := cmp.Diff(tc.untaught, s.Untaught); diff != "" {
				t.Errorf("untaught (-want +got):\n%s", diff)
			}
		})
	}
}

func reasonOf(err error) string {
	return statustest.Of("", status.Ready{}, err).Reason
}

// TestDispatchersAreNoExperts: a selector does not find them, and a policy that names
// one is told.
func TestDispatchersAreNoExperts(t *testing.T) {
	chosen := choose(policy(selecting), readyBase(), found(expert("math"), dispatcher(t, "dispatch")))
	if len(chosen.set.Experts) != 1 || chosen.problem != nil {
		t.Errorf("selected %+v, %v; want math alone", chosen.set.Experts, chosen.problem)
	}
	chosen = choose(policy(), readyBase(), found(expert("math"), dispatcher(t, "code")))
	if len(chosen.set.Experts) != 1 || reasonOf(chosen.problem) != v1alpha1.ReasonDispatcher {
		t.Errorf("serves %+v, %v; want math alone, and to be told of code", chosen.set.Experts, chosen.problem)
	}
}

// TestALostClassifierIsToldOf by its state, which its ExpertVector looks at.
func TestALostClassifierIsToldOf(t *testing.T) {
	p := naming()
	chosen := choose(p, readyBase(), found(expert("math"), expert("code"), dispatcher(t, "dispatch")))
	seen := []observation{serving("p", "less", missing("dispatch", contract.ReasonExpertMissing, "c"))}
	classifierStatus(p, chosen, seen)
	if s := p.Status.Classifier; s.State != v1alpha1.ExpertLost {
		t.Errorf("state %s, want Lost", s.State)
	}
	if err := loaded(chosen, seen); reasonOf(err) != v1alpha1.ReasonExpertLost {
		t.Errorf("the policy waits for %v", err)
	}
}

// TestClassifierStatusEndsWithTheStrategy: what is no more is not told.
func TestClassifierStatusEndsWithTheStrategy(t *testing.T) {
	p := naming()
	p.Status.Classifier = &v1alpha1.PolicyClassifier{Expert: "dispatch"}
	status.Set(p, v1alpha1.ConditionClassifierCurrent, true, v1alpha1.ReasonCurrent, "")
	p.Spec.Strategy = v1alpha1.Strategy{}
	classifierStatus(p, choose(p, readyBase(), found(expert("math"), expert("code"))), nil)
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionClassifierCurrent); c != nil || p.Status.Classifier != nil {
		t.Errorf("status %+v, condition %+v", p.Status.Classifier, c)
	}
}

// classifierMessages is TestMessages' part about classifiers.
func classifierMessages(t *testing.T) (all []statustest.Message) {
	const own = "assistant-classifier"
	deleted := func(e *v1alpha1.ExpertVector) { e.DeletionTimestamp = new(metav1.Now()) }
	one := []observation{serving("p1", "set")}
	for _, tc := range []struct {
		name   string
		policy *v1alpha1.AdaptivePolicy
		with   *v1alpha1.ExpertVector
		math   func(*v1alpha1.ExpertVector)
	}{
		{"the classifier is not there", naming(), nil, taught},
		{"the classifier is no dispatcher", naming(), expert("dispatch"), taught},
		{"the classifier is of another base", naming(), dispatcher(t, "dispatch", func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }), taught},
		{"the classifier is worse than the base", naming(), dispatcher(t, "dispatch", worse), taught},
		{"the classifier is worse than the base, and trained anew", naming(), dispatcher(t, "dispatch", worse, training), taught},
		{"the classifier is for other skills", naming(), dispatcher(t, "dispatch", stale), taught},
		{"the classifier is of an unknown origin", naming(), dispatcher(t, "dispatch", unknown), taught},
		{"its own classifier is being deleted", owning(), dispatcher(t, own, deleted), taught},
		{"its own classifier is trained", owning(), dispatcher(t, own, unmade, training), taught},
		{"its own classifier is trained again", owning(), dispatcher(t, own, stale, training), taught},
		{"its own classifier has nothing to learn", owning(), nil, func(*v1alpha1.ExpertVector) {}},
		{"its own classifier lacks prompts", owning(), dispatcher(t, own), nil},
		{"an expert is a dispatcher", policy(), nil, func(e *v1alpha1.ExpertVector) { e.Spec.Role = v1alpha1.RoleDispatcher }},
	} {
		math, code := expert("math"), expert("code", taught)
		if tc.math != nil {
			tc.math(math)
		} else { // Imported, beside two skills that can be learnt.
			tc.policy.Spec.Strategy.Classifier.Train.Others = &v1alpha1.Dataset{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/others.jsonl"}}
		}
		experts := found(math, code)
		if tc.with != nil {
			experts[tc.with.Name] = tc.with
		}
		chosen := choose(tc.policy, readyBase(), experts)
		chosen.digest = "set"
		ready, err := conclude(tc.policy, readyBase(), deployed(1), chosen, one)
		all = append(all, statustest.Of(tc.name, ready, err))
		classifierStatus(tc.policy, chosen, one)
		if c := meta.FindStatusCondition(tc.policy.Status.Conditions, v1alpha1.ConditionClassifierCurrent); c != nil {
			all = append(all, statustest.Message{
				Case: tc.name + " (ClassifierCurrent)", Ready: c.Status == metav1.ConditionTrue, Reason: c.Reason, Text: c.Message,
			})
		}
	}
	return all
}
