package v1alpha1

import (
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
// +kubebuilder:printcolumn:name="Replicas",type=string,JSONPath=`.status.replicaSummary`
// +kubebuilder:printcolumn:name="Experts",type=string,JSONPath=`.status.expertSummary`
// +kubebuilder:printcolumn:name="Rollout",type=string,JSONPath=`.status.rollout.summary`
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.strategy.type`,priority=1
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.status.devices[0].name`,priority=1
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

	// status says what the pods serve. Its observedGeneration is -1 until the
	// operator has seen the object.
	// +optional
	// +kubebuilder:default={observedGeneration:-1}
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
// +kubebuilder:validation:XValidation:rule="has(self.expertSelector) || !has(self.strategy.fallback) || !has(self.strategy.fallback.name) || self.experts.exists(e, e.name == self.strategy.fallback.name)",message="the fallback must be one of the experts",fieldPath=".strategy.fallback.name"
// +kubebuilder:validation:XValidation:rule="!has(self.serving.form) || self.serving.form != 'Merged' || !has(self.strategy.prompt) || !has(self.strategy.prompt.topK) || self.strategy.prompt.topK == 1",message="topK above 1 makes more mixtures than can be composed: take form Auto or Unmerged",fieldPath=".serving.form"
// +kubebuilder:validation:XValidation:rule="!has(self.serving.form) || self.serving.form != 'Merged' || !has(self.strategy.probe) || !has(self.strategy.probe.topK) || self.strategy.probe.topK == 1",message="topK above 1 makes more mixtures than can be composed: take form Auto or Unmerged",fieldPath=".serving.form"
// +kubebuilder:validation:XValidation:rule="!has(self.rollout) || !has(self.rollout.gate) || !has(self.rollout.gate.fewShot) || self.strategy.type == 'FewShot'",message="there are examples of strategy FewShot alone: give a dataset",fieldPath=".rollout.gate.fewShot"
type AdaptivePolicySpec struct {
	// baseModelRef names the BaseModel that is served, in the same namespace. It
	// cannot change.
	// +required
	BaseModelRef LocalRef `json:"baseModelRef,omitzero"`
	// experts are ExpertVectors by name, in the order in which pass 1 shows them. At
	// least one of experts and expertSelector is given; together they find 64 at
	// most. A change reaches running pods without a restart.
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
	// transfer says what becomes of an expert that spec.experts names and another
	// BaseModel of the namespace has, and of a classifier likewise: Refuse, as without
	// it, or EqualShape, which serves it where each of its matrices has the name and the
	// shape of one of this base. What it scored was measured with its own base and says
	// nothing of this one, so that spec.rollout does not judge it. Pods mount the volume
	// of its base, too, so that a change replaces them one by one; both volumes have to
	// be where the pods run. What is transferred is in the condition
	// ExpertsTransferred.
	// +optional
	Transfer Transfer `json:"transfer,omitempty"`
	// strategy says how experts are chosen. A change reaches running pods without a
	// restart.
	// +optional
	// +kubebuilder:default={type: Prompt}
	Strategy Strategy `json:"strategy,omitzero"`
	// serving says how many pods serve and with what. A change of anything but
	// replicas replaces the pods one by one.
	// +optional
	// +kubebuilder:default={replicas: 1}
	Serving ServingSpec `json:"serving,omitzero"`
	// rollout says which experts are good enough to be served, and what a set of them
	// must have shown before it is; all that are not worse than the base, at once,
	// without it. A change reaches running pods without a restart.
	// +optional
	Rollout *RolloutSpec `json:"rollout,omitempty"`
}

// Transfer says what becomes of experts of other bases.
// +kubebuilder:validation:Enum=Refuse;EqualShape
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Transfer string

// Ways to treat experts of other bases.
const (
	// TransferRefuse serves none.
	TransferRefuse Transfer = "Refuse"
	// TransferEqualShape serves those whose matrices have the shapes of this base's.
	TransferEqualShape Transfer = "EqualShape"
)

// PolicyExpert is an expert of a policy.
type PolicyExpert struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// weight is α, of strategy Fixed only, 0 to 1; the weights of a policy are
	// divided by their sum. Where no expert has one, all have the same; else those
	// without one, also those that expertSelector adds, take no part.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="weight must be at most 1"
	Weight Decimal `json:"weight,omitempty"`
}

// AdaptivePolicyStatus says what the pods serve. What is counted (requests,
// fallbacks) is in the metrics of the pods.
// +kubebuilder:validation:MinProperties=0
type AdaptivePolicyStatus struct {
	// conditions are Ready, Available, ClassifierCurrent where pass 1 has a classifier,
	// ProbeCurrent where the strategy is Probe, ExpertsTransferred where experts of another base are to be served,
	// RolledOut where spec.rollout evaluates sets, and, while they
	// hold, EvaluationFailed, Reconciling or Stalled. Ready means that every pod reports
	// the expected expert set, Available that requests are answered now.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation that the conditions are about, -1 until
	// the operator has seen the object.
	// +optional
	// +kubebuilder:validation:Minimum=-1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// replicaSummary is the number of pods that take requests, of those that are
	// asked for, such as 1/2.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	ReplicaSummary string `json:"replicaSummary,omitempty"`
	// expertSummary is the number of experts that every pod serves, of those that
	// the policy names and selects, such as 3/3.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	ExpertSummary string `json:"expertSummary,omitempty"`
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
	// baseDigest is the model that is served.
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
	// +kubebuilder:validation:MaxItems=64
	Experts []PolicyExpertStatus `json:"experts,omitempty"`
	// adaptation is what was chosen last. It is brought up to date at most about
	// once a minute: what is chosen for each request is in the responses and in the
	// log of the pods.
	// +optional
	Adaptation *AdaptationStatus `json:"adaptation,omitempty"`
	// fewShot is what the search of strategy FewShot found, and how far it is. Before it
	// has found anything the base model answers.
	// +optional
	FewShot *FewShotStatus `json:"fewShot,omitempty"`
	// probe is what strategy Probe chooses by, and how far the next one is.
	// +optional
	Probe *ProbeStatus `json:"probe,omitempty"`
	// rollout says which expert set serves and which one is to follow it, where
	// spec.rollout evaluates sets before they serve.
	// +optional
	Rollout *RolloutStatus `json:"rollout,omitempty"`
	// podCounts counts the pods by what they serve.
	// +optional
	PodCounts *PodCounts `json:"podCounts,omitempty"`
	// classifier is what pass 1 runs with, of strategy Classifier.
	// +optional
	Classifier *PolicyClassifier `json:"classifier,omitempty"`
	// devices on which the pods compute that have loaded the model, and how many pods
	// each of them has: the first 16 by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Devices []PolicyDevice `json:"devices,omitempty"`
	// pods that do not serve what is expected, and why: the first 16 by name, those
	// that failed first.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Pods []PolicyPod `json:"pods,omitempty"`
}

// ExpertState says whether an expert is served.
// +kubebuilder:validation:Enum=Served;Loading;Updating;NotReady;Missing;Mismatch;BelowBaseline;Lost;Refused;Held
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
	// ExpertLost says that a pod does not find its artifact in the volume. The
	// other experts are served, and the ExpertVector makes it again.
	ExpertLost ExpertState = "Lost"
	// ExpertRefused says that a pod found its artifact and cannot serve it: Ready says
	// why. The other experts are served.
	ExpertRefused ExpertState = "Refused"
	// ExpertHeld says that spec.rollout.gate has yet to let it serve, or did not; its
	// previous artifact is served if digest is there.
	ExpertHeld ExpertState = "Held"
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
	// weight is α of the strategies Fixed and FewShot.
	// +optional
	Weight Decimal `json:"weight,omitempty"`
	// score of the expert on its validation set.
	// +optional
	Score Score `json:"score,omitempty"`
	// baselineScore is the base model's score on that set.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// transferredFrom is the BaseModel that the expert was made for, where that is
	// another than the policy's. It has no scores with this one.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	TransferredFrom string `json:"transferredFrom,omitempty"`
}

// AdaptationStatus is what was chosen last.
type AdaptationStatus struct {
	// strategy that chose.
	// +required
	Strategy StrategyType `json:"strategy,omitempty"`
	// expert that was chosen, by name; base for the base weights; several names
	// joined by + for a mixture.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Expert string `json:"expert,omitempty"`
	// weights that were composed; none for the base weights, whose share in a
	// mixture has the name base.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Weights []ExpertWeight `json:"weights,omitempty"`
	// time at which it was chosen.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"`
}

// PodCounts counts the pods of a policy: total is the sum of the others.
type PodCounts struct {
	// total number of pods.
	// +required
	// +kubebuilder:validation:Minimum=0
	Total *int32 `json:"total,omitempty"`
	// current pods serve the expected model and experts.
	// +required
	// +kubebuilder:validation:Minimum=0
	Current *int32 `json:"current,omitempty"`
	// updating pods start, load what is expected, or are about to be replaced.
	// +required
	// +kubebuilder:validation:Minimum=0
	Updating *int32 `json:"updating,omitempty"`
	// failed pods cannot start, or refused the expert set.
	// +required
	// +kubebuilder:validation:Minimum=0
	Failed *int32 `json:"failed,omitempty"`
}

// PolicyDevice is a device on which pods of a policy compute.
type PolicyDevice struct {
	// name of the device in the runtime's words, such as cpu (avx512, 2 threads).
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
	// pods is the number of those that compute on such a device.
	// +required
	// +kubebuilder:validation:Minimum=1
	Pods int32 `json:"pods,omitempty"`
}

// ExpertWeight is α of one expert.
type ExpertWeight struct {
	// name of the ExpertVector, or base for the base weights' share.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// weight is α.
	// +required
	Weight Decimal `json:"weight,omitempty"`
}

// PolicyPod is a pod that does not serve what is expected.
type PolicyPod struct {
	// name of the pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// expertSetDigest that the pod reports, if it does.
	// +optional
	ExpertSetDigest Digest `json:"expertSetDigest,omitempty"`
	// error says why the pod does not start, could not be asked, or refused the
	// expert set; a pod without one is about to load it or to be replaced.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Error string `json:"error,omitempty"`
}
