package index

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// training is an expert in training, serving a policy that serves it.
func training(change func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	e := &v1alpha1.ExpertVector{ObjectMeta: metav1.ObjectMeta{Name: "math", ResourceVersion: "1"}}
	e.Status.Progress = &v1alpha1.TrainingProgress{Summary: "1/9"}
	e.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonTraining, Message: "Iteration 1/9"}}
	change(e)
	return e
}

func serving(change func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := &v1alpha1.AdaptivePolicy{ObjectMeta: metav1.ObjectMeta{Name: "assistant"}}
	p.Status.Experts = []v1alpha1.PolicyExpertStatus{{Name: "math", Digest: "sha256:1", State: v1alpha1.ExpertServed}}
	p.Status.PodCounts = &v1alpha1.PodCounts{Total: new(int32(1)), Current: new(int32(1))}
	p.Status.FewShot, p.Status.Probe, p.Status.Rollout = &v1alpha1.FewShotStatus{}, &v1alpha1.ProbeStatus{}, &v1alpha1.RolloutStatus{}
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonEvaluating, Message: "1/9"}}
	change(p)
	return p
}

func decomposing(change func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	b := &v1alpha1.BaseModel{ObjectMeta: metav1.ObjectMeta{Name: "tiny"}}
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonDecomposing, Message: "1 of 42"}}
	change(b)
	return b
}

// TestDependantsWakeForWhatTheyLookAt, and for nothing else.
func TestDependantsWakeForWhatTheyLookAt(t *testing.T) {
	expert := func(change func(*v1alpha1.ExpertVector)) [2]client.Object {
		return [2]client.Object{training(func(*v1alpha1.ExpertVector) {}), training(change)}
	}
	policy := func(change func(*v1alpha1.AdaptivePolicy)) [2]client.Object {
		return [2]client.Object{serving(func(*v1alpha1.AdaptivePolicy) {}), serving(change)}
	}
	base := func(change func(*v1alpha1.BaseModel)) [2]client.Object {
		return [2]client.Object{decomposing(func(*v1alpha1.BaseModel) {}), decomposing(change)}
	}
	for _, tc := range []struct {
		name      string
		predicate predicate.Predicate
		objects   [2]client.Object
		want      bool
	}{
		{"how far a training is", Settled(), expert(func(e *v1alpha1.ExpertVector) {
			e.ResourceVersion = "2"
			e.Status.Progress.Summary, e.Status.Conditions[0].Message, e.Status.BaselineScore = "2/9", "Iteration 2/9", "0.5"
			e.Status.Runs = []v1alpha1.RunStatus{{ID: "1", Device: "cpu"}}
		}), false},
		{"a training that ended", Settled(), expert(func(e *v1alpha1.ExpertVector) {
			e.Status.Artifact = &v1alpha1.ExpertArtifact{Digest: "sha256:1"}
		}), true},
		{"a training that stalled", Settled(), expert(func(e *v1alpha1.ExpertVector) { e.Status.Conditions[0].Reason = "Evicted" }), true},
		{"another message of an expert that does not run", Settled(), [2]client.Object{
			training(func(e *v1alpha1.ExpertVector) { e.Status.Conditions[0].Reason = "Evicted" }),
			training(func(e *v1alpha1.ExpertVector) {
				e.Status.Conditions[0].Reason, e.Status.Conditions[0].Message = "Evicted", "node b"
			}),
		}, true},
		{"another label of an expert", Settled(), expert(func(e *v1alpha1.ExpertVector) { e.Labels = map[string]string{"a": "b"} }), true},
		{"an expert's description", Settled(), expert(func(e *v1alpha1.ExpertVector) { e.Spec.Description = "sums" }), true},
		{"who uses a base, and what its volume holds", Settled(), base(func(b *v1alpha1.BaseModel) {
			b.Status.ReferencedBy = &v1alpha1.ReferencedBy{Count: 3}
			b.Status.Storage = &v1alpha1.StorageStatus{Summary: "1Gi of 2Gi"}
			b.Status.Progress, b.Status.Conditions[0].Message = &v1alpha1.StepProgress{Step: "Decomposing"}, "2 of 42"
		}), false},
		{"a base that is decomposed", Settled(), base(func(b *v1alpha1.BaseModel) {
			b.Status.Decomposition = &v1alpha1.DecompositionStatus{Digest: "sha256:2"}
		}), true},
		{"a base that is being deleted", Settled(), base(func(b *v1alpha1.BaseModel) { b.DeletionTimestamp = new(metav1.Now()) }), true},

		{"what a policy was asked", Serves(), policy(func(p *v1alpha1.AdaptivePolicy) {
			p.Status.ReplicaSummary, p.Status.Conditions = "1/1", []metav1.Condition{{Type: "Ready"}}
			p.Status.Experts[0].Score = "0.9"
		}), false},
		{"pods that lost an expert", Serves(), policy(func(p *v1alpha1.AdaptivePolicy) { p.Status.Experts[0].State = v1alpha1.ExpertLost }), true},
		{"other pods", Serves(), policy(func(p *v1alpha1.AdaptivePolicy) { p.Status.PodCounts.Current = new(int32(0)) }), true},
		{"another classifier", Serves(), policy(func(p *v1alpha1.AdaptivePolicy) {
			p.Status.Classifier = &v1alpha1.PolicyClassifier{Expert: "c", Digest: "sha256:3"}
		}), true},

		{"to a base: how far a training is", Refers(), expert(func(e *v1alpha1.ExpertVector) {
			e.Status.Conditions[0].Message = "Iteration 2/9"
		}), false},
		{"to a base: another artifact", Refers(), expert(func(e *v1alpha1.ExpertVector) {
			e.Status.Artifact = &v1alpha1.ExpertArtifact{Digest: "sha256:1"}
		}), true},
		{"to a base: another base", Refers(), expert(func(e *v1alpha1.ExpertVector) { e.Spec.BaseModelRef.Name = "other" }), true},
		{"to a base: a policy's pods", Refers(), policy(func(p *v1alpha1.AdaptivePolicy) { p.Status.PodCounts.Current = new(int32(0)) }), false},
		{"to a base: a policy's experts", Refers(), policy(func(p *v1alpha1.AdaptivePolicy) { p.Status.Experts[0].Digest = "sha256:2" }), true},

		{"to its own controller: how far a training is", MoreThanProgress(), expert(func(e *v1alpha1.ExpertVector) {
			e.Status.Progress.Summary, e.Status.Conditions[0].Message, e.Status.BaselineScore = "2/9", "Iteration 2/9", "0.5"
		}), false},
		{"to its own controller: a run", MoreThanProgress(), expert(func(e *v1alpha1.ExpertVector) {
			e.Status.Runs = []v1alpha1.RunStatus{{ID: "1"}}
		}), true},
		{"to its own controller: an expert's description", MoreThanProgress(), expert(func(e *v1alpha1.ExpertVector) { e.Spec.Description = "sums" }), true},
		{"to its own controller: how far a decomposition is", MoreThanProgress(), base(func(b *v1alpha1.BaseModel) {
			b.Status.Progress, b.Status.Conditions[0].Message = &v1alpha1.StepProgress{Step: "Decomposing"}, "2 of 42"
		}), false},
		{"to its own controller: what a base's volume holds", MoreThanProgress(), base(func(b *v1alpha1.BaseModel) {
			b.Status.Storage = &v1alpha1.StorageStatus{Summary: "1Gi of 2Gi"}
		}), true},
		{"to its own controller: how far a policy's Jobs are", MoreThanProgress(), policy(func(p *v1alpha1.AdaptivePolicy) {
			p.Status.FewShot.Progress = &v1alpha1.FewShotProgress{Summary: "2/9"}
			p.Status.Probe.Progress = &v1alpha1.ProbeProgress{Summary: "2/9"}
			p.Status.Rollout.Progress = &v1alpha1.EvaluationProgress{Summary: "2/9"}
			p.Status.Conditions[0].Message = "2/9"
		}), false},
		{"to its own controller: what a policy evaluated", MoreThanProgress(), policy(func(p *v1alpha1.AdaptivePolicy) {
			p.Status.Rollout.Evaluation = &v1alpha1.RolloutEvaluation{}
		}), true},
	} {
		if got := tc.predicate.Update(event.UpdateEvent{ObjectOld: tc.objects[0], ObjectNew: tc.objects[1]}); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	for name, p := range map[string]predicate.Predicate{"Settled": Settled(), "Serves": Serves(), "Refers": Refers(), "MoreThanProgress": MoreThanProgress()} {
		if o := training(func(*v1alpha1.ExpertVector) {}); !p.Create(event.CreateEvent{Object: o}) || !p.Delete(event.DeleteEvent{Object: o}) {
			t.Errorf("%s passes no creation or deletion", name)
		}
	}
}
