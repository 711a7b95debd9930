package desired

import (
	"fmt"
	"path"
	"slices"

	"k8s.io/utils/ptr"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// datasetFile is the file name of a data set that a ConfigMap holds.
const datasetFile = "data.jsonl"

// Data set roles of a training that has two: folder names under
// contract.MountDataset, volume names too.
const (
	RoleTrain      = "train"
	RoleValidation = "validation"
)

// Part is a data set of a training, by what it is for.
type Part struct {
	// Role is unique in the training: train, validation, or skill-N.
	Role string
	// Field names it below spec.training.dataset.
	Field   string
	Dataset *v1alpha1.Dataset
}

// Parts are the data sets that a training reads.
func Parts(d *v1alpha1.TrainingDataset) []Part {
	if d.Skills == nil {
		return []Part{{RoleTrain, RoleTrain, &d.Train}, {RoleValidation, RoleValidation, &d.Validation}}
	}
	var parts []Part
	for i := range d.Skills.Sets {
		if set := &d.Skills.Sets[i]; set.Dataset != nil {
			parts = append(parts, Part{fmt.Sprintf("skill-%d", i), fmt.Sprintf("skills.sets[%d].dataset", i), set.Dataset})
		}
	}
	return parts
}

// data is what a training reads, and where it is mounted.
type data struct {
	train, validation contract.DatasetSpec
	mounts            []*coreac.VolumeMountApplyConfiguration
}

// datasets tells the runtime where the data sets of a training lie in its pod, and
// mounts them. A part's role names its folder under contract.MountDataset and its
// volume.
func datasets(pod *podBuilder, d *v1alpha1.TrainingDataset, digests map[string]string) data {
	parts := Parts(d)
	all := read(pod, parts, digests)
	if d.Skills == nil {
		return data{all.specs[0], all.specs[1], all.mounts}
	}
	of := func(part string) contract.DatasetSpec {
		skills := &contract.SkillsSpec{Pass1: question(d.Skills), Part: part}
		for i, p := range parts {
			skills.Sets = append(skills.Sets, contract.SkillSet{Skill: skillOf(d, p), Dataset: all.specs[i]})
		}
		return contract.DatasetSpec{Format: contract.FormatSkills, Skills: skills}
	}
	return data{of(contract.PartTrain), of(contract.PartValidation), all.mounts}
}

// question is what a dispatcher is trained to answer.
func question(s *v1alpha1.SkillsDataset) contract.Pass1 {
	p := contract.Pass1{
		Skills: []contract.SkillLine{}, PromptTemplate: s.Template, RequestTokens: int(ptr.Deref(s.RequestTokens, 0)),
	}
	for _, set := range s.Sets {
		if set.Skill != contract.OthersLabel {
			p.Skills = append(p.Skills, contract.SkillLine{Skill: set.Skill, Description: set.Description})
		}
	}
	return p
}

// skillOf is the skill of a part.
func skillOf(d *v1alpha1.TrainingDataset, p Part) string {
	i := slices.IndexFunc(d.Skills.Sets, func(s v1alpha1.SkillDataset) bool { return s.Dataset == p.Dataset })
	return d.Skills.Sets[i].Skill
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
	default:
		from := placeOfDataset(d).source(folder)
		spec.HuggingFace, spec.S3, spec.OCI = from.HuggingFace, from.S3, from.OCI
	}
	return spec, nil
}

// name says what people call a data set, whose path in a pod says nothing to them, and
// which credentials are its own, as those of its role. Neither makes another run.
func name(spec *contract.DatasetSpec, role string, d v1alpha1.Dataset) {
	spec.Name = datasetName(d)
	if p := placeOfDataset(d); p.secret() != "" || p.s3 != nil {
		spec.Credentials = role
	}
}

// asAsked returns the specification of a dispatcher's data with the digests that its
// user asked for, and not those of what is there.
func asAsked(spec contract.DatasetSpec, d *v1alpha1.TrainingDataset) contract.DatasetSpec {
	skills := *spec.Skills
	skills.Sets = slices.Clone(skills.Sets)
	for i, part := range Parts(d) {
		skills.Sets[i].Dataset.Digest = string(part.Dataset.Digest)
	}
	spec.Skills = &skills
	return spec
}

// nameDatasets names the data sets of a training.
func nameDatasets(spec *contract.TrainSpec, d *v1alpha1.TrainingDataset) {
	if d.Skills == nil {
		name(&spec.Train, RoleTrain, d.Train)
		name(&spec.Validation, RoleValidation, d.Validation)
		return
	}
	for i, part := range Parts(d) {
		name(&spec.Train.Skills.Sets[i].Dataset, part.Role, *part.Dataset)
		name(&spec.Validation.Skills.Sets[i].Dataset, part.Role, *part.Dataset)
	}
}

// credentials gives a container those of the data sets that it reads, and returns where
// they come from.
func credentials(c *coreac.ContainerApplyConfiguration, parts ...Part) []place {
	var places []place
	for _, part := range parts {
		p := placeOfDataset(*part.Dataset)
		p.credentials(c, part.Role)
		places = append(places, p)
	}
	return places
}

// datasetName is what the runtime's messages call a data set. Other places say all by
// themselves.
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
func claimNames(d *v1alpha1.TrainingDataset) []string {
	names := make([]string, 0, 2)
	for _, part := range Parts(d) {
		names = append(names, claimName(*part.Dataset))
	}
	return names
}

// claimName is the claim of a data set, empty where it has none.
func claimName(d v1alpha1.Dataset) string {
	if d.PersistentVolumeClaim == nil {
		return ""
	}
	return d.PersistentVolumeClaim.ClaimName
}

// configMaps say which ConfigMaps hold the data sets, in identities.
func configMaps(d *v1alpha1.TrainingDataset) []contract.Inputs {
	var refs []contract.Inputs
	for _, part := range Parts(d) {
		refs = append(refs, configMap(*part.Dataset))
	}
	return refs
}

// configMap says in an identity which ConfigMap holds a data set; nil where none does.
func configMap(d v1alpha1.Dataset) contract.Inputs {
	if d.ConfigMap == nil {
		return nil
	}
	return contract.Inputs{}.Given("name", d.ConfigMap.Name).Given("key", d.ConfigMap.Key)
}

// claimSource says in an identity which file of a claim is read; nil where none is.
func claimSource(s *v1alpha1.ClaimSource) contract.Inputs {
	if s == nil {
		return nil
	}
	return contract.Inputs{}.Given("claimName", s.ClaimName).Given("path", s.Path)
}

// readings are data sets that a run reads, and what identifies it beside their specs.
type readings struct {
	// specs are in the order of the parts.
	specs      []contract.DatasetSpec
	mounts     []*coreac.VolumeMountApplyConfiguration
	claims     []string
	configMaps []contract.Inputs
}

// read prepares the data sets of a run, whose parts have one each.
func read(pod *podBuilder, parts []Part, digests map[string]string) readings {
	var all readings
	for _, p := range parts {
		spec, mount := dataset(pod, p.Role, *p.Dataset, digests)
		all.specs = append(all.specs, spec)
		if mount != nil {
			all.mounts = append(all.mounts, mount)
		}
		all.claims, all.configMaps = append(all.claims, claimName(*p.Dataset)), append(all.configMaps, configMap(*p.Dataset))
	}
	return all
}
