package desired

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"k8s.io/utils/ptr"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// importBackoff is how many failed pods of an import are replaced.
const importBackoff = 3

// datasetFile is the file name of a data set that a ConfigMap holds.
const datasetFile = "data.jsonl"

// Data set roles: folder names under contract.MountDataset, volume names too.
const (
	RoleTrain      = "train"
	RoleValidation = "validation"
)

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
	pod := newPod(base, settings)
	hyper, err := Hyper(training.Hyperparameters)
	if err != nil {
		return Run{}, err
	}
	trainSet, trainMount := dataset(pod, RoleTrain, training.Dataset.Train, digests)
	validationSet, validationMount := dataset(pod, RoleValidation, training.Dataset.Validation, digests)
	spec := contract.TrainSpec{
		Name: expert.Name, Skill: expert.Spec.Skill, DataDir: contract.MountData,
		ModelDigest:         string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest),
		Modules:             moduleNames(training.Modules),
		Objective:           string(training.Objective),
		Train:               trainSet, Validation: validationSet,
		Reward: string(training.Reward), Hyperparameters: hyper,
	}
	if spec.Objective == "" {
		spec.Objective = contract.ObjectiveReinforce
	}
	spec.RunID, err = Hash(expert.UID, spec, claimNames(training.Dataset))
	if err != nil {
		return Run{}, err
	}
	// What people call a data set does not make another run.
	spec.Train.Name, spec.Validation.Name = datasetName(training.Dataset.Train), datasetName(training.Dataset.Validation)
	container, err := pod.container(ContainerTrain, []string{"train"}, spec, true, training.Resources)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	for _, mount := range []*coreac.VolumeMountApplyConfiguration{trainMount, validationMount} {
		if mount != nil {
			container.WithVolumeMounts(mount)
		}
	}
	judge := pod.judge(spec.Reward, container)
	return job(jobParts{
		kind: "ExpertVector", owner: expert, runID: spec.RunID,
		backoffLimit: ptr.Deref(training.BackoffLimit, 3),
		suspend:      ptr.Deref(training.Suspend, false),
		labels:       labels(v1alpha1.ComponentTrain, base.Name, map[string]string{v1alpha1.LabelExpert: expert.Name}),
		pod:          pod.spec(container).WithInitContainers(judge...),
	})
}

func importRun(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, settings Settings) (Run, error) {
	source := expert.Spec.Source
	spec := contract.ImportSpec{
		Digest: string(source.Digest), DataDir: contract.MountData,
		BaseDigest:          string(base.Status.Artifact.Digest),
		DecompositionDigest: string(base.Status.Decomposition.Digest),
	}
	pod := newPod(base, settings)
	var mount *coreac.VolumeMountApplyConfiguration
	switch {
	case source.HTTP != nil:
		spec.HTTP = &contract.HTTPSource{URL: source.HTTP.URL}
	case source.PersistentVolumeClaim != nil:
		spec.Path = inClaim(contract.MountSource, source.PersistentVolumeClaim)
		mount = pod.claim(source.PersistentVolumeClaim.ClaimName, contract.MountSource)
	}
	// The digest says what the result is, wherever it comes from; the place is
	// part of the run all the same, so that mending a wrong address tries again.
	id, err := Hash(expert.UID, spec, source.PersistentVolumeClaim)
	if err != nil {
		return Run{}, err
	}
	container, err := pod.container(ContainerImport, []string{"import"}, spec, true, nil)
	if err != nil {
		return Run{}, err
	}
	container.WithPorts(adminPort())
	bearer(container, source.HTTP)
	if mount != nil {
		container.WithVolumeMounts(mount)
	}
	return job(jobParts{
		kind: "ExpertVector", owner: expert, runID: id, backoffLimit: importBackoff,
		labels: labels(v1alpha1.ComponentTrain, base.Name, map[string]string{v1alpha1.LabelExpert: expert.Name}),
		pod:    pod.spec(container),
	})
}

// dataset tells the runtime where a data set lies in its pod and mounts it.
func dataset(pod *podBuilder, role string, d v1alpha1.Dataset, digests map[string]string,
) (contract.DatasetSpec, *coreac.VolumeMountApplyConfiguration) {
	spec := contract.DatasetSpec{
		Digest: string(d.Digest), Format: string(d.Format), PromptTemplate: d.PromptTemplate, Limit: int(d.Limit),
	}
	folder := path.Join(contract.MountDataset, role)
	switch {
	case d.ConfigMap != nil:
		spec.Path = path.Join(folder, datasetFile)
		if spec.Digest == "" {
			spec.Digest = digests[role]
		}
		return spec, pod.configMapKey(role, d.ConfigMap.Name, d.ConfigMap.Key, folder, datasetFile)
	case d.PersistentVolumeClaim != nil:
		spec.Path = inClaim(folder, d.PersistentVolumeClaim)
		return spec, pod.claim(d.PersistentVolumeClaim.ClaimName, folder)
	case d.HTTP != nil:
		spec.URL = d.HTTP.URL
	}
	return spec, nil
}

// datasetName is what the runtime's messages call a data set, whose path in a pod
// says nothing to people. An address says all by itself.
func datasetName(d v1alpha1.Dataset) string {
	switch {
	case d.ConfigMap != nil:
		return fmt.Sprintf("ConfigMap %s, key %s", d.ConfigMap.Name, d.ConfigMap.Key)
	case d.PersistentVolumeClaim != nil:
		return fmt.Sprintf("PersistentVolumeClaim %s, file %s", d.PersistentVolumeClaim.ClaimName, d.PersistentVolumeClaim.Path)
	default:
		return ""
	}
}

// claimNames are the claims of the data sets: the path in a pod does not tell
// one claim from another.
func claimNames(d v1alpha1.TrainingDataset) []string {
	names := make([]string, 0, 2)
	for _, set := range []v1alpha1.Dataset{d.Train, d.Validation} {
		if set.PersistentVolumeClaim != nil {
			names = append(names, set.PersistentVolumeClaim.ClaimName)
		} else {
			names = append(names, "")
		}
	}
	return names
}

// Hyper turns hyperparameters into numbers. What is not set (the API server
// sets every one by the schema's defaults) has the value of
// contract.DefaultHyper.
func Hyper(h v1alpha1.Hyperparameters) (contract.Hyper, error) {
	out := contract.DefaultHyper()
	setString(&out.Parameterization, h.Parameterization)
	setString(&out.Rollout, h.Rollout)
	setString(&out.Baseline, h.Baseline)
	out.Weights = unlessDefault(h.Weights, "F32")
	setInt(&out.Iterations, h.Iterations)
	setInt(&out.BatchSize, h.BatchSize)
	setInt(&out.MaxNewTokens, h.MaxNewTokens)
	setInt(&out.ValidationInterval, h.ValidationInterval)
	setInt(&out.CheckpointInterval, h.CheckpointInterval)
	out.Patience = int(ptr.Deref(h.Patience, int32(out.Patience)))
	if h.Seed != nil {
		out.Seed = uint64(*h.Seed)
	}
	for _, number := range []struct {
		name string
		text v1alpha1.Decimal
		into *float64
	}{
		{"learningRate", h.LearningRate, &out.LearningRate},
		{"maxGradNorm", h.MaxGradNorm, &out.MaxGradNorm},
		{"klWeight", h.KLWeight, &out.KLWeight},
		{"temperature", h.Temperature, &out.Temperature},
	} {
		if number.text == "" {
			continue
		}
		value, err := strconv.ParseFloat(string(number.text), 64)
		if err != nil {
			return contract.Hyper{}, fmt.Errorf("hyperparameters.%s: %w", number.name, err)
		}
		*number.into = value
	}
	return out, nil
}

func setString(into *string, value string) {
	if value != "" {
		*into = value
	}
}

func setInt(into *int, value int32) {
	if value != 0 {
		*into = int(value)
	}
}
