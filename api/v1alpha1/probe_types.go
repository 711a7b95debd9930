package v1alpha1

// ProbeStrategy configures strategy Probe: a linear map, the probe, from what the base makes
// of a request to the skill that the request wants. A Job fits it to the training prompts of
// the policy's experts, with the resources that spec.serving gives a pod. It is fitted again
// when the policy has other experts or these have other training data, when the base is
// another, or when others or maxPrompts are; until then the one before is served. Where
// spec.rollout.gate has evaluated the experts, it learns from who answered which question right,
// too: the first probe is fitted to prompts alone, and once its set has been evaluated another
// one by the answers, which is taken where these show it to be the better one.
// +kubebuilder:validation:MinProperties=1
type ProbeStrategy struct {
	// others has prompts that none of the experts is for, which the base weights are to
	// answer; its answers mean nothing. Without it, what the probe is less sure of than
	// of nearly all training prompts is for none of them. A change fits again.
	// +optional
	Others *Dataset `json:"others,omitempty"`
	// maxPrompts is how many prompts the probe is fitted to at most, the same number of
	// each skill; a quarter as many of those that are held out evaluate it. A change fits
	// again.
	// +optional
	// +kubebuilder:default=1024
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=1024
	MaxPrompts int32 `json:"maxPrompts,omitempty"`
	// minProbability is what the probability of the most likely skill has to reach, 0
	// to 1, among all skills and "others" (none of them), which has to reach it, too;
	// below it the fallback answers. Without it, the most likely one is taken
	// however likely it is.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="minProbability must be at most 1"
	MinProbability Decimal `json:"minProbability,omitempty"`
	// topK is how many of the most likely skills are mixed, at most, each with its
	// probability among them, rounded to sixteenths; 1 without it, the most likely
	// one alone. The share of "others" is that of the base weights. Above 1, form
	// Auto computes experts unmerged.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8
	TopK int32 `json:"topK,omitempty"`
}

// ProbeStatus is the probe of strategy Probe, and how the fitting of the next one is.
// +kubebuilder:validation:MinProperties=1
type ProbeStatus struct {
	// runID is the run that fitted the probe: the hash of the base, of the skills and
	// training data of the experts, and of the settings. While it is what the policy asks
	// for, nothing is fitted.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunID string `json:"runID,omitempty"`
	// recipe is the hash of the same with the data sets by name and not by content: by it
	// the probe stands where they cannot be read any more.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Recipe string `json:"recipe,omitempty"`
	// state says whether the probe is served: Served, Loading, Lost (a pod does not find
	// it in the volume, and it is fitted again if that stays so), or Refused; not there
	// while none can be.
	// +optional
	State ExpertState `json:"state,omitempty"`
	// digest of the probe's artifact.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// baseDigest is the model whose states it reads: the probe is served with it alone.
	// +optional
	BaseDigest Digest `json:"baseDigest,omitempty"`
	// labels that it chooses from: skills, and others if that was taught.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=65
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Labels []string `json:"labels,omitempty"`
	// untaught are the skills of the policy's experts that the probe does not know, since
	// these have no training data here (they were imported) or came after it was fitted:
	// they answer requests that name them as model, and are chosen for no other.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Untaught []string `json:"untaught,omitempty"`
	// prompts that it was fitted to.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Prompts int32 `json:"prompts,omitempty"`
	// heldOutPrompts is how many others it was evaluated by.
	// +optional
	// +kubebuilder:validation:Minimum=0
	HeldOutPrompts *int32 `json:"heldOutPrompts,omitempty"`
	// accuracy is the share of held-out prompts whose most likely label is theirs.
	// +optional
	Accuracy Score `json:"accuracy,omitempty"`
	// unsure is the share of held-out prompts with no label as likely as threshold.
	// +optional
	Unsure Score `json:"unsure,omitempty"`
	// calibrationError is the mean difference, over held-out prompts in ten bins, between
	// how sure the probe is and how often it is right.
	// +optional
	CalibrationError Score `json:"calibrationError,omitempty"`
	// logLoss is the mean of -log p of the right label of held-out prompts.
	// +optional
	LogLoss Decimal `json:"logLoss,omitempty"`
	// threshold is the probability below which the most likely skill is none of them,
	// where others was not taught: nearly all training prompts are above it.
	// +optional
	Threshold Score `json:"threshold,omitempty"`
	// answers are what the probe has learnt from an evaluation; not there where none was
	// there when it was fitted.
	// +optional
	Answers *ProbeAnswers `json:"answers,omitempty"`
	// durationSeconds that it took to fit it, its pod's start not among them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DurationSeconds *int64 `json:"durationSeconds,omitempty"`
	// progress of the fitting that goes on.
	// +optional
	Progress *ProbeProgress `json:"progress,omitempty"`
	// runs are the latest runs, newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
}

// ProbeAnswers are answers by which a probe was fitted: who of its experts, each alone, answered
// which question of the gate right. They stay what it was fitted by when an expert is trained
// anew, until the new ones have been evaluated.
type ProbeAnswers struct {
	// id is that of the answers, as in status.rollout.evaluation.answersID.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ID string `json:"id,omitempty"`
	// digest of the evaluation's artifact in the volume, below evaluations.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// experts who have answered.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Experts []string `json:"experts,omitempty"`
	// questions that some of them answered right and others wrong, from which alone a probe
	// learns; not there where the answers could not be read.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Questions *int32 `json:"questions,omitempty"`
	// weight is what these questions weigh in the probe, beside all prompts together; not
	// there where the probe is that of the prompts alone, which does as well by the answers.
	// +optional
	Weight Decimal `json:"weight,omitempty"`
	// accuracy is the share of these questions that the probe sends to somebody who answers
	// them right, each question by a probe that has not learnt from it.
	// +optional
	Accuracy Score `json:"accuracy,omitempty"`
	// calibrationError is the mean difference, over these questions in ten bins, between how
	// sure the probe is of its most likely skill and how often that one's expert is right.
	// +optional
	CalibrationError Score `json:"calibrationError,omitempty"`
	// promptsAccuracy is the accuracy of a probe that is fitted to the prompts alone.
	// +optional
	PromptsAccuracy Score `json:"promptsAccuracy,omitempty"`
	// promptsCalibrationError is the calibrationError of that one.
	// +optional
	PromptsCalibrationError Score `json:"promptsCalibrationError,omitempty"`
}

// ProbeProgress is how far the fitting of a probe is.
type ProbeProgress struct {
	// summary is what is done, such as Reading 200/900.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Summary string `json:"summary,omitempty"`
	// estimatedRemainingSeconds of that, once it is known.
	// +optional
	// +kubebuilder:validation:Minimum=0
	EstimatedRemainingSeconds *int64 `json:"estimatedRemainingSeconds,omitempty"`
}
