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
	// written.
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
	// metrics are those on the port of the API, where the endpoint picker of an
	// InferencePool reads what a pod has to do. Without it they are there, with the names
	// that pickers ask for unless they are told otherwise.
	// +optional
	Metrics *ServingMetrics `json:"metrics,omitempty"`
	// drainSeconds is how long requests in flight may take once a pod is told to end: by a
	// rollout, by fewer replicas, or where its node is drained. New ones go to other pods
	// from then on. What takes longer ends with the error shutting_down, within a stream
	// too. A change replaces the pods; those that end still have what they began with.
	// Without it, 25.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	DrainSeconds *int32 `json:"drainSeconds,omitempty"`
	// disruption bounds how many pods those take away at a time who drain nodes. Without
	// it, one.
	// +optional
	Disruption *Disruption `json:"disruption,omitempty"`
	// requestText says what pods do with the text of requests and answers: Drop, or Keep it
	// in memory for as long as they remember how a request was answered, so that answers
	// that clients have marked right or wrong make data sets (/outcomes of the pods' admin
	// port). Tell whoever writes to them. A change makes new pods. Without it, Drop.
	// +optional
	RequestText RequestText `json:"requestText,omitempty"`
	// podTemplate shapes the pods: where they run, as whom, and with what beside the
	// operator's own. It is merged into that of the BaseModel's spec.runtime.
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`
}

// RequestText says what pods do with the text of requests and answers.
// +kubebuilder:validation:Enum=Drop;Keep
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
type RequestText string

// What pods do with the text of requests and answers.
const (
	// RequestTextDrop forgets it with the answer.
	RequestTextDrop RequestText = "Drop"
	// RequestTextKeep keeps it for a while, in the pod's memory alone.
	RequestTextKeep RequestText = "Keep"
)

// KVCache is the memory of keys and values.
// +kubebuilder:validation:MinProperties=1
type KVCache struct {
	// size in bytes. With the model, and with what experts need, it must fit the memory of
	// the pod, or of its GPU; where it does not, the pod says which number is missing and
	// does not start. The smaller it is, the fewer requests are answered at a time, and the
	// longest one it can hold bounds prompt and answer. Without it, it is what maxBatch
	// requests of contextLength take, up to half of what the model leaves of the pod's
	// memory limit, or of 2Gi where there is no limit or a GPU serves.
	// +optional
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && quantity(string(self)).compareTo(quantity('16Ti')) <= 0",message="size must be a quantity from 1Mi to 16Ti, such as 4Gi"
	Size *resource.Quantity `json:"size,omitempty"`
	// type in which keys and values are kept: F32, or BF16, in half the memory and
	// rounded once each. Without it, it is F32 on the CPU; on a GPU BF16 where dtype is
	// BF16 or Int8, and else F32.
	// +optional
	Type KVCacheType `json:"type,omitempty"`
}

// KVCacheType is a number format of keys and values.
// +kubebuilder:validation:Enum=F32;BF16
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
type KVCacheType string

// Number formats of keys and values.
const (
	// KVCacheF32 has four bytes a number.
	KVCacheF32 KVCacheType = "F32"
	// KVCacheBF16 has two bytes a number.
	KVCacheBF16 KVCacheType = "BF16"
)

// ServingMetrics says which metrics the port of the API has.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.apiPort) || self.apiPort != 'Disabled' || !has(self.inferencePool)",message="inferencePool names metrics of the API's port, which apiPort Disabled takes away",fieldPath=".inferencePool"
type ServingMetrics struct {
	// apiPort says whether /metrics is on the port of the API, too: Enabled, or Disabled
	// where clients that reach it are not to read it. The pods' port 8081 has it in any
	// case. Without it, Enabled.
	// +optional
	APIPort APIPortMetrics `json:"apiPort,omitempty"`
	// inferencePool names the gauges of the model server protocol, for an endpoint picker
	// that asks for others than vLLM's: as the configuration of its core-metrics-extractor
	// says.
	// +optional
	InferencePool *InferencePoolMetrics `json:"inferencePool,omitempty"`
}

// APIPortMetrics says whether the port of the API has metrics.
// +kubebuilder:validation:Enum=Enabled;Disabled
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type APIPortMetrics string

// Whether the port of the API has metrics.
const (
	// APIPortEnabled has them.
	APIPortEnabled APIPortMetrics = "Enabled"
	// APIPortDisabled leaves them to the pods' other port.
	APIPortDisabled APIPortMetrics = "Disabled"
)

// InferencePoolMetrics are the names of gauges that the endpoint picker of an
// InferencePool asks for.
// +kubebuilder:validation:XValidation:rule="[self.queuedRequests, self.runningRequests, self.kvUsage, self.lora, self.cacheInfo].all(n, [self.queuedRequests, self.runningRequests, self.kvUsage, self.lora, self.cacheInfo].exists_one(m, m == n))",message="each gauge needs a name of its own; those that are not given are vLLM's"
type InferencePoolMetrics struct {
	// queuedRequests is the gauge of requests that wait: queuedRequestsSpec of a picker.
	// +optional
	// +kubebuilder:default="vllm:num_requests_waiting"
	QueuedRequests MetricName `json:"queuedRequests,omitempty"`
	// runningRequests is that of requests that are being answered: runningRequestsSpec.
	// +optional
	// +kubebuilder:default="vllm:num_requests_running"
	RunningRequests MetricName `json:"runningRequests,omitempty"`
	// kvUsage is that of the share of the cache that these hold, 0 to 1: kvUsageSpec.
	// +optional
	// +kubebuilder:default="vllm:kv_cache_usage_perc"
	KVUsage MetricName `json:"kvUsage,omitempty"`
	// lora is the one whose labels list the experts, as models that can be asked for:
	// loraSpec.
	// +optional
	// +kubebuilder:default="vllm:lora_requests_info"
	LoRA MetricName `json:"lora,omitempty"`
	// cacheInfo is the one whose labels say how large and how many the cache's blocks are:
	// cacheInfoSpec.
	// +optional
	// +kubebuilder:default="vllm:cache_config_info"
	CacheInfo MetricName `json:"cacheInfo,omitempty"`
}

// MetricName is a name that Prometheus takes, and that is none of the pods' own.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
// +kubebuilder:validation:XValidation:rule="!self.matches('^(t2|go|process|promhttp)_')",message="names that begin with t2_, go_, process_ or promhttp_ are taken"
type MetricName string

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
