package desired

import (
	"errors"
	"fmt"

	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// ContainerAdapt searches the weights of experts.
const ContainerAdapt = "adapt"

// RoleExamples is the data set of a search.
const RoleExamples = "examples"

// searchBackoff is how many failed pods of a search are replaced; each goes on with the
// generation that was under way.
const searchBackoff = 3

// SearchSelector selects the Jobs and pods of a policy's search.
func SearchSelector(policy *v1alpha1.AdaptivePolicy) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy,
		v1alpha1.LabelComponent: v1alpha1.ComponentAdapt,
		v1alpha1.LabelSearch:    policy.Name,
	}
}

// Search is the run that searches the weights of a policy's experts, in the order in which
// they are given; donors are as of Deployment. examples is the digest of the SHA-256 of the examples if a ConfigMap
// holds them. The base must have been decomposed. The pods have what the policy's serving
// pods have; neither that nor the number format that is served makes another run.
func Search(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, donors []*v1alpha1.BaseModel, experts []contract.AdaptExpert, examples string, settings Settings) (Run, error) {
	few := policy.Spec.Strategy.FewShot
	switch {
	case few == nil:
		return Run{}, errors.New("spec.strategy.fewShot is not set")
	case base.Status.Artifact == nil || base.Status.Decomposition == nil:
		return Run{}, fmt.Errorf("BaseModel %s is not decomposed", base.Name)
	}
	on := compute(base, wishOfServing(&policy.Spec.Serving), settings)
	pod := newModelPod(base, on, policy.Spec.Serving.PodTemplate, settings)
	set, mount := dataset(pod, RoleExamples, few.Dataset, map[string]string{RoleExamples: examples})
	search, err := fewShot(few)
	if err != nil {
		return Run{}, err
	}
	spec := contract.AdaptSpec{
		DataDir:             contract.MountData,
		BaseDigest:          string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest),
		TransferDir:         transferDir(donors),
		Experts:             experts, Examples: set, Reward: string(few.Reward), Search: search,
	}
	claim := claimName(few.Dataset)
	if spec.RunID, err = Hash(policy.UID, spec.Identity(), claim); err != nil {
		return Run{}, err
	}
	same := spec
	same.Examples.Digest = string(few.Dataset.Digest)
	recipe, err := Hash(policy.UID, same.Identity(), claim, configMap(few.Dataset))
	if err != nil {
		return Run{}, err
	}
	spec.Name, spec.Backend = policy.Name, on.name()
	name(&spec.Examples, RoleExamples, few.Dataset)
	spec.DType = unlessDefault(policy.Spec.Serving.DType, v1alpha1.ServingF32)
	container, err := pod.container(ContainerAdapt, []string{"adapt"}, spec, true)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	if mount != nil {
		container.WithVolumeMounts(mount)
	}
	sources := credentials(container, Part{Role: RoleExamples, Dataset: &few.Dataset})
	pod.mountDonors(container, donors)
	judge := pod.judge(spec.Reward, container)
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "AdaptivePolicy", owner: policy, runID: spec.RunID, recipe: recipe, sources: sources, template: pod.template, backoffLimit: searchBackoff,
		labels: labels(v1alpha1.ComponentAdapt, base.Name, map[string]string{v1alpha1.LabelSearch: policy.Name}),
		pod:    podSpec.WithInitContainers(judge...),
	})
}

// fewShot gathers the settings of a search; what is not given is contract's.
func fewShot(few *v1alpha1.FewShotStrategy) (contract.FewShot, error) {
	s := contract.DefaultFewShot()
	setInt(&s.Generations, few.Generations)
	setInt(&s.Population, few.Population)
	setInt(&s.MaxNewTokens, few.MaxNewTokens)
	s.Layerwise = few.Weights == v1alpha1.WeightsPerLayer
	s.Seed = uint64(ptr.Deref(few.Seed, 0))
	return s, decimal{"spec.strategy.fewShot.eliteFraction", few.EliteFraction, &s.EliteFraction}.set()
}
