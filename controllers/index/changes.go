package index

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// An object is written each time that somebody looks how far its run is, and its dependants
// are many: with n experts in training, n writes of some seconds would wake every policy
// and the base, whose own writes would wake all n. So dependants wake for what they look
// at, and for nothing else.

// MoreThanProgress passes the changes of an object of ours but those of how far its own run
// is. Its controller wrote that itself, and asks the pod again when it is time: to wake for
// it would be to ask at once, and to write again, as fast as the run goes on.
func MoreThanProgress() predicate.Predicate { return changed(still) }

// Settled passes the changes of a BaseModel or an ExpertVector that concern what depends on
// it: all but how far a run is, what a volume holds and who else depends on it.
func Settled() predicate.Predicate {
	return changed(func(o client.Object) client.Object {
		o = still(o)
		switch object := o.(type) {
		case *v1alpha1.BaseModel:
			s := &object.Status
			s.ReferencedBy, s.Storage, s.Runs = nil, nil, nil
		case *v1alpha1.ExpertVector:
			object.Status.Runs = nil
		}
		return o
	})
}

// still copies an object without how far its run is.
func still(o client.Object) client.Object {
	switch object := o.DeepCopyObject().(type) {
	case *v1alpha1.BaseModel:
		s := &object.Status
		s.Progress = nil
		quiet(s.Conditions, v1alpha1.ReasonFetching, v1alpha1.ReasonDecomposing)
		return object
	case *v1alpha1.ExpertVector:
		s := &object.Status
		if s.Artifact == nil {
			s.BaselineScore = "" // Of a run that goes on.
		}
		s.Progress = nil
		quiet(s.Conditions, v1alpha1.ReasonTraining, v1alpha1.ReasonImporting)
		return object
	case *v1alpha1.AdaptivePolicy:
		s := &object.Status
		if s.FewShot != nil {
			s.FewShot.Progress = nil
		}
		if s.Probe != nil {
			s.Probe.Progress = nil
		}
		if s.Rollout != nil {
			s.Rollout.Progress = nil
		}
		quiet(s.Conditions, v1alpha1.ReasonSearching, v1alpha1.ReasonFitting, v1alpha1.ReasonEvaluating)
		return object
	default:
		return o
	}
}

// quiet empties the messages of conditions that say how far a run is.
func quiet(conditions []metav1.Condition, reasons ...string) {
	for i := range conditions {
		if slices.Contains(reasons, conditions[i].Reason) {
			conditions[i].Message = ""
		}
	}
}

// Serves passes the changes of an AdaptivePolicy that concern the experts which its pods
// serve: which ones these are, and whether pods find their artifacts; not what was asked of
// them meanwhile.
func Serves() predicate.Predicate {
	return changed(func(o client.Object) client.Object {
		policy, ok := o.(*v1alpha1.AdaptivePolicy)
		if !ok {
			return o
		}
		seen := &v1alpha1.AdaptivePolicy{ObjectMeta: *policy.ObjectMeta.DeepCopy()}
		seen.Status.PodCounts = policy.Status.PodCounts
		for _, e := range policy.Status.Experts {
			seen.Status.Experts = append(seen.Status.Experts, v1alpha1.PolicyExpertStatus{Name: e.Name, State: e.State, Digest: e.Digest})
		}
		if c := policy.Status.Classifier; c != nil {
			seen.Status.Classifier = &v1alpha1.PolicyClassifier{Expert: c.Expert, State: c.State, Digest: c.Digest}
		}
		return seen
	})
}

// Refers passes the changes of an object that refers to a BaseModel which concern the base:
// to which one, and to which artifacts.
func Refers() predicate.Predicate {
	return changed(func(o client.Object) client.Object {
		switch object := o.(type) {
		case *v1alpha1.ExpertVector:
			seen := &v1alpha1.ExpertVector{ObjectMeta: *object.ObjectMeta.DeepCopy()}
			seen.Spec.BaseModelRef = object.Spec.BaseModelRef
			s := &object.Status
			seen.Status.Artifact, seen.Status.DecompositionDigest, seen.Status.BaseDigest = s.Artifact, s.DecompositionDigest, s.BaseDigest
			return seen
		case *v1alpha1.AdaptivePolicy:
			seen := &v1alpha1.AdaptivePolicy{ObjectMeta: *object.ObjectMeta.DeepCopy()}
			seen.Spec.BaseModelRef = object.Spec.BaseModelRef
			s := &object.Status
			seen.Status.DecompositionDigest = s.DecompositionDigest
			for _, e := range s.Experts {
				seen.Status.Experts = append(seen.Status.Experts, v1alpha1.PolicyExpertStatus{Name: e.Name, Digest: e.Digest})
			}
			if s.Probe != nil {
				seen.Status.Probe = &v1alpha1.ProbeStatus{Digest: s.Probe.Digest}
			}
			return seen
		default:
			return o
		}
	})
}

// changed passes every creation and deletion, and those updates after which what is seen of
// an object is not what it was. Versions and other bookkeeping are never seen; that the
// cache was filled anew is no change.
func changed(seen func(client.Object) client.Object) predicate.Predicate {
	look := func(o client.Object) client.Object {
		s := seen(o)
		s.SetResourceVersion("")
		s.SetManagedFields(nil)
		return s
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		if e.ObjectOld == nil || e.ObjectNew == nil {
			return true
		}
		return !equality.Semantic.DeepEqual(look(e.ObjectOld), look(e.ObjectNew))
	}}
}
