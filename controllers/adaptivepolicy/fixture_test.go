package adaptivepolicy

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

func digest(digit string) v1alpha1.Digest {
	return v1alpha1.Digest(contract.DigestPrefix + strings.Repeat(digit, 64))
}

// readyBase is a BaseModel that is decomposed, with 512 tokens of context.
func readyBase(change ...func(*v1alpha1.BaseModel)) *v1alpha1.BaseModel {
	base := &v1alpha1.BaseModel{
		ObjectMeta: metav1.ObjectMeta{Name: "tiny", Namespace: "demo", Generation: 1},
		Status: v1alpha1.BaseModelStatus{
			Artifact:      &v1alpha1.ModelArtifact{Digest: digest("a")},
			Architecture:  &v1alpha1.Architecture{ContextLength: 512},
			Decomposition: &v1alpha1.DecompositionStatus{Digest: digest("b")},
		},
	}
	status.SetConditions(base, status.Verdict{Ready: true, Reason: v1alpha1.ReasonSucceeded})
	status.Set(base, v1alpha1.ConditionDecomposed, true, v1alpha1.ReasonSucceeded, "")
	for _, c := range change {
		c(base)
	}
	return base
}

// expert is an ExpertVector of the base that is Ready, better than it, and as the
// changes make it.
func expert(name string, change ...func(*v1alpha1.ExpertVector)) *v1alpha1.ExpertVector {
	e := &v1alpha1.ExpertVector{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "demo", Generation: 1, Labels: map[string]string{"team": "demo"}},
		Spec: v1alpha1.ExpertVectorSpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"}, Skill: name, Description: "all of " + name,
		},
		Status: v1alpha1.ExpertVectorStatus{
			Artifact: &v1alpha1.ExpertArtifact{Digest: digest("1")}, DecompositionDigest: digest("b"),
			Score: "0.7031", BaselineScore: "0.4688",
		},
	}
	status.SetConditions(e, status.Verdict{Ready: true, Reason: v1alpha1.ReasonSucceeded, Message: "Expert is there"})
	for _, c := range change {
		c(e)
	}
	return e
}

func training(e *v1alpha1.ExpertVector) {
	status.SetConditions(e, status.Verdict{Reason: v1alpha1.ReasonTraining, Message: "Iteration 3/40"})
}

func worse(e *v1alpha1.ExpertVector) { e.Status.Score = "0.0625" }

func policy(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := &v1alpha1.AdaptivePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "assistant", Namespace: "demo", Generation: 1},
		Spec: v1alpha1.AdaptivePolicySpec{
			BaseModelRef: v1alpha1.LocalRef{Name: "tiny"},
			Experts:      []v1alpha1.PolicyExpert{{Name: "math"}, {Name: "code"}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func selecting(p *v1alpha1.AdaptivePolicy) {
	p.Spec.Experts = nil
	p.Spec.ExpertSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "demo"}}
}

func found(experts ...*v1alpha1.ExpertVector) map[string]*v1alpha1.ExpertVector {
	byName := map[string]*v1alpha1.ExpertVector{}
	for _, e := range experts {
		byName[e.Name] = e
	}
	return byName
}

// deployed is a Deployment of this many pods that is rolled out, as the changes
// make it.
func deployed(replicas int32, change ...func(*appsv1.Deployment)) deployment {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "assistant", Generation: 3},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
			Annotations: map[string]string{v1alpha1.AnnotationTemplate: "new"},
		}}},
		Status: appsv1.DeploymentStatus{
			ObservedGeneration: 3, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas,
		},
	}
	for _, c := range change {
		c(d)
	}
	return deployment{object: d, run: "run"}
}

// serving is what a pod of the new version says that serves the set, as the
// changes make it.
func serving(name, set string, change ...func(*observation)) observation {
	o := observation{
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{v1alpha1.AnnotationTemplate: "new"}},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		},
		current: true,
		status:  contract.ServingStatus{ExpertSetDigest: set},
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func oldVersion(o *observation) { o.pod.Annotations[v1alpha1.AnnotationTemplate] = "old" }

func oldBase(o *observation) { o.current = false }

func unready(o *observation) { o.pod.Status.Conditions[0].Status = corev1.ConditionFalse }

func silent(o *observation) {
	o.status, o.silent, o.trouble = contract.ServingStatus{}, true, "asking pod "+o.pod.Name+": connection refused"
}

func refusing(o *observation) { o.trouble, o.refused = "expert law: the file is truncated", true }

func crashing(o *observation) {
	o.reason, o.hindrance = v1alpha1.ReasonOOMKilled, "Container serve of pod "+o.pod.Name+" was killed at its memory limit; raise spec.serving.resources.limits.memory"
	o.trouble = o.hindrance
}
