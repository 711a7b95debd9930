// Package index names the field indexes of the operator's cache, registers them
// once, and turns an event about one object into the objects that refer to it.
package index

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
)

// Names of the indexes.
const (
	// ByBaseModel finds ExpertVectors and AdaptivePolicies by the BaseModel that
	// they refer to.
	ByBaseModel = "spec.baseModelRef.name"
	// ByDataset finds ExpertVectors by a ConfigMap that holds a data set.
	ByDataset = "spec.training.dataset.configMap.name"
	// ByExamples finds AdaptivePolicies by a ConfigMap that holds their examples, or their
	// prompts of no skill.
	ByExamples = "spec.strategy.configMap.name"
	// ByExpert finds AdaptivePolicies by the ExpertVectors that their status names, the
	// classifier among them.
	ByExpert = "status.experts.name"
	// ByClaim finds BaseModels by the existing claim that they use.
	ByClaim = "spec.storage.existingClaim"
)

// Register adds every index to the manager's cache.
func Register(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []struct {
		object client.Object
		name   string
		values client.IndexerFunc
	}{
		{&v1alpha1.ExpertVector{}, ByBaseModel, func(o client.Object) []string {
			return []string{o.(*v1alpha1.ExpertVector).Spec.BaseModelRef.Name}
		}},
		{&v1alpha1.AdaptivePolicy{}, ByBaseModel, func(o client.Object) []string {
			return []string{o.(*v1alpha1.AdaptivePolicy).Spec.BaseModelRef.Name}
		}},
		{&v1alpha1.ExpertVector{}, ByDataset, func(o client.Object) []string {
			return Datasets(o.(*v1alpha1.ExpertVector))
		}},
		{&v1alpha1.AdaptivePolicy{}, ByExamples, func(o client.Object) []string {
			return examples(o.(*v1alpha1.AdaptivePolicy))
		}},
		{&v1alpha1.AdaptivePolicy{}, ByExpert, func(o client.Object) []string {
			var names []string
			status := &o.(*v1alpha1.AdaptivePolicy).Status
			for _, e := range status.Experts {
				names = append(names, e.Name)
			}
			if c := status.Classifier; c != nil && !slices.Contains(names, c.Expert) {
				names = append(names, c.Expert)
			}
			return names
		}},
		{&v1alpha1.BaseModel{}, ByClaim, func(o client.Object) []string {
			if claim := o.(*v1alpha1.BaseModel).Spec.Storage.ExistingClaim; claim != "" {
				return []string{claim}
			}
			return nil
		}},
	} {
		if err := indexer.IndexField(ctx, i.object, i.name, i.values); err != nil {
			return fmt.Errorf("indexing %s of %T: %w", i.name, i.object, err)
		}
	}
	return nil
}

// examples are the names of the ConfigMaps that hold a policy's own data sets.
func examples(policy *v1alpha1.AdaptivePolicy) []string {
	var sets []*v1alpha1.Dataset
	switch s := &policy.Spec.Strategy; {
	case s.FewShot != nil:
		sets = append(sets, &s.FewShot.Dataset)
	case s.Probe != nil:
		sets = append(sets, s.Probe.Others)
	}
	if desired.Evaluates(policy) {
		for _, set := range desired.EvaluationSets(policy) {
			sets = append(sets, set.Dataset)
		}
	}
	var names []string
	for _, set := range sets {
		if set != nil && set.ConfigMap != nil && !slices.Contains(names, set.ConfigMap.Name) {
			names = append(names, set.ConfigMap.Name)
		}
	}
	return names
}

// Datasets are the names of the ConfigMaps that hold an expert's data sets.
func Datasets(expert *v1alpha1.ExpertVector) []string {
	if expert.Spec.Training == nil {
		return nil
	}
	var names []string
	for _, part := range desired.Parts(&expert.Spec.Training.Dataset) {
		if ref := part.Dataset.ConfigMap; ref != nil && !slices.Contains(names, ref.Name) {
			names = append(names, ref.Name)
		}
	}
	return names
}

// Referrers turns an event about an object into requests for the objects of a
// list's kind which the index finds by its name.
func Referrers(c client.Reader, list func() client.ObjectList, index string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return find(ctx, c, list(), o.GetNamespace(), index, o.GetName())
	})
}

// BaseModelOf turns an event about an ExpertVector or AdaptivePolicy into a
// request for its BaseModel.
func BaseModelOf() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		var name string
		switch object := o.(type) {
		case *v1alpha1.ExpertVector:
			name = object.Spec.BaseModelRef.Name
		case *v1alpha1.AdaptivePolicy:
			name = object.Spec.BaseModelRef.Name
		}
		return request(o.GetNamespace(), name)
	})
}

// Labelled turns an event about an object that the operator made into a request
// for the object that one of its labels names.
func Labelled(label string, component string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		if o.GetLabels()[v1alpha1.LabelComponent] != component {
			return nil
		}
		return request(o.GetNamespace(), o.GetLabels()[label])
	})
}

// PoliciesOf turns an event about an ExpertVector into requests for the
// AdaptivePolicies that name or select it, or might have before it changed.
func PoliciesOf(c client.Reader) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		expert, ok := o.(*v1alpha1.ExpertVector)
		if !ok {
			return nil
		}
		var policies v1alpha1.AdaptivePolicyList
		if err := c.List(ctx, &policies, client.InNamespace(expert.Namespace)); err != nil {
			log.FromContext(ctx).Error(err, "Failed to list AdaptivePolicies", "expertVector", client.ObjectKeyFromObject(o))
			return nil
		}
		var requests []reconcile.Request
		for i := range policies.Items {
			if policy := &policies.Items[i]; concerns(policy, expert) {
				requests = append(requests, request(policy.Namespace, policy.Name)...)
			}
		}
		return requests
	})
}

// ExpertsOf turns an event about an AdaptivePolicy into requests for the
// ExpertVectors whose artifacts its pods are to serve, or were before it changed.
func ExpertsOf() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		policy, ok := o.(*v1alpha1.AdaptivePolicy)
		if !ok {
			return nil
		}
		var requests []reconcile.Request
		for _, e := range policy.Status.Experts {
			if e.Digest != "" {
				requests = append(requests, request(policy.Namespace, e.Name)...)
			}
		}
		if c := policy.Status.Classifier; c != nil && c.Digest != "" {
			requests = append(requests, request(policy.Namespace, c.Expert)...)
		}
		return requests
	})
}

func concerns(policy *v1alpha1.AdaptivePolicy, expert *v1alpha1.ExpertVector) bool {
	for _, named := range policy.Spec.Experts {
		if named.Name == expert.Name {
			return true
		}
	}
	for _, had := range policy.Status.Experts {
		if had.Name == expert.Name {
			return true
		}
	}
	if c := policy.Status.Classifier; c != nil && c.Expert == expert.Name {
		return true
	}
	return policy.ClassifierName() == expert.Name ||
		policy.Spec.BaseModelRef.Name == expert.Spec.BaseModelRef.Name && Selects(policy, expert)
}

// Selects reports whether a policy's selector matches an expert's labels. A
// selector that is no valid one matches nothing, and none finds a dispatcher: that
// answers no requests.
func Selects(policy *v1alpha1.AdaptivePolicy, expert *v1alpha1.ExpertVector) bool {
	if policy.Spec.ExpertSelector == nil || expert.Spec.Role == v1alpha1.RoleDispatcher {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(policy.Spec.ExpertSelector)
	return err == nil && selector.Matches(apilabels.Set(expert.Labels))
}

func find(ctx context.Context, c client.Reader, list client.ObjectList, namespace, index, value string) []reconcile.Request {
	if err := c.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{index: value}); err != nil {
		// The cache answers from memory; an error here is a programming mistake,
		// and the next event asks again.
		log.FromContext(ctx).Error(err, "Failed to look up an index", "index", index, "value", value)
		return nil
	}
	var requests []reconcile.Request
	switch l := list.(type) {
	case *v1alpha1.BaseModelList:
		for i := range l.Items {
			requests = append(requests, request(namespace, l.Items[i].Name)...)
		}
	case *v1alpha1.ExpertVectorList:
		for i := range l.Items {
			requests = append(requests, request(namespace, l.Items[i].Name)...)
		}
	case *v1alpha1.AdaptivePolicyList:
		for i := range l.Items {
			requests = append(requests, request(namespace, l.Items[i].Name)...)
		}
	}
	return requests
}

func request(namespace, name string) []reconcile.Request {
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}}
}

// NewExpertVectors makes an empty list, for Referrers.
func NewExpertVectors() client.ObjectList { return &v1alpha1.ExpertVectorList{} }

// NewAdaptivePolicies makes an empty list, for Referrers.
func NewAdaptivePolicies() client.ObjectList { return &v1alpha1.AdaptivePolicyList{} }

// NewBaseModels makes an empty list, for Referrers.
func NewBaseModels() client.ObjectList { return &v1alpha1.BaseModelList{} }
