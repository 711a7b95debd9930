package desired

import (
	"errors"
	"fmt"
	"path"

	"k8s.io/utils/ptr"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// importBackoff is how many failed pods of an import are replaced.
const importBackoff = 3

// Expert is the run that makes an expert: a training or an import. The digests
// are those of the SHA-256 of the data sets that ConfigMaps hold, by role; they
// are part of the run's identity, so that other content is another run.
// The base must have been decomposed.
func Expert(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, digests map[string]string, settings Settings) (Run, error) {
	if base.Status.Artifact == nil || base.Status.Decomposition == nil {
		return Run{}, fmt.Errorf("BaseModel %s is not decomposed", base.Name)
	}
	if expert.Spec.Source != nil {
		return importRun(expert, base, settings)
	}
	if expert.Spec.Training == nil {
		return Run{}, errors.New("neither training nor source is set")
	}
	return trainRun(expert, base, digests, settings)
}

func trainRun(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, digests map[string]string, settings Settings) (Run, error) {
	training := expert.Spec.Training
	on := compute(base, wishOfTraining(training), settings)
	pod := newModelPod(base, on, training.PodTemplate, settings)
	objective, reward, err := objectiveOf(training.Objective)
	if err != nil {
		return Run{}, err
	}
	hyper, err := Hyper(training)
	if err != nil {
		return Run{}, err
	}
	data := datasets(pod, &training.Dataset, digests)
	spec := contract.TrainSpec{
		Name: expert.Name, Skill: expert.Spec.Skill, DataDir: contract.MountData,
		BaseDigest:          string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest),
		Modules:             moduleNames(training.Modules),
		Objective:           objective,
		Train:               data.train, Validation: data.validation,
		Reward: string(reward), Hyperparameters: hyper,
	}
	recipe, err := identify(expert, &spec)
	if err != nil {
		return Run{}, err
	}
	// What people call a data set, and what computes, does not make another run.
	spec.Backend = on.name()
	nameDatasets(&spec, &training.Dataset)
	container, err := pod.container(ContainerTrain, trainArgs(on, mountsModel(base)), spec, true)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	container.WithVolumeMounts(data.mounts...)
	sources := credentials(container, Parts(&training.Dataset)...)
	judge := pod.judge(spec.Reward, container)
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "ExpertVector", owner: expert, runID: spec.RunID, recipe: recipe, sources: sources, template: pod.template,
		backoffLimit: ptr.Deref(training.BackoffLimit, 3),
		suspend:      ptr.Deref(training.Suspend, false),
		labels:       labels(v1alpha1.ComponentTrain, base.Name, map[string]string{v1alpha1.LabelExpert: expert.Name}),
		pod:          podSpec.WithInitContainers(judge...),
	})
}

// trainArgs are the arguments of a training. On the processor it shares the weights of its
// base with the other trainings on the node, by the volume that has the model: where that is
// not to have the weights, each has its own.
func trainArgs(on computing, mounted bool) []string {
	args := []string{"train"}
	if on.name() == contract.BackendCUDA || mounted {
		return args
	}
	return append(args, "--"+contract.FlagSharedBase, path.Join(contract.MountData, contract.DirShared))
}

// objectiveOf returns an objective's name, and what judges answers: in training, or in
// validations alone.
func objectiveOf(o v1alpha1.Objective) (name string, reward v1alpha1.Reward, err error) {
	switch {
	case o.Type == v1alpha1.ObjectiveNextToken && o.NextToken != nil:
		return contract.ObjectiveNextToken, o.NextToken.Reward, nil
	case o.Type == v1alpha1.ObjectiveEvolution && o.Evolution != nil:
		return contract.ObjectiveEvolution, o.Evolution.Reward, nil
	case (o.Type == "" || o.Type == v1alpha1.ObjectiveReinforce) && o.Reinforce != nil:
		return contract.ObjectiveReinforce, o.Reinforce.Reward, nil
	default:
		return "", "", fmt.Errorf("spec.training.objective: type %s has no member of its own", o.Type)
	}
}

// identify gives a training its RunID, and returns the recipe of it: what the
// result depends on, with data sets by content and by name. What the expert is
// called (its name, skill and description), how often it is tried, what computes and
// with what resources makes no other run.
func identify(expert *v1alpha1.ExpertVector, spec *contract.TrainSpec) (recipe string, err error) {
	sets := &expert.Spec.Training.Dataset
	same := *spec
	if spec.RunID, err = Hash(expert.UID, same.Identity(), claimNames(sets)); err != nil {
		return "", err
	}
	if sets.Skills != nil {
		same.Train, same.Validation = asAsked(same.Train, sets), asAsked(same.Validation, sets)
		return Hash(expert.UID, same.Identity(), claimNames(sets), configMaps(sets))
	}
	same.Train.Digest, same.Validation.Digest = string(sets.Train.Digest), string(sets.Validation.Digest)
	return Hash(expert.UID, same.Identity(), claimNames(sets), configMap(sets.Train), configMap(sets.Validation))
}

func importRun(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, settings Settings) (Run, error) {
	source := expert.Spec.Source
	from := placeOfExpert(*source)
	spec := contract.ImportSpec{
		Source: from.source(contract.MountSource),
		Digest: string(source.Digest), DataDir: contract.MountData,
		BaseDigest:          string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest),
		Verify:              verification(source.Verify),
	}
	pod := newModelPod(base, beside(base, settings), nil, settings)
	var mount *coreac.VolumeMountApplyConfiguration
	if source.PersistentVolumeClaim != nil {
		mount = pod.claim(source.PersistentVolumeClaim.ClaimName, contract.MountSource)
	}
	// The digest says what the result is, wherever it comes from; the place is
	// part of the run all the same, so that mending a wrong address tries again.
	id, err := Hash(expert.UID, spec.Identity(), claimSource(source.PersistentVolumeClaim))
	if err != nil {
		return Run{}, err
	}
	spec.Skill = expert.Spec.Skill // What it is called makes no other run, as of one that is trained.
	container, err := pod.container(ContainerImport, []string{"import"}, spec, true)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	from.credentials(container, "")
	verifyKeys(container, source.Verify)
	if mount != nil {
		container.WithVolumeMounts(mount)
	}
	podSpec, err := pod.spec(container)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "ExpertVector", owner: expert, runID: id, recipe: id, backoffLimit: importBackoff,
		sources: []place{from}, template: pod.template,
		labels: labels(v1alpha1.ComponentTrain, base.Name, map[string]string{v1alpha1.LabelExpert: expert.Name}),
		pod:    podSpec,
	})
}
