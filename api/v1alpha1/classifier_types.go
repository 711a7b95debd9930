package v1alpha1

// ClassifierStrategy says what pass 1 runs with: exactly one of expertRef and train.
// Until it is there, pass 1 runs with the base weights, as of strategy Prompt.
// +kubebuilder:validation:ExactlyOneOf=expertRef;train
type ClassifierStrategy struct {
	// expertRef names an ExpertVector of role Dispatcher. The policy says in its
	// condition ClassifierCurrent if that was trained for other skills than its own,
	// and serves it all the same. A change reaches running pods without a restart.
	// +optional
	ExpertRef *LocalRef `json:"expertRef,omitempty"`
	// train makes the policy train its classifier itself: an ExpertVector that belongs
	// to it, of the training data sets of its experts (never of what they are
	// validated with). When its experts, their descriptions or their data sets change,
	// it is trained again; meanwhile the one before is served. A change trains again.
	// +optional
	Train *ClassifierTraining `json:"train,omitempty"`
}

// ClassifierObjective names what the training of a classifier maximises.
// +kubebuilder:validation:Enum=NextToken;Reinforce
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ClassifierObjective string

// Objectives of a classifier.
const (
	// ClassifierNextToken is the likelihood of the right label.
	ClassifierNextToken ClassifierObjective = "NextToken"
	// ClassifierReinforce is the expected reward of labels that are drawn.
	ClassifierReinforce ClassifierObjective = "Reinforce"
)

// ClassifierTraining says how a policy's classifier is trained.
type ClassifierTraining struct {
	// objective of the training: NextToken is the likelihood of the right label;
	// Reinforce draws labels in proportion to their likelihoods and rewards the right
	// one. A change trains again.
	// +optional
	// +kubebuilder:default=NextToken
	Objective ClassifierObjective `json:"objective,omitempty"`
	// method is what is trained; {type: SVF} without it. A change trains again.
	// +optional
	Method *Method `json:"method,omitempty"`
	// optimizer as of an ExpertVector's spec.training. A change trains again.
	// +optional
	Optimizer *Optimizer `json:"optimizer,omitempty"`
	// schedule as of an ExpertVector's spec.training. A change trains again.
	// +optional
	Schedule *Schedule `json:"schedule,omitempty"`
	// seed of everything random. A change trains again.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Seed *int64 `json:"seed,omitempty"`
	// others has prompts that none of the experts is for, which the base weights are
	// to answer. Without it, the classifier learns of none. A change trains again.
	// +optional
	Others *Dataset `json:"others,omitempty"`
}

// PolicyClassifier is what pass 1 of a policy runs with.
type PolicyClassifier struct {
	// expert is the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Expert string `json:"expert,omitempty"`
	// state says whether it is served.
	// +required
	State ExpertState `json:"state,omitempty"`
	// digest of the artifact that is served; without one pass 1 runs with the base
	// weights.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// trainedFor is the question of pass 1 that the artifact was trained to answer;
	// not there if that is not known.
	// +optional
	TrainedFor Digest `json:"trainedFor,omitempty"`
	// question of pass 1 that the policy's experts make: the digest of their skills and
	// descriptions, the template and requestTokens.
	// +optional
	Question Digest `json:"question,omitempty"`
	// stale says that the two differ.
	// +required
	Stale *bool `json:"stale,omitempty"`
	// score is the share of held-out prompts for which it finds the skill.
	// +optional
	Score Score `json:"score,omitempty"`
	// baselineScore is the base model's share, which is that of strategy Prompt.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// untaught are the skills of which there are no training prompts, since their
	// experts were imported: the classifier is shown them, and has learnt nothing of
	// when they are right.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Untaught []string `json:"untaught,omitempty"`
}

// classifierSuffix makes the name of a policy's own classifier.
const classifierSuffix = "-classifier"

// OwnClassifierName is the name of the ExpertVector that the policy trains as its
// classifier, if spec.strategy.classifier.train asks for one. Of a long name of a policy
// the beginning is in it: an ExpertVector of another policy of that beginning is in the
// way, and is told.
func (p *AdaptivePolicy) OwnClassifierName() string {
	const longest = 52 // Of an ExpertVector's name.
	return p.Name[:min(len(p.Name), longest-len(classifierSuffix))] + classifierSuffix
}

// ClassifierName is the ExpertVector that pass 1 is to run with; empty if it is the
// base.
func (p *AdaptivePolicy) ClassifierName() string {
	c := p.Spec.Strategy.Classifier
	switch {
	case p.Spec.Strategy.Type != StrategyClassifier || c == nil:
		return ""
	case c.ExpertRef != nil:
		return c.ExpertRef.Name
	default:
		return p.OwnClassifierName()
	}
}
