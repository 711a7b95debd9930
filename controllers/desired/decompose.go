package desired

import (
	"path"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// decomposeBackoff is how many failed pods of a BaseModel are replaced. Every
// matrix that was factored stays, so that a retry goes on where it was.
const decomposeBackoff = 3

// AllModules are the projections of a Llama-family block: what is decomposed
// where a BaseModel does not say (the schema has the same default).
func AllModules() []v1alpha1.Module {
	return []v1alpha1.Module{
		v1alpha1.ModuleQ, v1alpha1.ModuleK, v1alpha1.ModuleV, v1alpha1.ModuleO,
		v1alpha1.ModuleGate, v1alpha1.ModuleUp, v1alpha1.ModuleDown,
	}
}

// Modules are those that a BaseModel decomposes.
func Modules(base *v1alpha1.BaseModel) []v1alpha1.Module {
	if len(base.Spec.Decomposition.Modules) > 0 {
		return base.Spec.Decomposition.Modules
	}
	return AllModules()
}

// Decompose is the run that fetches and decomposes a BaseModel: one pod whose
// init container fetches.
func Decompose(base *v1alpha1.BaseModel, settings Settings) (Run, error) {
	source := base.Spec.Source
	from := placeOfModel(source)
	fetch := contract.FetchSpec{
		Source: from.source(contract.MountSource), Digest: string(source.Digest), DataDir: contract.MountData, Verify: verification(source.Verify),
	}
	if mountsModel(base) {
		fetch.Mounted = contract.MountModel
	}
	dtype := base.Spec.Decomposition.DType
	if dtype == "" {
		dtype = v1alpha1.DTypeF32
	}
	decompose := contract.DecomposeSpec{
		Modules: moduleNames(Modules(base)), DType: string(dtype), DataDir: contract.MountData,
	}

	on := compute(base, wish{}, settings)
	pod := newModelPod(base, on, nil, settings)
	scratch := pod.emptyDir(volumeScratch, contract.MountScratch)
	claimName := ""
	if source.PersistentVolumeClaim != nil {
		claimName = source.PersistentVolumeClaim.ClaimName
	}
	id, err := Hash(base.UID, fetch.Identity(), claimName, decompose.Identity())
	if err != nil {
		return Run{}, err
	}

	// What computes has no part in what the run is.
	decompose.Backend = on.name()
	fetchContainer, err := pod.containerOn(beside(base, settings), ContainerFetch, []string{"fetch"}, fetch, true)
	if err != nil {
		return Run{}, err
	}
	fetchContainer.WithVolumeMounts(scratch) // The port is named once, by the container that follows.
	from.credentials(fetchContainer, "")
	verifyKeys(fetchContainer, source.Verify)
	if source.PersistentVolumeClaim != nil {
		fetchContainer.WithVolumeMounts(pod.claim(claimName, contract.MountSource))
	}
	fetched := path.Join(contract.MountScratch, contract.FetchedFile)
	decomposeContainer, err := pod.container(ContainerDecompose, []string{"decompose", "--fetched", fetched}, decompose, true)
	if err != nil {
		return Run{}, err
	}
	decomposeContainer.WithPorts(adminPort()).WithVolumeMounts(pod.emptyDir(volumeScratch, contract.MountScratch))

	podSpec, err := pod.spec(decomposeContainer)
	if err != nil {
		return Run{}, err
	}
	return job(jobParts{
		kind: "BaseModel", owner: base, runID: id, backoffLimit: decomposeBackoff, sources: []place{from}, template: pod.template,
		labels: labels(v1alpha1.ComponentDecompose, base.Name, nil),
		pod:    podSpec.WithInitContainers(fetchContainer),
	})
}
