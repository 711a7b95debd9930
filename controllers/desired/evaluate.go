package desired

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// ContainerEvaluate evaluates an expert set.
const ContainerEvaluate = "evaluate"

// StableSetKey is the key of the policy's ConfigMap that has the StableSet. No pod is shown
// it.
const StableSetKey = "stable.json"

// evaluateBackoff is how many failed pods of an evaluation are replaced; each goes on with
// what the ones before have asked.
const evaluateBackoff = 3

// StableSet is the expert set that serves, as the policy's ConfigMap keeps it while another
// one is evaluated: all of it, so that an operator that starts finds what it has to serve.
type StableSet struct {
	Set contract.ExpertSet `json:"set"`
	// DecompositionDigest is the decomposition that its experts scale.
	DecompositionDigest v1alpha1.Digest `json:"decompositionDigest"`
	// Since is when it was promoted.
	Since metav1.Time `json:"since"`
}

// EvaluationSelector selects the Jobs and pods of a policy's evaluations.
func EvaluationSelector(policy *v1alpha1.AdaptivePolicy) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy:  v1alpha1.ManagedBy,
		v1alpha1.LabelComponent:  v1alpha1.ComponentEvaluate,
		v1alpha1.LabelEvaluation: policy.Name,
	}
}

// Evaluates reports whether a policy's sets are evaluated before they serve.
func Evaluates(policy *v1alpha1.AdaptivePolicy) bool {
	gate := Gate(policy)
	return gate != nil && (gate.Dataset != nil || gate.FewShot != "" && policy.Spec.Strategy.FewShot != nil)
}

// Tries reports whether a policy tries sets beside the one that serves.
func Tries(policy *v1alpha1.AdaptivePolicy) bool {
	r := policy.Spec.Rollout
	return r != nil && (r.Observe != nil || r.Canary != nil)
}

// Gate is a policy's gate; nil where it has none.
func Gate(policy *v1alpha1.AdaptivePolicy) *v1alpha1.RolloutGate {
	if policy.Spec.Rollout == nil {
		return nil
	}
	return policy.Spec.Rollout.Gate
}

// Judged is a data set of an evaluation, and what judges its answers.
type Judged struct {
	Part
	Reward v1alpha1.Reward
}

// EvaluationSets are the data sets by which a policy's sets are evaluated, the gate's first,
// then the guards' in their order. The policy must have such a gate.
func EvaluationSets(policy *v1alpha1.AdaptivePolicy) []Judged {
	gate := Gate(policy)
	first := Judged{Part{"gate", "spec.rollout.gate.dataset", gate.Dataset}, gate.Reward}
	if few := policy.Spec.Strategy.FewShot; gate.Dataset == nil && few != nil {
		first = Judged{Part{"gate", "spec.strategy.fewShot.dataset", &few.Dataset}, few.Reward}
	}
	sets := []Judged{first}
	for i := range gate.Guards {
		g := &gate.Guards[i]
		sets = append(sets, Judged{Part{fmt.Sprintf("guard-%d", i), fmt.Sprintf("spec.rollout.gate.guards[%d].dataset", i), &g.Dataset}, g.Reward})
	}
	return sets
}

// Evaluation is the run that evaluates a policy's set beside the one that serves, nil where
// none does; donors are as of Deployment. digests are those of the SHA-256 of what ConfigMaps
// hold, by role. The base must have been decomposed. The pods have what the policy's serving
// pods have, and compute as these do; their resources make no other run, nor does what the
// gate asks of the scores.
func Evaluation(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, donors []*v1alpha1.BaseModel, stable *contract.ExpertSet,
	candidate contract.ExpertSet, digests map[string]string, settings Settings,
) (Run, error) {
	switch {
	case !Evaluates(policy):
		return Run{}, errors.New("spec.rollout.gate has neither dataset nor fewShot")
	case base.Status.Artifact == nil || base.Status.Decomposition == nil:
		return Run{}, fmt.Errorf("BaseModel %s is not decomposed", base.Name)
	}
	gate, serving := Gate(policy), &policy.Spec.Serving
	on := compute(base, wishOfServing(serving), settings)
	pod := newModelPod(base, on, serving.PodTemplate, settings)
	spec := contract.EvaluateSpec{
		DataDir: contract.MountData, BaseDigest: string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest), TransferDir: transferDir(donors),
		Stable: stable, Candidate: candidate,
		Samples: int(cmp.Or(gate.Samples, contract.DefaultSamples)), MaxNewTokens: int(cmp.Or(gate.MaxNewTokens, contract.DefaultEvaluationMaxTokens)),
		ContextLength: contextLength(policy, base),
		DType:         unlessDefault(serving.DType, v1alpha1.ServingF32), Form: strings.ToLower(unlessDefault(serving.Form, v1alpha1.FormAuto)),
	}
	if cache := serving.KVCache; cache != nil {
		spec.KVCacheType = string(cache.Type)
	}
	sets := EvaluationSets(policy)
	parts := make([]Part, len(sets))
	for i, set := range sets {
		parts[i] = set.Part
	}
	data := read(pod, parts, digests)
	for i, set := range sets {
		spec.Sets = append(spec.Sets, contract.EvaluationSet{Dataset: data.specs[i], Reward: string(set.Reward)})
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
	answers, err := Hash(policy.UID, spec.Answers(), data.claims[:1])
	if err != nil {
		return Run{}, err
	}
	spec.RunID, spec.Name, spec.Backend, spec.MaxBatch = id, policy.Name, on.name(), int(serving.MaxBatch)
	if cache := serving.KVCache; cache != nil && cache.Size != nil {
		spec.KVCacheBytes = cache.Size.Value()
	}
	programs := ""
	for i, set := range sets {
		name(&spec.Sets[i].Dataset, set.Role, *set.Dataset)
		spec.Sets[i].Field = set.Field
		if set.Reward == v1alpha1.RewardUnitTests {
			programs = contract.RewardUnitTests
		}
	}
	container, err := pod.container(ContainerEvaluate, []string{"evaluate"}, spec, true)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort()).WithVolumeMounts(data.mounts...)
	sources := credentials(container, parts...)
	pod.mountDonors(container, donors)
	judge := pod.judge(programs, container)
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	run, err := job(jobParts{
		kind: "AdaptivePolicy", owner: policy, runID: id, recipe: recipe, sources: sources, template: pod.template, backoffLimit: evaluateBackoff,
		labels: labels(v1alpha1.ComponentEvaluate, base.Name, map[string]string{v1alpha1.LabelEvaluation: policy.Name}),
		pod:    podSpec.WithInitContainers(judge...),
	})
	run.Answers = answers
	return run, err
}

// KeepingStable adds the stable set to the ConfigMap from which pods take their experts.
func KeepingStable(config *coreac.ConfigMapApplyConfiguration, stable StableSet) error {
	text, err := json.Marshal(stable)
	if err != nil {
		return fmt.Errorf("encoding the stable set: %w", err)
	}
	config.WithData(map[string]string{StableSetKey: string(text)})
	return nil
}
