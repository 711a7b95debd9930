package desired

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// DefaultGPUResource is what NVIDIA's device plugin calls a GPU.
const DefaultGPUResource = "nvidia.com/gpu"

// claimGPU is what a pod calls its claim of a GPU.
const claimGPU = "gpu"

// wish is what an object says of what its pods compute with.
type wish struct {
	backend   v1alpha1.Backend
	gpu       *v1alpha1.GPU
	resources *corev1.ResourceRequirements
}

func wishOfBase(base *v1alpha1.BaseModel) wish {
	r := base.Spec.Runtime
	return wish{r.Backend, r.GPU, r.Resources}
}

func wishOfTraining(t *v1alpha1.TrainingSpec) wish { return wish{t.Backend, t.GPU, t.Resources} }

func wishOfServing(s *v1alpha1.ServingSpec) wish { return wish{s.Backend, s.GPU, s.Resources} }

// computing is what a container computes with, and what that needs.
type computing struct {
	// backend is BackendCPU or BackendCUDA of the API.
	backend   v1alpha1.Backend
	image     string
	resources *corev1.ResourceRequirements
	// claimTemplate names the ResourceClaimTemplate of its GPU; empty without one.
	claimTemplate string
	// template has what pods with this backend have unless podTemplates say otherwise;
	// nil for nothing.
	template *v1alpha1.PodTemplate
}

// name is the backend's in the runtime's specifications. The default is left out,
// so that what it is called changes nobody's pods.
func (c computing) name() string {
	if c.backend == v1alpha1.BackendCUDA {
		return contract.BackendCUDA
	}
	return ""
}

// compute decides what the pods of a base compute with, where the base's wish is
// overridden by that of a training or serving. Auto is CUDA where a GPU is asked
// for; whoever asks for one without naming a backend has Auto, whatever the base
// has. A GPU that is asked for there replaces the base's.
func compute(base *v1alpha1.BaseModel, own wish, settings Settings) computing {
	from := wishOfBase(base)
	gpus := gpuResources{settings.gpuResource()}
	for _, w := range []wish{from, own} {
		if w.gpu != nil && w.gpu.ResourceName != "" {
			gpus = append(gpus, w.gpu.ResourceName)
		}
	}
	backend := own.backend
	if backend == "" && (own.gpu != nil || gpus.asked(own.resources)) {
		backend = v1alpha1.BackendAuto
	}
	backend = cmp.Or(backend, from.backend, v1alpha1.BackendAuto)
	gpu := own.gpu
	if gpu == nil && !gpus.named(own.resources) {
		gpu = from.gpu
	}
	resources := own.resources
	if resources == nil {
		resources = from.resources
	}
	if backend == v1alpha1.BackendAuto {
		backend = v1alpha1.BackendCPU
		if gpu != nil || gpus.asked(resources) {
			backend = v1alpha1.BackendCUDA
		}
	}
	if backend == v1alpha1.BackendCPU {
		return computing{
			backend: backend, image: cmp.Or(base.Spec.Runtime.Image, settings.RuntimeImage), resources: gpus.without(resources),
		}
	}
	c := computing{
		backend: backend, image: cmp.Or(base.Spec.Runtime.Image, settings.CUDARuntimeImage), template: settings.gpuTemplate(),
	}
	switch {
	case gpu == nil:
		c.resources = gpus.atLeast(resources, settings.gpuResource())
	case gpu.ResourceName != "":
		c.resources = gpus.only(resources, gpu.ResourceName)
	default:
		c.resources, c.claimTemplate = gpus.without(resources), gpu.ResourceClaimTemplateName
	}
	return c
}

// beside is for what fetches and computes nothing: without a GPU.
func beside(base *v1alpha1.BaseModel, settings Settings) computing {
	return compute(base, wish{backend: v1alpha1.BackendCPU}, settings)
}

// apply gives a container what it computes with.
func (c computing) apply(container *coreac.ContainerApplyConfiguration) {
	container.WithImage(c.image)
	if c.resources != nil {
		container.WithResources(resourcesConfig(c.resources))
	}
	if c.claimTemplate == "" {
		return
	}
	if container.Resources == nil {
		container.WithResources(coreac.ResourceRequirements())
	}
	container.Resources.WithClaims(coreac.ResourceClaim().WithName(claimGPU))
}

// gpuResource is the resource that is asked for where nobody names another.
func (s Settings) gpuResource() string { return cmp.Or(s.GPUResource, DefaultGPUResource) }

// gpuTemplate has what pods need to have a GPU, by the operator's settings.
func (s Settings) gpuTemplate() *v1alpha1.PodTemplate {
	return &v1alpha1.PodTemplate{Spec: &v1alpha1.PodShape{
		RuntimeClassName: s.GPURuntimeClass, Tolerations: s.GPUTolerations,
	}}
}

// gpuResources are the names of resources that are GPUs, beside those of NVIDIA's
// device plugin.
type gpuResources []string

// has reports whether a resource is a GPU: nvidia.com/gpu, nvidia.com/gpu.shared
// where GPUs are shared in time, and nvidia.com/mig-… for a part of one are.
func (names gpuResources) has(name corev1.ResourceName) bool {
	return slices.Contains(names, string(name)) || name == DefaultGPUResource || name == DefaultGPUResource+".shared" ||
		strings.HasPrefix(string(name), "nvidia.com/mig-")
}

// named reports whether resources say anything of GPUs, be it that none is asked
// for.
func (names gpuResources) named(r *corev1.ResourceRequirements) bool {
	return names.any(r, func(resource.Quantity) bool { return true })
}

// asked reports whether resources ask for a GPU.
func (names gpuResources) asked(r *corev1.ResourceRequirements) bool {
	return names.any(r, func(q resource.Quantity) bool { return !q.IsZero() })
}

func (names gpuResources) any(r *corev1.ResourceRequirements, is func(resource.Quantity) bool) bool {
	if r == nil {
		return false
	}
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name, quantity := range list {
			if names.has(name) && is(quantity) {
				return true
			}
		}
	}
	return false
}

// without are the resources without GPUs.
func (names gpuResources) without(r *corev1.ResourceRequirements) *corev1.ResourceRequirements {
	if !names.named(r) {
		return r
	}
	rest := r.DeepCopy()
	for _, list := range []corev1.ResourceList{rest.Limits, rest.Requests} {
		for name := range list {
			if names.has(name) {
				delete(list, name)
			}
		}
	}
	return rest
}

// atLeast are the resources with one GPU where they say nothing of any. Limits
// have what is requested: Kubernetes takes no other request of a device.
func (names gpuResources) atLeast(r *corev1.ResourceRequirements, name string) *corev1.ResourceRequirements {
	if !names.named(r) {
		return with(r, corev1.ResourceName(name), resource.MustParse("1"))
	}
	for name, quantity := range r.Requests {
		if _, limited := r.Limits[name]; names.has(name) && !limited {
			r = with(r, name, quantity)
		}
	}
	return r
}

// only are the resources with this GPU and no other: as many as they ask for, or
// one.
func (names gpuResources) only(r *corev1.ResourceRequirements, name string) *corev1.ResourceRequirements {
	one := resource.MustParse("1")
	if r != nil {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			if quantity, ok := list[corev1.ResourceName(name)]; ok {
				one = quantity
			}
		}
	}
	return with(names.without(r), corev1.ResourceName(name), one)
}

// with are the resources with a limit.
func with(r *corev1.ResourceRequirements, name corev1.ResourceName, quantity resource.Quantity) *corev1.ResourceRequirements {
	more := &corev1.ResourceRequirements{}
	if r != nil {
		more = r.DeepCopy()
	}
	if more.Limits == nil {
		more.Limits = corev1.ResourceList{}
	}
	more.Limits[name] = quantity
	return more
}
