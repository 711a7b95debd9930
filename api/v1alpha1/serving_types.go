package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// ServingSpec says how many pods serve and with what.
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.gpu)",message="gpu is for the backends CUDA and Auto",fieldPath=".gpu"
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="resources ask for a GPU, which the backend CPU does not use",fieldPath=".resources"
// +kubebuilder:validation:XValidation:rule="!has(self.gpu) || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="give the GPU by gpu or by resources, not by both",fieldPath=".gpu"
type ServingSpec struct {
	// replicas is the number of pods; 0 serves nothing. A change starts or ends pods
	// and restarts none.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`
	// resources of a pod; those of the BaseModel's spec.runtime without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims of dynamic resources are not supported here: name the template of a GPU's claim in gpu.resourceClaimTemplateName"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// backend that serves: CPU, CUDA, or Auto, which is CUDA where a GPU is asked for.
	// Without it, it is Auto where resources or gpu ask for a GPU here, and elsewhere
	// what the BaseModel's spec.runtime says.
	// +optional
	Backend Backend `json:"backend,omitempty"`
	// gpu says which GPU a pod has where CUDA serves. Without it, it is what resources
	// ask for here, or as the BaseModel's spec.runtime says.
	// +optional
	GPU *GPU `json:"gpu,omitempty"`
	// contextLength bounds prompt and answer together, in tokens. Without it, it is
	// what the model was made for (the BaseModel's
	// status.architecture.contextLength), and 2048 at most.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=1048576
	ContextLength *int32 `json:"contextLength,omitempty"`
	// maxBatch is how many requests are answered at a time; more wait.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	MaxBatch int32 `json:"maxBatch,omitempty"`
	// maxWaiting is how many requests may wait for their turn, each of which counts as
	// often as it has choices (n); the next one is told to come back later. Without it,
	// 256.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	MaxWaiting *int32 `json:"maxWaiting,omitempty"`
	// kvCache is the memory of keys and values, by which a pod knows what it has read and
	// written. Without it, it is what maxBatch requests of contextLength take, up to half
	// of what the model leaves of the pod's memory limit, or of 2Gi where there is no limit
	// or a GPU serves.
	// +optional
	KVCache *KVCache `json:"kvCache,omitempty"`
	// dtype in which a pod keeps the model's matrices: F32, BF16 (half the memory) or
	// Int8 (27 % of it). The narrower, the faster they are read, and the more they
	// are rounded.
	// +optional
	// +kubebuilder:default=F32
	DType ServingDType `json:"dtype,omitempty"`
	// form in which experts are computed: Merged (each mixture of experts has
	// matrices of its own), Unmerged (all share U and V, and batches), or Auto, by
	// the set of experts.
	// +optional
	// +kubebuilder:default=Auto
	Form Form `json:"form,omitempty"`
	// podTemplate shapes the pods: where they run, as whom, and with what beside the
	// operator's own. It is merged into that of the BaseModel's spec.runtime.
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`
}

// KVCache is the memory of keys and values.
// +kubebuilder:validation:MinProperties=1
type KVCache struct {
	// size in bytes. With the model, and with what experts need, it must fit the memory of
	// the pod, or of its GPU; where it does not, the pod says which number is missing and
	// does not start. The smaller it is, the fewer requests are answered at a time, and the
	// longest one it can hold bounds prompt and answer.
	// +required
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && quantity(string(self)).compareTo(quantity('16Ti')) <= 0",message="size must be a quantity from 1Mi to 16Ti, such as 4Gi"
	Size *resource.Quantity `json:"size,omitempty"`
}

// ServingDType is a number format that a model can be served in.
// +kubebuilder:validation:Enum=F32;BF16;Int8
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
type ServingDType string

// Number formats to serve in.
const (
	// ServingF32 has four bytes a number.
	ServingF32 ServingDType = "F32"
	// ServingBF16 has two bytes a number.
	ServingBF16 ServingDType = "BF16"
	// ServingInt8 has one byte a number, and a scale for each 32.
	ServingInt8 ServingDType = "Int8"
)

// Form is how experts are computed.
// +kubebuilder:validation:Enum=Auto;Merged;Unmerged
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Form string

// Forms.
const (
	// FormAuto is one of the others, by the set of experts.
	FormAuto Form = "Auto"
	// FormMerged gives each mixture matrices of its own.
	FormMerged Form = "Merged"
	// FormUnmerged lets all share U and V.
	FormUnmerged Form = "Unmerged"
)
