package desired

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// ContainerProbe fits the probe of a policy.
const ContainerProbe = "probe"

// RoleOthers is the data set of prompts that none of a policy's experts is for.
const RoleOthers = "others"

// probeBackoff is how many failed pods are replaced; each begins anew.
const probeBackoff = 3

// ProbeSelector selects the Jobs and pods that fit a policy's probe.
func ProbeSelector(policy *v1alpha1.AdaptivePolicy) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy: v1alpha1.ManagedBy,
		v1alpha1.LabelComponent: v1alpha1.ComponentProbe,
		v1alpha1.LabelProbe:     policy.Name,
	}
}

// PromptSet are prompts by which a probe learns a label, a skill or contract.OthersLabel.
// Field says where they are named.
type PromptSet struct {
	Label string
	Part
}

// PromptSets are what a policy's probe can learn: the training prompts of those of its
// experts that have some, never what these are validated with, by skill, so that
// their order in the policy makes no other probe; then others if the policy has such.
func PromptSets(policy *v1alpha1.AdaptivePolicy, experts []*v1alpha1.ExpertVector) []PromptSet {
	var sets []PromptSet
	for _, e := range experts {
		if prompts := trainingPrompts(e); prompts != nil {
			sets = append(sets, PromptSet{e.Spec.Skill, Part{Field: "spec.training.dataset.train of ExpertVector " + e.Name, Dataset: prompts}})
		}
	}
	slices.SortFunc(sets, func(a, b PromptSet) int { return cmp.Compare(a.Label, b.Label) })
	for i := range sets {
		sets[i].Role = fmt.Sprintf("skill-%d", i)
	}
	if p := policy.Spec.Strategy.Probe; p != nil && p.Others != nil {
		sets = append(sets, PromptSet{contract.OthersLabel, Part{RoleOthers, "spec.strategy.probe.others", p.Others}})
	}
	return sets
}

// Probe is the run that fits a policy's probe to these prompts, of which there are two sets
// at least, and by an evaluation's answers, nil for none. The digests are those of the SHA-256 of what ConfigMaps hold, by role. The base
// must have been fetched. The pods have what the policy's serving pods have; neither that nor
// the number format that is served makes another run, nor does what the experts have learnt but
// by what they answer, nor which evaluation has found out the same of the same experts.
func Probe(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, sets []PromptSet, answers *contract.EvaluatedAnswers,
	digests map[string]string, settings Settings,
) (Run, error) {
	if base.Status.Artifact == nil {
		return Run{}, fmt.Errorf("BaseModel %s is not fetched", base.Name)
	}
	on := compute(base, wishOfServing(&policy.Spec.Serving), settings)
	pod := newModelPod(base, on, policy.Spec.Serving.PodTemplate, settings)
	spec := contract.ProbeSpec{DataDir: contract.MountData, BaseDigest: string(base.Status.Artifact.Digest), Answers: answers}
	if p := policy.Spec.Strategy.Probe; p != nil && p.MaxPrompts != contract.MaxProbePrompts {
		spec.MaxPrompts = int(p.MaxPrompts)
	}
	parts := make([]Part, len(sets))
	for i, set := range sets {
		parts[i] = set.Part
	}
	data := read(pod, parts, digests)
	for i, set := range sets {
		spec.Sets = append(spec.Sets, contract.SkillSet{Skill: set.Label, Dataset: data.specs[i]})
	}
	id, err := Hash(policy.UID, spec.Identity(), data.claims)
	if err != nil {
		return Run{}, err
	}
	same := spec
	same.Sets = slices.Clone(spec.Sets)
	for i, set := range sets {
		same.Sets[i].Dataset.Digest = string(set.Dataset.Digest)
	}
	recipe, err := Hash(policy.UID, same.Identity(), data.claims, data.configMaps)
	if err != nil {
		return Run{}, err
	}
	spec.Name, spec.Backend = policy.Name, on.name()
	spec.DType = unlessDefault(policy.Spec.Serving.DType, v1alpha1.ServingF32)
	for i, set := range sets {
		name(&spec.Sets[i].Dataset, set.Role, *set.Dataset)
	}
	container, err := pod.container(ContainerProbe, []string{"probe"}, spec, true)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort()).WithVolumeMounts(data.mounts...)
	sources := credentials(container, parts...)
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "AdaptivePolicy", owner: policy, runID: id, recipe: recipe, sources: sources, template: pod.template, backoffLimit: probeBackoff,
		labels: labels(v1alpha1.ComponentProbe, base.Name, map[string]string{v1alpha1.LabelProbe: policy.Name}),
		pod:    podSpec,
	})
}
