package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExpertVector is a vector z that scales the singular values of a BaseModel for
// one skill. It is trained in the cluster, or imported by digest.
//
// +genclient
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=expert,categories=t2
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Iteration",type=string,JSONPath=`.status.progress.summary`
// +kubebuilder:printcolumn:name="Baseline",type=string,JSONPath=`.status.baselineScore`
// +kubebuilder:printcolumn:name="Best",type=string,JSONPath=`.status.progress.bestScore`
// +kubebuilder:printcolumn:name="Skill",type=string,JSONPath=`.spec.skill`,priority=1
// +kubebuilder:printcolumn:name="Base",type=string,JSONPath=`.spec.baseModelRef.name`,priority=1
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.status.runs[0].device`,priority=1
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.status.artifact.digest`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name must be a DNS label that begins with a letter and has at most 52 characters"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name in ['base', 'others'])",message="base and others mean the base weights and cannot name an expert"
type ExpertVector struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what the expert is for and where it comes from.
	// +required
	Spec ExpertVectorSpec `json:"spec,omitzero"`

	// status says how training goes and what came of it. Its observedGeneration is
	// -1 until the operator has seen the object.
	// +optional
	// +kubebuilder:default={observedGeneration:-1}
	Status ExpertVectorStatus `json:"status,omitzero"`
}

// ExpertVectorList is a list of ExpertVectors.
//
// +kubebuilder:object:root=true
type ExpertVectorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []ExpertVector `json:"items"`
}

// ExpertVectorSpec says what the expert is for and where it comes from:
// exactly one of training and source.
// +kubebuilder:validation:ExactlyOneOf=training;source
// +kubebuilder:validation:XValidation:rule="self.baseModelRef == oldSelf.baseModelRef",message="baseModelRef cannot change: make a new ExpertVector",fieldPath=".baseModelRef"
// +kubebuilder:validation:XValidation:rule="has(self.role) && self.role == 'Dispatcher' || !has(self.training) || !has(self.training.dataset.skills)",message="what is trained to tell skills apart has role Dispatcher",fieldPath=".role"
type ExpertVectorSpec struct {
	// baseModelRef names the BaseModel whose singular values are scaled, in the same
	// namespace. It cannot change.
	// +required
	BaseModelRef LocalRef `json:"baseModelRef,omitzero"`
	// skill is the one word by which pass 1 of an AdaptivePolicy knows this expert:
	// letters, digits, '-', '_' and '.'. Two experts of one policy must differ in it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['base', 'others'])",message="base and others mean the base weights and cannot name a skill"
	Skill string `json:"skill,omitempty"`
	// description of the skill in a few words on one line, which pass 1 shows the
	// model beside the skill. A change does not train again: it reaches the pods of
	// policies without a restart.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\r\n]*$`
	Description string `json:"description,omitempty"`
	// role of the expert. Skill, without it, answers requests. Dispatcher chooses who
	// does: pass 1 of policies runs with it that name it in
	// spec.strategy.classifier, and no policy serves it as one of its experts, nor does
	// an expertSelector find it. A change does not train again.
	// +optional
	Role ExpertRole `json:"role,omitempty"`
	// training trains the expert in the cluster. Exactly one of training and source
	// is given.
	// +optional
	Training *TrainingSpec `json:"training,omitempty"`
	// source imports a finished expert. A change imports again.
	// +optional
	Source *ExpertSource `json:"source,omitempty"`
	// publish pushes the artifact to a registry once it is there, and each that follows
	// it. It has no part in what is trained, and nothing waits for it: how it goes is in
	// the condition Published, not in Ready. A change pushes to the new place, and trains
	// nothing. Without it, what was pushed stays where it is.
	// +optional
	Publish *ExpertPublish `json:"publish,omitempty"`
}

// ExpertRole is what an expert is for.
// +kubebuilder:validation:Enum=Skill;Dispatcher
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ExpertRole string

// Roles.
const (
	// RoleSkill answers requests.
	RoleSkill ExpertRole = "Skill"
	// RoleDispatcher chooses who does.
	RoleDispatcher ExpertRole = "Dispatcher"
)

// ExpertVectorStatus says how training goes and what came of it.
// +kubebuilder:validation:MinProperties=0
type ExpertVectorStatus struct {
	// conditions are Ready, Improved once an expert was trained, Stored once a pod
	// did not find its artifact, Published where spec.publish is given, and, while they
	// hold, Reconciling or Stalled.
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
	// progress of the latest run.
	// +optional
	Progress *TrainingProgress `json:"progress,omitempty"`
	// baselineScore is the base model's score on the validation set, 0 to 1.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// score of the artifact on the validation set, 0 to 1.
	// +optional
	Score Score `json:"score,omitempty"`
	// artifact is the expert that policies serve; that of the previous run while a
	// new one goes on.
	// +optional
	Artifact *ExpertArtifact `json:"artifact,omitempty"`
	// baseDigest is the model that the artifact belongs to.
	// +optional
	BaseDigest Digest `json:"baseDigest,omitempty"`
	// decompositionDigest is the decomposition that the artifact scales.
	// +optional
	DecompositionDigest Digest `json:"decompositionDigest,omitempty"`
	// runs are the latest runs, newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
	// published is what was pushed to a registry last. It stays when spec.publish goes.
	// +optional
	Published *PublishedArtifact `json:"published,omitempty"`
	// publishRun is the latest run that pushes.
	// +optional
	PublishRun *RunStatus `json:"publishRun,omitempty"`
}

// TrainingProgress is how far a training run is.
type TrainingProgress struct {
	// summary is iteration of iterations, such as 12/40.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// step is what the Job does now, in the runtime's words: Baseline, Training,
	// Validating or Saving.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Step string `json:"step,omitempty"`
	// iteration that was done last.
	// +required
	// +kubebuilder:validation:Minimum=0
	Iteration *int32 `json:"iteration,omitempty"`
	// iterations in all.
	// +required
	// +kubebuilder:validation:Minimum=1
	Iterations int32 `json:"iterations,omitempty"`
	// reward is the mean of the last batch, -1 to 1.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Reward string `json:"reward,omitempty"`
	// kl is the divergence from the base model per token, of the last batch that
	// it was measured of.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=24
	KL string `json:"kl,omitempty"`
	// validationScore is that of the last validation.
	// +optional
	ValidationScore Score `json:"validationScore,omitempty"`
	// bestScore is the best validation so far.
	// +optional
	BestScore Score `json:"bestScore,omitempty"`
	// estimatedRemainingSeconds of the run, once it is known.
	// +optional
	// +kubebuilder:validation:Minimum=0
	EstimatedRemainingSeconds *int64 `json:"estimatedRemainingSeconds,omitempty"`
}

// ExpertArtifact is a finished expert.
type ExpertArtifact struct {
	// digest of the expert's files.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// sizeBytes of the expert's files together.
	// +required
	// +kubebuilder:validation:Minimum=1
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// uri says where it lies: pvc://<claim>/<folder>.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	URI string `json:"uri,omitempty"`
	// runID is the run that made it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunID string `json:"runID,omitempty"`
	// recipe is the hash of what that run was asked for: of the specification and
	// the model, with data sets by name. While it stays, so does the artifact, also
	// when a data set cannot be read any more.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Recipe string `json:"recipe,omitempty"`
	// trainedFor is the question of pass 1 that a dispatcher was trained to answer:
	// the digest of its skills, their descriptions, the template and requestTokens.
	// +optional
	TrainedFor Digest `json:"trainedFor,omitempty"`
	// activation is what the expert acts on; Prompt without it.
	// +optional
	Activation Activation `json:"activation,omitempty"`
	// verified is whose signature the source has, where spec.source.verify asks for one.
	// +optional
	Verified *VerifiedSignature `json:"verified,omitempty"`
}
