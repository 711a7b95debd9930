package desired

import (
	"errors"

	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// publishBackoff is how many failed pods of a push are replaced.
const publishBackoff = 3

// Publish is the run that pushes an expert's artifact to the registry that spec.publish
// names. It is no part of the run that made the artifact, and reads its volume alone.
func Publish(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, settings Settings) (Run, error) {
	if expert.Spec.Publish == nil || expert.Status.Artifact == nil {
		return Run{}, errors.New("there is nothing to publish")
	}
	to := expert.Spec.Publish.OCI
	spec := contract.PublishSpec{
		Digest: string(expert.Status.Artifact.Digest), DataDir: contract.MountData,
		To: contract.OCISource{Reference: to.Reference, Insecure: ptr.Deref(to.Insecure, false)},
	}
	id, err := Hash(expert.UID, spec.Identity())
	if err != nil {
		return Run{}, err
	}
	pod := newPod(base, beside(base, settings), nil, settings)
	container, err := pod.container(ContainerPublish, []string{"publish"}, spec, false)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	registry := place{oci: &v1alpha1.OCISource{Reference: to.Reference, PullSecretRef: to.PushSecretRef, Insecure: to.Insecure}}
	registry.credentials(container, "")
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "ExpertVector", owner: expert, runID: id, recipe: id, backoffLimit: publishBackoff,
		sources: []place{registry}, template: pod.template,
		labels: labels(v1alpha1.ComponentPublish, base.Name, map[string]string{v1alpha1.LabelExpert: expert.Name}),
		pod:    podSpec,
	})
}
