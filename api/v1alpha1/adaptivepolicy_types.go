package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AdaptivePolicy serves a BaseModel by an OpenAI-compatible API and adapts it
// to each request: the first pass decides which experts the prompt needs, the
// second answers with the composed weights.
//
// +genclient
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.serving.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:path=adaptivepolicies,shortName=apolicy,categories=t2
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Available",type=string,JSONPath=`.status.conditions[?(@.type=="Available")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Replicas",type=integer,JSONPath=`.status.readyReplicas`
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.strategy.type`
// +kubebuilder:printcolumn:name="Experts",type=string,JSONPath=`.status.experts[*].name`,priority=1
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.url`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name must be a DNS label that begins with a letter and has at most 52 characters"
type AdaptivePolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what is served and how it adapts.
	// +required
	Spec AdaptivePolicySpec `json:"spec,omitzero"`

	// status says what every pod serves.
	// +optional
	Status AdaptivePolicyStatus `json:"status,omitzero"`
}

// AdaptivePolicyList is a list of AdaptivePolicies.
//
// +kubebuilder:object:root=true
type AdaptivePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []AdaptivePolicy `json:"items"`
}

// AdaptivePolicySpec says what is served and how it adapts.
// +kubebuilder:validation:AtLeastOneOf=experts;expertSelector
// +kubebuilder:validation:XValidation:rule="self.baseModelRef == oldSelf.baseModelRef",message="baseModelRef cannot change: make a new AdaptivePolicy",fieldPath=".baseModelRef"
// +kubebuilder:validation:XValidation:rule="self.strategy.type == 'Fixed' || !has(self.experts) || self.experts.all(e, !has(e.weight))",message="weights are for strategy Fixed",fieldPath=".experts"
// +kubebuilder:validation:XValidation:rule="has(self.expertSelector) || !has(self.fallback) || self.fallback == 'base' || self.experts.exists(e, e.name == self.fallback)",message="fallback must be base or one of the experts",fieldPath=".fallback"
type AdaptivePolicySpec struct {
	// baseModelRef names the BaseModel that is served.
	// +required
	BaseModelRef LocalRef `json:"baseModelRef,omitzero"`
	// experts are ExpertVectors by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Experts []PolicyExpert `json:"experts,omitempty"`
	// expertSelector adds every ExpertVector of the BaseModel whose labels match,
	// after those by name.
	// +optional
	ExpertSelector *metav1.LabelSelector `json:"expertSelector,omitempty"`
	// strategy says how experts are chosen.
	// +optional
	// +kubebuilder:default={}
	Strategy Strategy `json:"strategy,omitzero"`
	// fallback is what answers where pass 1 cannot decide: base (the base weights)
	// or the name of one of the experts.
	// +optional
	// +kubebuilder:default=base
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Fallback string `json:"fallback,omitempty"`
	// serving says how many pods serve and with what.
	// +optional
	// +kubebuilder:default={}
	Serving ServingSpec `json:"serving,omitzero"`
	// rollout says which experts are good enough to be served.
	// +optional
	Rollout *RolloutSpec `json:"rollout,omitempty"`
}

// RolloutSpec says which experts are good enough to be served.
// +kubebuilder:validation:MinProperties=1
type RolloutSpec struct {
	// gate is what an expert must have before it is served.
	// +optional
	Gate *RolloutGate `json:"gate,omitempty"`
}

// RolloutGate is what an expert must have before it is served.
// +kubebuilder:validation:MinProperties=1
type RolloutGate struct {
	// minGain is how far an expert's validation score must be above the base
	// model's, at least: "0" without it, so that an expert which answers worse than
	// the base is not served; "-1" serves every expert. Of an expert that was
	// imported no scores are known: it is served. A policy that names an expert
	// below it is not Ready; one that selects it leaves it out. A change reaches
	// running pods without a restart.
	// +optional
	MinGain Gain `json:"minGain,omitempty"`
}

// PolicyExpert is an expert of a policy.
type PolicyExpert struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// weight is α of strategy Fixed, 0 to 1. Where no expert has one, all have the
	// same.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="weight must be at most 1"
	Weight Decimal `json:"weight,omitempty"`
}

// StrategyType is how experts are chosen.
// +kubebuilder:validation:Enum=Prompt;Fixed
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type StrategyType string

// Strategies.
const (
	// StrategyPrompt shows the model the skills and asks for one.
	StrategyPrompt StrategyType = "Prompt"
	// StrategyFixed mixes the experts by given weights for every request.
	StrategyFixed StrategyType = "Fixed"
)

// Strategy says how experts are chosen.
// +kubebuilder:validation:XValidation:rule="!has(self.prompt) || self.type == 'Prompt'",message="prompt is for strategy Prompt"
type Strategy struct {
	// type of the strategy.
	// +optional
	// +kubebuilder:default=Prompt
	Type StrategyType `json:"type,omitempty"`
	// prompt configures strategy Prompt.
	// +optional
	Prompt *PromptStrategy `json:"prompt,omitempty"`
}

// PromptStrategy configures strategy Prompt.
// +kubebuilder:validation:MinProperties=1
type PromptStrategy struct {
	// template of the first pass's message: {skills} becomes the skills and their
	// descriptions, {prompt} the request. The runtime's own without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.contains('{skills}') && self.contains('{prompt}')",message="template must contain {skills} and {prompt}"
	Template string `json:"template,omitempty"`
	// requestTokens is how much of a longer request the first pass looks at, half
	// of it from the beginning and half from the end; 128 without it. A request of
	// many documents is not read twice for its sake.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=131072
	RequestTokens *int32 `json:"requestTokens,omitempty"`
}

// ServingSpec says how many pods serve and with what.
type ServingSpec struct {
	// replicas is the number of pods.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`
	// resources of a pod; the BaseModel's without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims of dynamic resources are not supported"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// contextLength bounds prompt and answer together, in tokens. Without it, it is
	// what the model was made for (the BaseModel's
	// status.architecture.contextLength), and 2048 at most.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=1048576
	ContextLength int32 `json:"contextLength,omitempty"`
	// maxBatch is how many requests are answered at a time; more wait.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	MaxBatch int32 `json:"maxBatch,omitempty"`
	// weights is what a pod keeps the model's matrices as: F32, BF16 (half the
	// memory) or Int8 (27 % of it). The narrower, the faster they are read, and
	// the more they are rounded.
	// +optional
	// +kubebuilder:default=F32
	// +kubebuilder:validation:Enum=F32;BF16;Int8
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Weights string `json:"weights,omitempty"`
	// form in which experts are computed: Merged (each mixture of experts has
	// matrices of its own), Factored (all share U and V, and batches), or Auto, by
	// the set of experts.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Merged;Factored
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Form string `json:"form,omitempty"`
}

// AdaptivePolicyStatus says what every pod serves.
// +kubebuilder:validation:MinProperties=0
type AdaptivePolicyStatus struct {
	// conditions are Ready, Available and, while they hold, Reconciling or Stalled.
	// Ready means that every pod reports the expected expert set, Available that
	// requests are answered now.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation that the conditions are about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// replicas is the number of pods.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Replicas *int32 `json:"replicas,omitempty"`
	// readyReplicas is the number of pods that take requests.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ReadyReplicas *int32 `json:"readyReplicas,omitempty"`
	// selector of the pods, for the scale subresource.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Selector string `json:"selector,omitempty"`
	// url of the OpenAI-compatible API within the cluster.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	URL string `json:"url,omitempty"`
	// baseDigest and decompositionDigest say which model is served.
	// +optional
	BaseDigest Digest `json:"baseDigest,omitempty"`
	// decompositionDigest is the decomposition that the experts scale.
	// +optional
	DecompositionDigest Digest `json:"decompositionDigest,omitempty"`
	// expertSetDigest is what every pod should report.
	// +optional
	ExpertSetDigest Digest `json:"expertSetDigest,omitempty"`
	// experts of the policy, in the order in which pass 1 shows them.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Experts []PolicyExpertStatus `json:"experts,omitempty"`
	// adaptation says what the policy has been choosing.
	// +optional
	Adaptation *AdaptationStatus `json:"adaptation,omitempty"`
	// pods and what each of them serves.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Pods []PolicyPod `json:"pods,omitempty"`
}

// ExpertState says whether an expert is served.
// +kubebuilder:validation:Enum=Served;Loading;Updating;NotReady;Missing;Mismatch;BelowBaseline
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ExpertState string

// Expert states.
const (
	// ExpertServed says that every pod has loaded it.
	ExpertServed ExpertState = "Served"
	// ExpertLoading says that a pod has not loaded it yet.
	ExpertLoading ExpertState = "Loading"
	// ExpertUpdating says that its previous artifact is served while a new run
	// goes on.
	ExpertUpdating ExpertState = "Updating"
	// ExpertNotReady says that it has no artifact yet.
	ExpertNotReady ExpertState = "NotReady"
	// ExpertMissing says that there is no such ExpertVector.
	ExpertMissing ExpertState = "Missing"
	// ExpertMismatch says that it belongs to another base or decomposition.
	ExpertMismatch ExpertState = "Mismatch"
	// ExpertBelowBaseline says that it is not served because its score is not as far
	// above the base model's as spec.rollout.gate.minGain asks for: by default,
	// because it is below.
	ExpertBelowBaseline ExpertState = "BelowBaseline"
)

// PolicyExpertStatus is an expert of a policy.
type PolicyExpertStatus struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// state says whether it is served.
	// +required
	State ExpertState `json:"state,omitempty"`
	// digest of the artifact that is served.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// weight of strategy Fixed.
	// +optional
	Weight Decimal `json:"weight,omitempty"`
	// score of the expert on its validation set.
	// +optional
	Score Score `json:"score,omitempty"`
	// baseline is the base model's score on that set.
	// +optional
	Baseline Score `json:"baseline,omitempty"`
	// requests that it answered, in the pods that run now.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Requests *int64 `json:"requests,omitempty"`
}

// AdaptationStatus says what a policy has been choosing.
type AdaptationStatus struct {
	// strategy in use.
	// +required
	Strategy StrategyType `json:"strategy,omitempty"`
	// requests that the pods which run now have answered.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Requests *int64 `json:"requests,omitempty"`
	// fallbackRate is the share of them for which pass 1 chose no expert.
	// +optional
	FallbackRate Score `json:"fallbackRate,omitempty"`
	// last is what the last adaptation chose: the name of an expert, or base.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Last string `json:"last,omitempty"`
	// weights that the last adaptation composed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Weights []ExpertWeight `json:"weights,omitempty"`
}

// ExpertWeight is α of one expert.
type ExpertWeight struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// weight is α.
	// +required
	Weight Decimal `json:"weight,omitempty"`
}

// PolicyPod is a serving pod and what it serves.
type PolicyPod struct {
	// name of the pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// expertSetDigest that the pod reports.
	// +optional
	ExpertSetDigest Digest `json:"expertSetDigest,omitempty"`
	// error says why the pod could not be asked or refused the expert set.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Error string `json:"error,omitempty"`
}
