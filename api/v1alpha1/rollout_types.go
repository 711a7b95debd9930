package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RolloutSpec says which experts are good enough to be served, and what a set of them must
// have shown before it is.
// +kubebuilder:validation:MinProperties=1
type RolloutSpec struct {
	// gate is what an expert, and a set of experts, must have before it is served.
	// +optional
	Gate *RolloutGate `json:"gate,omitempty"`
	// observe has a new set choose beside the one that serves first, and answer nothing.
	// +optional
	Observe *RolloutObserve `json:"observe,omitempty"`
	// canary has a new set answer a share of the conversations first.
	// +optional
	Canary *RolloutCanary `json:"canary,omitempty"`
}

// RolloutGate is what an expert must have before it is served. With dataset or fewShot, it
// is also what a whole set must have: a change of the experts, of their artifacts or of the
// strategy makes another set, which a Job evaluates beside the base and the set that serves,
// by the same questions. Until it has passed, the set before serves on; the base answers
// where there is none.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.dataset) || !has(self.fewShot)",message="give dataset or fewShot, not both"
// +kubebuilder:validation:XValidation:rule="has(self.dataset) == has(self.reward)",message="reward goes with dataset: it says which answers are right",fieldPath=".reward"
// +kubebuilder:validation:XValidation:rule="has(self.dataset) || has(self.fewShot) || (!has(self.guards) && !has(self.samples) && !has(self.maxNewTokens))",message="guards, samples and maxNewTokens need an evaluation: give dataset or fewShot"
type RolloutGate struct {
	// minGain is how far an expert's validation score must be above the base
	// model's, at least: "0" without it, so that an expert which answers worse than
	// the base is not served; "-1" serves every expert. Of an expert that was
	// imported no scores are known, nor of one that is transferred: it is served. A policy that names an expert
	// below it is not Ready; one that selects it leaves it out. With dataset or fewShot,
	// it is how far the score of the new set must be above that of the set that serves,
	// or of the base where none does; experts alone must then be as far above the base as
	// it says only where it is below 0, and else no worse. It has no part in what an
	// evaluation is: a change judges the same numbers anew. A change reaches running pods
	// without a restart.
	// +optional
	MinGain Gain `json:"minGain,omitempty"`
	// dataset has the questions of the evaluation: none of them should be in a data set
	// that experts are trained with. Of strategy Probe, the probe that follows learns from who
	// answered them right, so that the score of its set is a flattering one;
	// status.probe.answers says how it does on questions that it has not seen. A change evaluates the set that serves no more, and
	// the next one by it. At most one of dataset and fewShot is given; without either
	// nothing is evaluated.
	// +optional
	Dataset *Dataset `json:"dataset,omitempty"`
	// fewShot takes the examples of spec.strategy.fewShot, and their reward, as questions.
	// The weights were searched by the same, so that the new set's score is a flattering
	// one.
	// +optional
	FewShot GateExamples `json:"fewShot,omitempty"`
	// reward judges the answers to dataset, as in a training: ExactMatch compares the
	// text, Numeric the last number, MultipleChoice the letter, Math the value, and
	// UnitTests runs the program.
	// +optional
	Reward Reward `json:"reward,omitempty"`
	// samples is how many questions of each data set are asked, from the first: 64 without
	// it. Each is answered by the base, by each expert alone, by the set that serves and
	// by the new one. About 400 tell a gain of 0.05 from none.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	Samples int32 `json:"samples,omitempty"`
	// maxNewTokens bounds an answer, in tokens: 512 without it. What does not end within
	// it is judged as it stands.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=131072
	MaxNewTokens int32 `json:"maxNewTokens,omitempty"`
	// guards are data sets by which the new set must not be much worse.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Guards []RolloutGuard `json:"guards,omitempty"`
}

// GateExamples says which examples are the questions of an evaluation.
// +kubebuilder:validation:Enum=Examples
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type GateExamples string

// ExamplesOfStrategy are all of spec.strategy.fewShot.dataset.
const ExamplesOfStrategy GateExamples = "Examples"

// RolloutGuard is a data set by which a new expert set must not be much worse.
type RolloutGuard struct {
	// name of the guard, in status and messages.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// dataset has the questions.
	// +required
	Dataset Dataset `json:"dataset,omitzero"`
	// reward judges the answers, as in a training.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// maxLoss is how far the new set's score may be below that of the set that serves, or
	// of the base where none does, 0 to 1: "0" without it. A change judges the same
	// numbers anew.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="maxLoss must be at most 1"
	MaxLoss Decimal `json:"maxLoss,omitempty"`
}

// RolloutStatus says which expert set serves, and which one is to follow it.
// +kubebuilder:validation:MinProperties=1
type RolloutStatus struct {
	// summary of the rollout for people, such as Evaluating 12/64, Failed -0.02, Observing,
	// Canary 25%, Aborted or Passed +0.08.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
	// stable is the set that serves, and that pods which start load. What it has in full is
	// in the policy's ConfigMap, under the key stable.json. It is not there before a set
	// has passed, while the base answers.
	// +optional
	Stable *RolloutSet `json:"stable,omitempty"`
	// candidate is the set that the policy asks for, while that is another.
	// +optional
	Candidate *RolloutSet `json:"candidate,omitempty"`
	// evaluation is the latest one that ended: of candidate, or of stable before it
	// served.
	// +optional
	Evaluation *RolloutEvaluation `json:"evaluation,omitempty"`
	// progress of the evaluation that goes on.
	// +optional
	Progress *EvaluationProgress `json:"progress,omitempty"`
	// observe is the latest observation: of candidate, or of stable before it served.
	// +optional
	Observe *ObserveStatus `json:"observe,omitempty"`
	// canary is the latest one: of candidate, or of stable before it served.
	// +optional
	Canary *CanaryStatus `json:"canary,omitempty"`
	// runs are the latest evaluations, newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
}

// RolloutSet is an expert set by its digests.
type RolloutSet struct {
	// digest of the set, as pods report it.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// since is when it became that.
	// +required
	Since metav1.Time `json:"since,omitempty,omitzero"`
	// decompositionDigest is the decomposition that its experts scale.
	// +optional
	DecompositionDigest Digest `json:"decompositionDigest,omitempty"`
	// experts of it, with the artifacts that it needs, its classifier among them.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=65
	Experts []RolloutExpert `json:"experts,omitempty"`
	// probeDigest is the artifact that its strategy Probe chooses by.
	// +optional
	ProbeDigest Digest `json:"probeDigest,omitempty"`
}

// RolloutExpert is an expert of a set.
type RolloutExpert struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// digest of its artifact.
	// +required
	Digest Digest `json:"digest,omitempty"`
}

// RolloutEvaluation is what came of an evaluation.
type RolloutEvaluation struct {
	// runID is the evaluation: the hash of both sets, the data sets and the settings.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunID string `json:"runID,omitempty"`
	// recipe is the hash of the same with the data sets by name and not by content: by it
	// the numbers stand where they cannot be read any more.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Recipe string `json:"recipe,omitempty"`
	// candidateDigest is the set that was evaluated.
	// +required
	CandidateDigest Digest `json:"candidateDigest,omitempty"`
	// stableDigest is the set that served then; not there where none did, so that the
	// base is what it was compared with.
	// +optional
	StableDigest Digest `json:"stableDigest,omitempty"`
	// answersID is the hash of what the answers of the base and of each expert alone depend
	// on: of the experts and the gate's questions, and not of how experts are chosen.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	AnswersID string `json:"answersID,omitempty"`
	// digest of the artifact in the volume, below evaluations: every answer, and which
	// question who answered right.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// gate is what came of the gate's own data set.
	// +required
	Gate EvaluationResult `json:"gate,omitzero"`
	// guards are what came of the guards, in their order.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Guards []GuardResult `json:"guards,omitempty"`
	// experts are the scores of each expert alone on the gate's data set.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Experts []ExpertScore `json:"experts,omitempty"`
	// durationSeconds that it took, its pod's start not among them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DurationSeconds *int64 `json:"durationSeconds,omitempty"`
}

// EvaluationResult are scores by one data set, shares of right answers.
type EvaluationResult struct {
	// questions is how many were asked.
	// +required
	// +kubebuilder:validation:Minimum=1
	Questions int32 `json:"questions,omitempty"`
	// baselineScore is the base model's.
	// +required
	BaselineScore Score `json:"baselineScore,omitempty"`
	// stableScore is that of the set that served.
	// +optional
	StableScore Score `json:"stableScore,omitempty"`
	// score is that of the set that was evaluated.
	// +required
	Score Score `json:"score,omitempty"`
	// gain is score less stableScore, or less baselineScore where no set served.
	// +required
	Gain Gain `json:"gain,omitempty"`
	// gainLow and gainHigh bound the gain with a confidence of 95 %, as the same
	// questions were asked of both (Newcombe 1998, method 10).
	// +required
	GainLow Gain `json:"gainLow,omitempty"`
	// gainHigh is the upper bound.
	// +required
	GainHigh Gain `json:"gainHigh,omitempty"`
	// datasetDigest is the SHA-256 of the file.
	// +optional
	DatasetDigest Digest `json:"datasetDigest,omitempty"`
}

// GuardResult is what came of a guard.
type GuardResult struct {
	// name of the guard.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// result are the scores.
	// +required
	Result EvaluationResult `json:"result,omitzero"`
}

// ExpertScore is the score of one expert alone.
type ExpertScore struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// digest of its artifact.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// score of it.
	// +required
	Score Score `json:"score,omitempty"`
}

// EvaluationProgress is how far an evaluation is.
type EvaluationProgress struct {
	// summary is what is done, such as Evaluating 12/64: answers of all that are wanted.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
	// estimatedRemainingSeconds of that, once it is known.
	// +optional
	// +kubebuilder:validation:Minimum=0
	EstimatedRemainingSeconds *int64 `json:"estimatedRemainingSeconds,omitempty"`
}
