package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// Kinds, as they are shown.
const (
	kindBase   = "BaseModel"
	kindExpert = "ExpertVector"
	kindPolicy = "AdaptivePolicy"
)

// kindNames are the words that name a kind, as kubectl takes them.
var kindNames = map[string]string{
	"basemodel": kindBase, "basemodels": kindBase, "bmodel": kindBase, "base": kindBase, "bases": kindBase,
	"expertvector": kindExpert, "expertvectors": kindExpert, "expert": kindExpert, "experts": kindExpert,
	"adaptivepolicy": kindPolicy, "adaptivepolicies": kindPolicy, "apolicy": kindPolicy, "policy": kindPolicy, "policies": kindPolicy,
}

// target is one object that is asked for.
type target struct{ kind, name string }

// parseTarget reads KIND/NAME or KIND NAME; nothing means all.
func parseTarget(args []string) (*target, error) {
	if len(args) == 0 {
		return nil, nil
	}
	kind, name, found := strings.Cut(args[0], "/")
	switch {
	case found && len(args) == 1:
	case !found && len(args) == 2:
		name = args[1]
	default:
		return nil, usagef("%q names no object: say KIND/NAME, such as expert/math", strings.Join(args, " "))
	}
	kind, _, _ = strings.Cut(strings.ToLower(kind), ".") // expertvectors.transformersquared.dev
	of, known := kindNames[kind]
	if !known || name == "" {
		return nil, usagef("%q names no object: say KIND/NAME with KIND one of basemodel, expert and policy", strings.Join(args, " "))
	}
	return &target{kind: of, name: name}, nil
}

// world is what there is in one namespace, or in all, each sorted by namespace and name.
type world struct {
	bases    []v1alpha1.BaseModel
	experts  []v1alpha1.ExpertVector
	policies []v1alpha1.AdaptivePolicy
}

// look reads the objects of a namespace; "" means all. The API server answers from its
// cache, so that watching costs little.
func look(ctx context.Context, c client.Reader, namespace string) (*world, error) {
	var bases v1alpha1.BaseModelList
	var experts v1alpha1.ExpertVectorList
	var policies v1alpha1.AdaptivePolicyList
	for kind, list := range map[string]client.ObjectList{kindBase: &bases, kindExpert: &experts, kindPolicy: &policies} {
		err := c.List(ctx, list, client.InNamespace(namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}})
		if meta.IsNoMatchError(err) {
			return nil, fmt.Errorf("the cluster does not know the kind %s: install the operator (kubectl apply --server-side -k config/default), or see kubectl t2 doctor: %w", kind, err)
		}
		if err != nil {
			return nil, fmt.Errorf("listing %ss: %w", kind, err)
		}
	}
	w := &world{bases: bases.Items, experts: experts.Items, policies: policies.Items}
	slices.SortFunc(w.bases, func(a, b v1alpha1.BaseModel) int { return byName(&a, &b) })
	slices.SortFunc(w.experts, func(a, b v1alpha1.ExpertVector) int { return byName(&a, &b) })
	slices.SortFunc(w.policies, func(a, b v1alpha1.AdaptivePolicy) int { return byName(&a, &b) })
	return w, nil
}

func byName(a, b client.Object) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// health says whether an object is as it is to be, and if not, what holds it up.
type health struct {
	Ready bool `json:"ready"`
	// Stalled says that nothing happens until somebody acts.
	Stalled bool   `json:"stalled,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// reasonUnseen is the reason of an object as long as no operator has looked at it.
const reasonUnseen = "NotSeen"

// healthOf reads conditions as kstatus does: what is said of an older generation says
// nothing of this one.
func healthOf(obj client.Object, observed int64, conditions []metav1.Condition) health {
	if !obj.GetDeletionTimestamp().IsZero() {
		h := health{Reason: v1alpha1.ReasonTerminating, Message: "It is being deleted"}
		if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil && c.Status != metav1.ConditionTrue {
			h.Reason, h.Message = c.Reason, c.Message
		}
		return h
	}
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if ready == nil || max(observed, ready.ObservedGeneration) < obj.GetGeneration() {
		return health{Reason: reasonUnseen, Message: "The operator has not seen this generation yet: if that stays so, see kubectl t2 doctor"}
	}
	h := health{Ready: ready.Status == metav1.ConditionTrue, Reason: ready.Reason, Message: ready.Message}
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionStalled); c != nil && c.Status == metav1.ConditionTrue {
		h.Stalled, h.Reason, h.Message = true, c.Reason, c.Message
	}
	return h
}

func healthOfBase(b *v1alpha1.BaseModel) health {
	return healthOf(b, b.Status.ObservedGeneration, b.Status.Conditions)
}

func healthOfExpert(e *v1alpha1.ExpertVector) health {
	return healthOf(e, e.Status.ObservedGeneration, e.Status.Conditions)
}

func healthOfPolicy(p *v1alpha1.AdaptivePolicy) health {
	return healthOf(p, p.Status.ObservedGeneration, p.Status.Conditions)
}

// uses reports whether a policy has, or wants, an expert.
func uses(p *v1alpha1.AdaptivePolicy, expert string) bool {
	return slices.ContainsFunc(p.Spec.Experts, func(e v1alpha1.PolicyExpert) bool { return e.Name == expert }) ||
		slices.ContainsFunc(p.Status.Experts, func(e v1alpha1.PolicyExpertStatus) bool { return e.Name == expert }) ||
		p.ClassifierName() == expert
}
