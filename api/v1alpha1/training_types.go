package v1alpha1

import corev1 "k8s.io/api/core/v1"

// TrainingSpec says how an expert is trained. A change of anything that the result
// depends on (all but suspend, backoffLimit, resources, backend, gpu and podTemplate)
// trains again; the old artifact is served until the new one is there.
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.gpu)",message="gpu is for the backends CUDA and Auto",fieldPath=".gpu"
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'CPU' || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="resources ask for a GPU, which the backend CPU does not use",fieldPath=".resources"
// +kubebuilder:validation:XValidation:rule="self.objective.type != 'Evolution' || !has(self.method) || self.method.type == 'SVF'",message="objective Evolution searches what method SVF trains",fieldPath=".method"
// +kubebuilder:validation:XValidation:rule="self.objective.type != 'Evolution' || !has(self.optimizer)",message="objective Evolution follows no gradient, and has no optimizer",fieldPath=".optimizer"
// +kubebuilder:validation:XValidation:rule="self.objective.type == 'Evolution' || !has(self.dtype) || self.dtype != 'Int8'",message="Int8 has no gradients: it is for objective Evolution",fieldPath=".dtype"
// +kubebuilder:validation:XValidation:rule="!has(self.gpu) || !has(self.resources) || !has(self.resources.limits) || !('nvidia.com/gpu' in self.resources.limits)",message="give the GPU by gpu or by resources, not by both",fieldPath=".gpu"
// +kubebuilder:validation:XValidation:rule="!has(self.dataset.skills) || (has(self.objective.reinforce) ? self.objective.reinforce.reward == 'ExactMatch' : self.objective.nextToken.reward == 'ExactMatch')",message="which skill is the right one, only reward ExactMatch can judge",fieldPath=".objective"
type TrainingSpec struct {
	// method is what is trained; {type: SVF} without it. A change trains again.
	// +optional
	// +kubebuilder:default={type: SVF}
	Method Method `json:"method,omitzero"`
	// objective is what training maximises. A change trains again.
	// +required
	Objective Objective `json:"objective,omitzero"`
	// optimizer says how what is trained follows the gradient (Adam), of objectives other
	// than Evolution; the paper's values without it: learningRate "0.002", maxGradNorm
	// "0.001". A change trains again.
	// +optional
	Optimizer *Optimizer `json:"optimizer,omitempty"`
	// schedule says how long and how much; the paper's values without it: 200
	// iterations of 256 questions each, a validation and a checkpoint every 10.
	// A change trains again.
	// +optional
	Schedule *Schedule `json:"schedule,omitempty"`
	// dtype in which the model's matrices are kept while the expert is trained: F32,
	// or BF16, which takes half the memory, trains faster and rounds; with objective
	// Evolution also Int8, which takes a quarter. The expert itself is F32 always. A
	// change trains again.
	// +optional
	// +kubebuilder:default=F32
	DType TrainingDType `json:"dtype,omitempty"`
	// seed of everything random: the same seed gives the same expert. A change
	// trains again.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Seed *int64 `json:"seed,omitempty"`
	// modules restricts the projections that are trained, such as [up_proj,
	// down_proj]; all that the BaseModel decomposes without it (of method IA3, k_proj,
	// v_proj and down_proj). Methods other than SVF may train those that are not
	// decomposed, too. A change trains again.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Modules []Module `json:"modules,omitempty"`
	// dataset to train on and to validate with. A change trains again.
	// +required
	Dataset TrainingDataset `json:"dataset,omitzero"`
	// suspend holds the run: its pod is stopped after a checkpoint, and goes on
	// from there when suspend is taken back.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
	// backoffLimit is how many failed pods are replaced before the run is given up.
	// A change goes on with the run in another pod.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	BackoffLimit *int32 `json:"backoffLimit,omitempty"`
	// resources of the training pod; those of the BaseModel's spec.runtime without
	// it. A change goes on with the run in another pod, from its checkpoint.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims of dynamic resources are not supported here: name the template of a GPU's claim in gpu.resourceClaimTemplateName"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// backend that trains: CPU, CUDA, or Auto, which is CUDA where a GPU is asked for.
	// Without it, it is Auto where resources or gpu ask for a GPU here, and elsewhere
	// what the BaseModel's spec.runtime says. A change goes on with the run in another
	// pod, from its checkpoint.
	// +optional
	Backend Backend `json:"backend,omitempty"`
	// gpu says which GPU the pod has where CUDA trains. Without it, it is what
	// resources ask for here, or as the BaseModel's spec.runtime says. A change goes on
	// with the run in another pod, from its checkpoint.
	// +optional
	GPU *GPU `json:"gpu,omitempty"`
	// podTemplate shapes the training pod: where it runs, as whom, and with what
	// beside the operator's own. It is merged into that of the BaseModel's
	// spec.runtime. A change goes on with the run in another pod, from its checkpoint.
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`
}

// TrainingDType is a number format that a model can be kept in while an expert is trained.
// +kubebuilder:validation:Enum=F32;BF16;Int8
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=8
type TrainingDType string

// Number formats to train in.
const (
	// TrainingF32 has four bytes a number.
	TrainingF32 TrainingDType = "F32"
	// TrainingBF16 has two bytes a number.
	TrainingBF16 TrainingDType = "BF16"
	// TrainingInt8 has one byte a number, and a scale for each 32. No gradients pass it.
	TrainingInt8 TrainingDType = "Int8"
)

// MethodType names what is trained.
// +kubebuilder:validation:Enum=SVF;LoRA;DoRA;IA3
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type MethodType string

// Methods.
const (
	// MethodSVF scales singular values.
	MethodSVF MethodType = "SVF"
	// MethodLoRA adds a product of low-rank matrices.
	MethodLoRA MethodType = "LoRA"
	// MethodDoRA is LoRA, and a magnitude of each row of the sum.
	MethodDoRA MethodType = "DoRA"
	// MethodIA3 scales outputs, and inputs of down_proj.
	MethodIA3 MethodType = "IA3"
)

// Method is what is trained. A member is given only with its type; without it, it has
// the values that its documentation names.
// +kubebuilder:validation:XValidation:rule="!has(self.svf) || self.type == 'SVF'",message="svf is for method SVF",fieldPath=".svf"
// +kubebuilder:validation:XValidation:rule="!has(self.lora) || self.type == 'LoRA'",message="lora is for method LoRA",fieldPath=".lora"
// +kubebuilder:validation:XValidation:rule="!has(self.dora) || self.type == 'DoRA'",message="dora is for method DoRA",fieldPath=".dora"
type Method struct {
	// type of the method. SVF trains a vector z that scales the singular values,
	// W' = U·diag(σ⊙z)·Vᵀ (section 3.1 of the paper). LoRA trains low-rank matrices,
	// W' = W + alpha/rank·B·A; DoRA those and a magnitude of each row of W'. IA3 trains
	// factors of outputs, and of the inputs of down_proj: of k_proj, v_proj and down_proj
	// where the training names no modules.
	// +optional
	// +kubebuilder:default=SVF
	Type MethodType `json:"type,omitempty"`
	// activation says what the expert acts on: Prompt on all of a request, as in the
	// paper; Answer from the last token of the prompt on. Then the base reads prompts, in
	// training, too, so that what it has read serves every such expert, and a
	// conversation may change experts without being read again. All experts of a policy
	// have the same. Prompt without it.
	// +optional
	Activation Activation `json:"activation,omitempty"`
	// svf configures type SVF.
	// +optional
	SVF *SVFMethod `json:"svf,omitempty"`
	// lora configures type LoRA; {rank: 8, alpha: "16"} without it.
	// +optional
	LoRA *LowRankMethod `json:"lora,omitempty"`
	// dora configures type DoRA; {rank: 8, alpha: "16"} without it.
	// +optional
	DoRA *LowRankMethod `json:"dora,omitempty"`
}

// Activation says what an expert acts on.
// +kubebuilder:validation:Enum=Prompt;Answer
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Activation string

// Activations.
const (
	// ActivationPrompt is all of a request.
	ActivationPrompt Activation = "Prompt"
	// ActivationAnswer is the answer alone: the base reads the prompt.
	ActivationAnswer Activation = "Answer"
)

// LowRankMethod configures the methods LoRA and DoRA.
type LowRankMethod struct {
	// rank of the matrices A and B.
	// +optional
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Rank int32 `json:"rank,omitempty"`
	// alpha scales their product, by alpha/rank; above 0 and at most 65536.
	// +optional
	// +kubebuilder:default="16"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 65536.0",message="alpha must be greater than 0 and at most 65536"
	Alpha Decimal `json:"alpha,omitempty"`
}

// SVFMethod configures method SVF.
type SVFMethod struct {
	// parameterization of z: Sigmoid is the reference implementation's, z =
	// sigmoid(p) with the norm of σ kept; Direct trains z itself, from 1. Sigmoid without
	// it, of objective Evolution Direct.
	// +optional
	Parameterization Parameterization `json:"parameterization,omitempty"`
}

// Parameterization says how z follows from what is trained.
// +kubebuilder:validation:Enum=Sigmoid;Direct
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Parameterization string

// Parameterizations.
const (
	// ParameterizationSigmoid is the reference implementation's.
	ParameterizationSigmoid Parameterization = "Sigmoid"
	// ParameterizationDirect trains z itself.
	ParameterizationDirect Parameterization = "Direct"
)

// ObjectiveType names what training maximises.
// +kubebuilder:validation:Enum=Reinforce;NextToken;Evolution
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ObjectiveType string

// Objectives.
const (
	// ObjectiveReinforce is the expected reward of the model's own answers.
	ObjectiveReinforce ObjectiveType = "Reinforce"
	// ObjectiveNextToken is the likelihood of the answers that the data set gives.
	ObjectiveNextToken ObjectiveType = "NextToken"
	// ObjectiveEvolution is the reward of the model's own answers, searched for without a
	// gradient.
	ObjectiveEvolution ObjectiveType = "Evolution"
)

// Objective is what training maximises. The member of its type is given, and no
// other.
// +kubebuilder:validation:XValidation:rule="self.type != 'Reinforce' || has(self.reinforce)",message="objective Reinforce needs reinforce, with a reward",fieldPath=".reinforce"
// +kubebuilder:validation:XValidation:rule="self.type == 'Reinforce' || !has(self.reinforce)",message="reinforce is for objective Reinforce",fieldPath=".reinforce"
// +kubebuilder:validation:XValidation:rule="self.type != 'NextToken' || has(self.nextToken)",message="objective NextToken needs nextToken, with a reward for validations",fieldPath=".nextToken"
// +kubebuilder:validation:XValidation:rule="self.type == 'NextToken' || !has(self.nextToken)",message="nextToken is for objective NextToken",fieldPath=".nextToken"
// +kubebuilder:validation:XValidation:rule="self.type != 'Evolution' || has(self.evolution)",message="objective Evolution needs evolution, with a reward",fieldPath=".evolution"
// +kubebuilder:validation:XValidation:rule="self.type == 'Evolution' || !has(self.evolution)",message="evolution is for objective Evolution",fieldPath=".evolution"
type Objective struct {
	// type of the objective. Reinforce is the expected reward of the model's own
	// answers, less a penalty for leaving the base model. NextToken is the likelihood of
	// the answers that the data set gives, a mean over their tokens. Evolution is the
	// reward of the model's own answers, too, but searched for by inference alone: there is
	// no backward pass, which takes less memory; of method SVF.
	// +optional
	// +kubebuilder:default=Reinforce
	Type ObjectiveType `json:"type,omitempty"`
	// reinforce configures type Reinforce, which needs it.
	// +optional
	Reinforce *ReinforceObjective `json:"reinforce,omitempty"`
	// nextToken configures type NextToken, which needs it.
	// +optional
	NextToken *NextTokenObjective `json:"nextToken,omitempty"`
	// evolution configures type Evolution, which needs it.
	// +optional
	Evolution *EvolutionObjective `json:"evolution,omitempty"`
}

// EvolutionObjective is a search of the singular values' scales by covariance matrix
// adaptation (after ESSA, arXiv 2507.04453). An iteration of the schedule is a generation:
// each of its candidates answers the schedule's batchSize of questions, the same ones for
// all, and is as fit as the mean reward of its answers.
type EvolutionObjective struct {
	// reward judges an answer; see reinforce.reward.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// rollout says how answers are made; {type: Greedy, maxNewTokens: 512} without it.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
	// population is the number of candidates in a generation.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=4
	// +kubebuilder:validation:Maximum=1024
	Population int32 `json:"population,omitempty"`
	// sigma is the standard deviation of each number that is searched in the first
	// generation, above 0 and at most 10: of z itself, which begins with 1, or of what the
	// parameterization Sigmoid takes, of which the same is about half as far.
	// +optional
	// +kubebuilder:default="0.15"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 10.0",message="sigma must be greater than 0 and at most 10"
	Sigma Decimal `json:"sigma,omitempty"`
	// rank is how many singular values of each matrix are searched, the largest ones, such
	// as 16, 64 or 256: a search takes the longer the more they are. The others stay as they
	// are.
	// +optional
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	Rank int32 `json:"rank,omitempty"`
}

// NextTokenObjective is the mean of log π'(token) over the tokens of given answers.
type NextTokenObjective struct {
	// reward judges the model's own answers in validations; see reinforce.reward.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// maxNewTokens bounds an answer in validations, in tokens.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=131072
	MaxNewTokens int32 `json:"maxNewTokens,omitempty"`
}

// ReinforceObjective is E[log π'(answer)·(reward − baseline)] − klWeight·KL(π'‖π).
// +kubebuilder:validation:XValidation:rule="!has(self.groupSize) || self.baseline == 'Group'",message="groupSize is for baseline Group",fieldPath=".groupSize"
// +kubebuilder:validation:XValidation:rule="self.baseline != 'Group' || has(self.rollout) && self.rollout.type == 'Sample'",message="baseline Group needs rollout Sample: greedy answers to one question are all the same",fieldPath=".rollout"
type ReinforceObjective struct {
	// reward judges an answer: +1 if it is right, -1 if not. ExactMatch compares the
	// text, blanks aside; Numeric the last number; MultipleChoice the letter that
	// the answer names; Math the value of a mathematical answer; UnitTests runs the answer's Python program against the
	// record's tests.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// rollout says how answers are made; {type: Greedy, maxNewTokens: 512} without
	// it.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
	// klWeight is λ of the penalty λ·KL(π'‖π), 0 to 1000; the paper tried 0, 0.1, 0.2
	// and 0.3. With 0 training is faster, and the divergence is measured only in
	// iterations that end with a validation.
	// +optional
	// +kubebuilder:default="0.1"
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1000.0",message="klWeight must be at most 1000"
	KLWeight Decimal `json:"klWeight,omitempty"`
	// baseline is subtracted from the reward: None as in the paper, Mean of the
	// batch, or Group: each question is answered groupSize times, and a reward counts
	// by how far it is from the mean of its group, in standard deviations (known as
	// GRPO).
	// +optional
	// +kubebuilder:default=None
	Baseline Baseline `json:"baseline,omitempty"`
	// groupSize is how many answers each of the schedule's questions gets, of baseline
	// Group; 8 without it.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1024
	GroupSize int32 `json:"groupSize,omitempty"`
}

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

// Baseline is what is subtracted from the reward.
// +kubebuilder:validation:Enum=None;Mean;Group
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type Baseline string

// Baselines.
const (
	// BaselineNone subtracts nothing, as the paper does.
	BaselineNone Baseline = "None"
	// BaselineMean subtracts the mean of the batch.
	BaselineMean Baseline = "Mean"
	// BaselineGroup subtracts the mean of the answers to the same question, and divides
	// by their standard deviation.
	BaselineGroup Baseline = "Group"
)

// Rollout says how answers are made in training.
// +kubebuilder:validation:XValidation:rule="!has(self.temperature) || self.type == 'Sample'",message="temperature is for rollout Sample",fieldPath=".temperature"
type Rollout struct {
	// type of the rollout: Greedy takes the most likely token, as in the paper;
	// Sample draws.
	// +optional
	// +kubebuilder:default=Greedy
	Type RolloutType `json:"type,omitempty"`
	// temperature of type Sample, above 0 and at most 10; 1 without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 10.0",message="temperature must be greater than 0 and at most 10"
	Temperature Decimal `json:"temperature,omitempty"`
	// maxNewTokens bounds an answer, in tokens. What does not end within it is
	// judged as it stands.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=131072
	MaxNewTokens int32 `json:"maxNewTokens,omitempty"`
}

// RolloutType says how the next token is chosen.
// +kubebuilder:validation:Enum=Greedy;Sample
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type RolloutType string

// Rollouts.
const (
	// RolloutGreedy takes the most likely token.
	RolloutGreedy RolloutType = "Greedy"
	// RolloutSample draws a token.
	RolloutSample RolloutType = "Sample"
)

// Optimizer says how what is trained follows the gradient: Adam, after clipping.
type Optimizer struct {
	// learningRate of Adam, above 0 and at most 1.
	// +optional
	// +kubebuilder:default="0.002"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 1.0",message="learningRate must be greater than 0 and at most 1"
	LearningRate Decimal `json:"learningRate,omitempty"`
	// maxGradNorm is the norm to which a longer gradient is scaled down.
	// +optional
	// +kubebuilder:default="0.001"
	// +kubebuilder:validation:XValidation:rule="double(self) > 0.0 && double(self) <= 1000000.0",message="maxGradNorm must be greater than 0 and at most 1000000"
	MaxGradNorm Decimal `json:"maxGradNorm,omitempty"`
}

// Schedule says how long an expert is trained and how much in an iteration.
type Schedule struct {
	// iterations is the number of optimiser steps, of objective Evolution of generations,
	// at most: a validation score of 1 ends the run, since none is better and the earliest
	// of equals is kept.
	// +optional
	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Iterations int32 `json:"iterations,omitempty"`
	// batchSize is the number of questions answered in each iteration, 256 without it; of
	// objective Evolution by each candidate, 8 without it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	BatchSize int32 `json:"batchSize,omitempty"`
	// validationInterval is the number of iterations between validations. The
	// checkpoint with the best validation score is the result.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	ValidationInterval int32 `json:"validationInterval,omitempty"`
	// checkpointInterval is the number of iterations between checkpoints, from which
	// an interrupted run goes on.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	CheckpointInterval int32 `json:"checkpointInterval,omitempty"`
	// patience ends the run after that many validations without a better score; 0
	// never does.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Patience *int32 `json:"patience,omitempty"`
}
