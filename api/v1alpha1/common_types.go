package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Decimal is a non-negative decimal number written as a string, such as
// "0.002" or "2e-3": the API has no floats, because they do not survive every
// encoder.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=24
// +kubebuilder:validation:Pattern=`^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$`
type Decimal string

// Gain is a difference between two scores, -1 to 1, written as a string such as
// "0.05" or "-0.1".
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=24
// +kubebuilder:validation:Pattern=`^-?[0-9]+(\.[0-9]+)?$`
// +kubebuilder:validation:XValidation:rule="double(self) >= -1.0 && double(self) <= 1.0",message="a gain must be between -1 and 1"
type Gain string

// Digest is the digest of an artifact: "sha256:" and 64 lower-case hex digits.
// +kubebuilder:validation:MinLength=71
// +kubebuilder:validation:MaxLength=71
// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
type Digest string

// DType is a number format.
// +kubebuilder:validation:Enum=F32;BF16
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
type DType string

// Number formats.
const (
	// DTypeF32 has four bytes a number.
	DTypeF32 DType = "F32"
	// DTypeBF16 has two bytes a number: the range of F32, a third of its digits.
	DTypeBF16 DType = "BF16"
)

// Score is a share between 0 and 1 written as a string with four decimals,
// such as "0.5312".
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Score string

// Module names a projection of a transformer block as the model's checkpoint
// does, such as q_proj; dots separate the parts of a longer name.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$`
type Module string

// Modules of a Llama-family block.
const (
	ModuleQ    Module = "q_proj"
	ModuleK    Module = "k_proj"
	ModuleV    Module = "v_proj"
	ModuleO    Module = "o_proj"
	ModuleGate Module = "gate_proj"
	ModuleUp   Module = "up_proj"
	ModuleDown Module = "down_proj"
)

// LocalRef names another object in the same namespace.
type LocalRef struct {
	// name of the object. It need not exist yet: until it does, a condition says
	// so.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
}

// SecretKeyRef names a key of a Secret in the same namespace.
type SecretKeyRef struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// key within the Secret.
	// +optional
	// +kubebuilder:default=token
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// ConfigMapKeyRef names a key of a ConfigMap in the same namespace.
type ConfigMapKeyRef struct {
	// name of the ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// key within the ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// Backend is what the runtime computes with.
// +kubebuilder:validation:Enum=Auto;CPU;CUDA
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Backend string

// Backends.
const (
	// BackendAuto is CUDA where a GPU is asked for, and CPU elsewhere.
	BackendAuto Backend = "Auto"
	// BackendCPU computes on processors.
	BackendCPU Backend = "CPU"
	// BackendCUDA computes on an NVIDIA GPU.
	BackendCUDA Backend = "CUDA"
)

// GPU says which GPU a pod has: exactly one of resourceName and
// resourceClaimTemplateName.
// +kubebuilder:validation:ExactlyOneOf=resourceName;resourceClaimTemplateName
type GPU struct {
	// resourceName is the extended resource of which each pod asks for one, such as
	// nvidia.com/gpu or nvidia.com/mig-3g.40gb. Exactly one of resourceName and
	// resourceClaimTemplateName is given.
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!self.contains('kubernetes.io/')",message="resourceName must be that of a device: those of kubernetes.io are Kubernetes' own"
	ResourceName string `json:"resourceName,omitempty"`
	// resourceClaimTemplateName names a ResourceClaimTemplate of the namespace; each
	// pod has a claim of its own made from it (dynamic resource allocation). Exactly
	// one of resourceName and resourceClaimTemplateName is given.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ResourceClaimTemplateName string `json:"resourceClaimTemplateName,omitempty"`
}

// RuntimeSpec says which image the pods of a model run and where. Training and
// serving pods inherit it.
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.gpu)",message="gpu is for the backends CUDA and Auto",fieldPath=".gpu"
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="resources ask for a GPU, which the backend CPU does not use",fieldPath=".resources"
// +kubebuilder:validation:XValidation:rule="!has(self.gpu) || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="give the GPU by gpu or by resources, not by both",fieldPath=".gpu"
type RuntimeSpec struct {
	// image of the runtime, of every pod of the model, of its experts and of its
	// policies. Without it, it is the operator's --runtime-image, or its
	// --cuda-runtime-image where CUDA computes; with it, it must have the backends
	// that are asked for, as t2-cuda has both.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`
	// imagePullPolicy of that image.
	// +optional
	// +kubebuilder:default=IfNotPresent
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// backend is what decomposes, trains and serves: CPU; CUDA, on an NVIDIA GPU, of
	// which each pod asks for one unless resources or gpu say otherwise; or Auto,
	// which is CUDA where resources or gpu ask for a GPU, and CPU elsewhere. With CUDA
	// pods have the operator's runtime class and tolerations for GPUs too, unless a
	// podTemplate says otherwise. What only fetches has no GPU.
	// +optional
	// +kubebuilder:default=Auto
	Backend Backend `json:"backend,omitempty"`
	// gpu says which GPU a pod has where CUDA computes. Without it, it is what
	// resources ask for, or one of the operator's --gpu-resource.
	// +optional
	GPU *GPU `json:"gpu,omitempty"`
	// resources of the pods that fetch and decompose, and of training and serving
	// pods that do not name their own. What they ask for of GPUs goes only to what
	// computes on them; a GPU's resource of which 0 is asked for says that pods have
	// their GPU in another way.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims of dynamic resources are not supported here: name the template of a GPU's claim in gpu.resourceClaimTemplateName"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// podTemplate shapes every pod of the model, of its experts and of its policies:
	// where it runs, as whom, and with what beside the operator's own.
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`
}
