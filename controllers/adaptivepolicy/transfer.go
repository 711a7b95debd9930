package adaptivepolicy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// transfers reports whether a policy takes experts of other bases, if their shapes are
// equal.
func transfers(policy *v1alpha1.AdaptivePolicy) bool {
	return policy.Spec.Transfer == v1alpha1.TransferEqualShape
}

// foreign reports whether an expert belongs to another base than the policy.
func foreign(policy *v1alpha1.AdaptivePolicy, expert *v1alpha1.ExpertVector) bool {
	return expert.Spec.BaseModelRef.Name != policy.Spec.BaseModelRef.Name
}

// transferred are the experts of other bases that a policy is to serve, its classifier
// the last.
func (c *choice) transferred() []*candidate {
	var list []*candidate
	for i := range c.candidates {
		list = append(list, &c.candidates[i])
	}
	if c.classifier != nil {
		list = append(list, &c.classifier.candidate)
	}
	return slices.DeleteFunc(list, func(c *candidate) bool { return c.from == "" || !c.served || c.held })
}

// donors are the bases of those experts that are transferred, by name: their volumes have
// the artifacts.
func (r *Reconciler) donors(ctx context.Context, policy *v1alpha1.AdaptivePolicy, refs []contract.ExpertRef) ([]*v1alpha1.BaseModel, error) {
	var donors []*v1alpha1.BaseModel
	for _, ref := range refs {
		from := ref.TransferFrom
		if from == "" || slices.ContainsFunc(donors, func(d *v1alpha1.BaseModel) bool { return d.Name == from }) {
			continue
		}
		donor := &v1alpha1.BaseModel{}
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: policy.Namespace, Name: from}, donor)
		if apierrors.IsNotFound(err) {
			return nil, status.Wait(v1alpha1.ReasonBaseNotFound,
				"BaseModel %s is not there, in whose volume ExpertVector %s is; make it, or take the expert out of the policy", from, ref.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading BaseModel %s: %w", from, err)
		}
		donors = append(donors, donor)
	}
	slices.SortFunc(donors, func(a, b *v1alpha1.BaseModel) int { return cmp.Compare(a.Name, b.Name) })
	return donors, nil
}

// reaches reports whether a pod has the volumes of all donors mounted.
func reaches(pod *corev1.Pod, donors []*v1alpha1.BaseModel) bool {
	for _, donor := range donors {
		mounts := func(m corev1.VolumeMount) bool { return m.MountPath == desired.TransferPath(donor) }
		if !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return slices.ContainsFunc(c.VolumeMounts, mounts) }) {
			return false
		}
	}
	return true
}

// setTransferred writes the condition ExpertsTransferred: of a policy that has experts of
// other bases, whether its pods found that they fit.
func setTransferred(policy *v1alpha1.AdaptivePolicy, chosen choice, seen []observation) {
	list := chosen.transferred()
	if len(list) == 0 {
		meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionExpertsTransferred)
		return
	}
	names := make([]string, len(list))
	served := true
	for i, c := range list {
		names[i] = fmt.Sprintf("%s (made for BaseModel %s)", c.name, c.from)
		if refusal := c.refusal(seen); refusal != nil {
			status.Set(policy, v1alpha1.ConditionExpertsTransferred, false, v1alpha1.ReasonExpertSetRefused,
				fmt.Sprintf("ExpertVector %s is not served with BaseModel %s: %s", names[i], policy.Spec.BaseModelRef.Name, refusal.Message))
			return
		}
		served = served && c.loaded(seen)
	}
	all := strings.Join(names, ", ")
	message := fmt.Sprintf("Experts of other bases are served with BaseModel %s, whose matrices have the same shapes (spec.transfer is %s): %s. What they score with it is not known",
		policy.Spec.BaseModelRef.Name, policy.Spec.Transfer, all)
	was := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionExpertsTransferred)
	switch {
	case served, was != nil && was.Reason == v1alpha1.ReasonEqualShape && was.Message == message: // Pods that start have yet to load what others had.
		status.Set(policy, v1alpha1.ConditionExpertsTransferred, true, v1alpha1.ReasonEqualShape, message)
	default:
		status.Set(policy, v1alpha1.ConditionExpertsTransferred, false, v1alpha1.ReasonLoadingExperts,
			"No pod has loaded yet what the policy transfers: "+all)
	}
}

// artifact is what pods are to serve of an expert that is served.
func (c *candidate) artifact() v1alpha1.Digest {
	return cmp.Or(c.pinned, c.expert.Status.Artifact.Digest)
}

// loaded reports whether a pod serves the expert.
func (c *candidate) loaded(seen []observation) bool {
	return slices.ContainsFunc(seen, func(o observation) bool {
		return o.current && slices.ContainsFunc(o.status.Experts, func(e contract.ServedExpert) bool {
			return e.Name == c.name && e.Digest == string(c.artifact()) && cmp.Or(e.State, contract.ExpertServed) == contract.ExpertServed
		})
	})
}

// refusal is why a pod cannot serve the expert, nil if all can.
func (c *candidate) refusal(seen []observation) *contract.LoadError {
	for i := range seen {
		if refusal := seen[i].refuses(c.name, c.artifact()); refusal != nil {
			return refusal
		}
	}
	return nil
}

// misfits says that an expert of another base does not fit this one, which nothing but a
// change of the policy mends.
func misfits(chosen choice, seen []observation) error {
	for _, c := range chosen.transferred() {
		if refusal := c.refusal(seen); refusal != nil && refusal.Permanent {
			return status.Stall(v1alpha1.ReasonExpertSetRefused,
				"ExpertVector %s (made for BaseModel %s) is not served; take it out of the policy, or train it for this base: %s",
				c.name, c.from, status.Tidy(refusal.Message))
		}
	}
	return nil
}
