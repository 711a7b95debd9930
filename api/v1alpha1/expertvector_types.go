package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
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

	// status says how training goes and what came of it.
	// +optional
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
type ExpertVectorSpec struct {
	// baseModelRef names the BaseModel whose singular values are scaled.
	// +required
	BaseModelRef LocalRef `json:"baseModelRef,omitzero"`
	// skill is the one word by which pass 1 of an AdaptivePolicy knows this expert.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!(self in ['base', 'others'])",message="base and others mean the base weights and cannot name a skill"
	Skill string `json:"skill,omitempty"`
	// description of the skill in a few words, which pass 1 shows the model beside
	// the skill. Changing it does not train again.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\r\n]*$`
	Description string `json:"description,omitempty"`
	// training trains the expert in the cluster.
	// +optional
	Training *TrainingSpec `json:"training,omitempty"`
	// source imports a finished expert.
	// +optional
	Source *ExpertSource `json:"source,omitempty"`
}

// ExpertSource is where a finished expert comes from: exactly one of http and
// persistentVolumeClaim.
// +kubebuilder:validation:ExactlyOneOf=http;persistentVolumeClaim
type ExpertSource struct {
	// http is the address of the expert's .safetensors file or of an archive of
	// its folder.
	// +optional
	HTTP *HTTPSource `json:"http,omitempty"`
	// persistentVolumeClaim holds the expert's file or folder.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// digest is what the expert must have.
	// +required
	Digest Digest `json:"digest,omitempty"`
}

// TrainingSpec says how an expert is trained. Changing anything that the
// result depends on (not suspend, backoffLimit and resources) starts a new run;
// the old artifact is served until the new one is there.
type TrainingSpec struct {
	// method is what is trained: SVF scales singular values (section 3.1 of the
	// paper).
	// +optional
	// +kubebuilder:default=SVF
	Method Method `json:"method,omitempty"`
	// objective is what training maximises: Reinforce is the expected reward of
	// the model's own answers, less a KL penalty.
	// +optional
	// +kubebuilder:default=Reinforce
	Objective Objective `json:"objective,omitempty"`
	// modules restricts the projections that are trained; all that the BaseModel
	// decomposes without it.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=7
	Modules []Module `json:"modules,omitempty"`
	// dataset to train on and to validate with.
	// +required
	Dataset TrainingDataset `json:"dataset,omitzero"`
	// reward judges an answer: +1 if it is right, −1 if not.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// hyperparameters have the paper's values by default.
	// +optional
	// +kubebuilder:default={}
	Hyperparameters Hyperparameters `json:"hyperparameters,omitzero"`
	// suspend holds the run: its pod is stopped after a checkpoint, and goes on
	// from there when suspend is taken back.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
	// backoffLimit is how many failed pods are replaced before the run is given up.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	BackoffLimit *int32 `json:"backoffLimit,omitempty"`
	// resources of the training pod; the BaseModel's without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims of dynamic resources are not supported"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// Method is what is trained.
// +kubebuilder:validation:Enum=SVF
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Method string

// MethodSVF scales singular values.
const MethodSVF Method = "SVF"

// Objective is what training maximises.
// +kubebuilder:validation:Enum=Reinforce
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Objective string

// ObjectiveReinforce is the expected reward of the model's own answers.
const ObjectiveReinforce Objective = "Reinforce"

// Reward judges an answer.
// +kubebuilder:validation:Enum=ExactMatch;Numeric;MultipleChoice;Math;UnitTests
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
type Reward string

// Rewards.
const (
	RewardExactMatch     Reward = "ExactMatch"
	RewardNumeric        Reward = "Numeric"
	RewardMultipleChoice Reward = "MultipleChoice"
	RewardMath           Reward = "Math"
	RewardUnitTests      Reward = "UnitTests"
)

// TrainingDataset is a pair of data sets.
type TrainingDataset struct {
	// train is what the model answers for its reward.
	// +required
	Train Dataset `json:"train,omitzero"`
	// validation decides which checkpoint is the result.
	// +required
	Validation Dataset `json:"validation,omitzero"`
}

// Dataset is a file of JSON objects, one a line or in one array, compressed by
// gzip or not, from exactly one of configMap, persistentVolumeClaim and http.
// +kubebuilder:validation:ExactlyOneOf=configMap;persistentVolumeClaim;http
type Dataset struct {
	// configMap holds the file under a key. Changing its content starts a new run.
	// +optional
	ConfigMap *ConfigMapKeyRef `json:"configMap,omitempty"`
	// persistentVolumeClaim holds the file.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// http is the file's address.
	// +optional
	HTTP *HTTPFile `json:"http,omitempty"`
	// digest is the SHA-256 that the file must have. With
	// persistentVolumeClaim and http it is the only way to notice a change.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// format of the file's lines.
	// +required
	Format DatasetFormat `json:"format,omitempty"`
	// promptTemplate turns a line into the user's message: {question}, {choices}
	// and {tests} are replaced. The format has a default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	PromptTemplate string `json:"promptTemplate,omitempty"`
	// limit is how many lines are used; all without it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	Limit int32 `json:"limit,omitempty"`
}

// DatasetFormat names the fields of a file's records, as published data sets have
// them; Chat has messages, Pairs has prompt and answer.
// +kubebuilder:validation:Enum=GSM8K;MBPP;HumanEval;ARC;MATH;Chat;Pairs
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type DatasetFormat string

// Data set formats.
const (
	FormatGSM8K     DatasetFormat = "GSM8K"
	FormatMBPP      DatasetFormat = "MBPP"
	FormatHumanEval DatasetFormat = "HumanEval"
	FormatARC       DatasetFormat = "ARC"
	FormatMATH      DatasetFormat = "MATH"
	FormatChat      DatasetFormat = "Chat"
	FormatPairs     DatasetFormat = "Pairs"
)

// Hyperparameters of Reinforce; the defaults are the paper's.
type Hyperparameters struct {
	// parameterization of z: Sigmoid is the reference implementation's, z =
	// sigmoid(p) with the norm of σ kept; Direct trains z from 1.
	// +optional
	// +kubebuilder:default=Sigmoid
	// +kubebuilder:validation:Enum=Sigmoid;Direct
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Parameterization string `json:"parameterization,omitempty"`
	// iterations is the number of optimiser steps, at most: a validation score of 1
	// ends the run, since none is better and the earliest of equals is kept.
	// +optional
	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Iterations int32 `json:"iterations,omitempty"`
	// batchSize is the number of questions answered in each step.
	// +optional
	// +kubebuilder:default=256
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	BatchSize int32 `json:"batchSize,omitempty"`
	// learningRate of Adam.
	// +optional
	// +kubebuilder:default="0.002"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 1.0",message="learningRate must be greater than 0 and at most 1"
	LearningRate Decimal `json:"learningRate,omitempty"`
	// maxGradNorm clips the gradient's norm.
	// +optional
	// +kubebuilder:default="0.001"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 1000000.0",message="maxGradNorm must be greater than 0 and at most 1000000"
	MaxGradNorm Decimal `json:"maxGradNorm,omitempty"`
	// klWeight is λ of the penalty λ·KL(π'‖π). With 0 training is faster, and the
	// divergence is measured only in iterations that end with a validation.
	// +optional
	// +kubebuilder:default="0.1"
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1000.0",message="klWeight must be at most 1000"
	KLWeight Decimal `json:"klWeight,omitempty"`
	// rollout says how answers are made: Greedy as in the paper, or Sample.
	// +optional
	// +kubebuilder:default=Greedy
	// +kubebuilder:validation:Enum=Greedy;Sample
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Rollout string `json:"rollout,omitempty"`
	// temperature of sampled answers.
	// +optional
	// +kubebuilder:default="1"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 10.0",message="temperature must be greater than 0 and at most 10"
	Temperature Decimal `json:"temperature,omitempty"`
	// baseline is subtracted from the reward: None as in the paper, or Mean of the
	// batch.
	// +optional
	// +kubebuilder:default=None
	// +kubebuilder:validation:Enum=None;Mean
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Baseline string `json:"baseline,omitempty"`
	// maxNewTokens bounds an answer.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=131072
	MaxNewTokens int32 `json:"maxNewTokens,omitempty"`
	// validationInterval is the number of iterations between validations.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	ValidationInterval int32 `json:"validationInterval,omitempty"`
	// checkpointInterval is the number of iterations between checkpoints.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	CheckpointInterval int32 `json:"checkpointInterval,omitempty"`
	// patience ends the run after that many validations without a better score;
	// 0 never does.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Patience *int32 `json:"patience,omitempty"`
	// weights is what matrices are kept as while the expert is trained: F32, or
	// BF16, which trains faster and rounds. The expert itself is F32 always.
	// +optional
	// +kubebuilder:default=F32
	// +kubebuilder:validation:Enum=F32;BF16
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Weights string `json:"weights,omitempty"`
	// seed of everything random: the same seed gives the same expert.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Seed *int64 `json:"seed,omitempty"`
}

// ExpertVectorStatus says how training goes and what came of it.
// +kubebuilder:validation:MinProperties=0
type ExpertVectorStatus struct {
	// conditions are Ready and, while they hold, Reconciling or Stalled.
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
	// progress of the latest run.
	// +optional
	Progress *TrainingProgress `json:"progress,omitempty"`
	// baselineScore is the base model's score on the validation set.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// score of the artifact on the validation set.
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
	// runs are the latest runs, newest first.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
}

// TrainingProgress is how far a training run is.
type TrainingProgress struct {
	// summary is iteration of iterations, such as 12/40.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// step is what the Job does now: Baseline, Training, Validating or Saving.
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
	// reward is the mean of the last batch, −1 to 1.
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
}
