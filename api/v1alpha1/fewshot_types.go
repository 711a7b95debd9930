package v1alpha1

// FewShotStrategy configures strategy FewShot: the cross-entropy search of the weights
// with which the experts answer a few examples best (section 3.2 of the paper). A Job
// makes it, with the resources that spec.serving gives a pod. It is made again when an
// expert has another artifact, when the policy has other experts, or when the examples or
// these settings are others; until then what was found before is served.
// +kubebuilder:validation:XValidation:rule="double(self.eliteFraction) * double(self.population) >= 2.0",message="eliteFraction of population must be 2 mixtures at least",fieldPath=".eliteFraction"
type FewShotStrategy struct {
	// dataset has the examples: 3 to 20 questions with answers; limit says how many of
	// the first records are used.
	// +required
	Dataset Dataset `json:"dataset,omitzero"`
	// reward judges the answers to the examples, as in a training: ExactMatch compares
	// the text, Numeric the last number, MultipleChoice the letter, Math the value, and
	// UnitTests runs the program.
	// +required
	Reward Reward `json:"reward,omitempty"`
	// generations that the search makes at most: 10 is a light search, 100 the most.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Generations int32 `json:"generations,omitempty"`
	// population is the number of mixtures in a generation: 32, as in the paper's released
	// code.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1024
	Population int32 `json:"population,omitempty"`
	// eliteFraction of the population, rounded down, is what the next generation is drawn
	// after: 0.2, as in the paper's released code, which is 6 of 32; 1 at most, and 2
	// mixtures at least.
	// +optional
	// +kubebuilder:default="0.2"
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="eliteFraction must be at most 1"
	EliteFraction Decimal `json:"eliteFraction,omitempty"`
	// weights that are searched: PerExpert is one of each expert, PerLayer one of each
	// expert in each layer of the model, which takes more generations.
	// +optional
	// +kubebuilder:default=PerExpert
	Weights FewShotWeights `json:"weights,omitempty"`
	// seed of the search; the same one finds the same. 0 without it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Seed *int64 `json:"seed,omitempty"`
	// maxNewTokens bounds an answer, in tokens. What does not end within it is judged as
	// it stands.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=131072
	MaxNewTokens int32 `json:"maxNewTokens,omitempty"`
}

// FewShotWeights says of what there is a weight.
// +kubebuilder:validation:Enum=PerExpert;PerLayer
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type FewShotWeights string

// Weights of a search.
const (
	// WeightsPerExpert is one weight of each expert.
	WeightsPerExpert FewShotWeights = "PerExpert"
	// WeightsPerLayer is a weight of each expert in each layer.
	WeightsPerLayer FewShotWeights = "PerLayer"
)

// FewShotStatus is what the search of strategy FewShot found, and how the search that
// goes on is.
// +kubebuilder:validation:MinProperties=1
type FewShotStatus struct {
	// runID is the run that found the weights: the hash of the experts' digests, the
	// examples and the settings. While it is what the policy asks for, nothing is
	// searched.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunID string `json:"runID,omitempty"`
	// recipe is the hash of the same with the examples by name and not by content: by it
	// the weights stand where the examples cannot be read any more.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Recipe string `json:"recipe,omitempty"`
	// weights that were found, which are served.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Weights []FewShotWeight `json:"weights,omitempty"`
	// score of the mixture: its share of right answers to the examples, 0 to 1.
	// +optional
	Score Score `json:"score,omitempty"`
	// baselineScore is that of the base model.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// uniformScore is that of a mixture with equal weights.
	// +optional
	UniformScore Score `json:"uniformScore,omitempty"`
	// generations that were made: fewer than were asked for where the weights did not
	// move any more.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Generations *int32 `json:"generations,omitempty"`
	// evaluations of different mixtures, those of the base and of each expert alone among
	// them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Evaluations *int32 `json:"evaluations,omitempty"`
	// durationSeconds that the search took.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DurationSeconds *int64 `json:"durationSeconds,omitempty"`
	// examples is their number.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Examples int32 `json:"examples,omitempty"`
	// examplesDigest is the SHA-256 of their file.
	// +optional
	ExamplesDigest Digest `json:"examplesDigest,omitempty"`
	// decompositionDigest is the decomposition of the experts that were mixed: the
	// weights are served for it alone.
	// +optional
	DecompositionDigest Digest `json:"decompositionDigest,omitempty"`
	// progress of the search that goes on.
	// +optional
	Progress *FewShotProgress `json:"progress,omitempty"`
	// runs are the latest runs, newest first, at most 5.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Runs []RunStatus `json:"runs,omitempty"`
}

// FewShotWeight is α of one expert.
type FewShotWeight struct {
	// name of the ExpertVector.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// digest of its artifact that was mixed. It is served until a search has weighed
	// another.
	// +required
	Digest Digest `json:"digest,omitempty"`
	// weight is α; of weights per layer, their mean.
	// +required
	Weight Decimal `json:"weight,omitempty"`
	// layers are α in each layer of the model, where there is one per layer.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Layers []Decimal `json:"layers,omitempty"`
	// score of the expert alone on the examples.
	// +optional
	Score Score `json:"score,omitempty"`
}

// FewShotProgress is how far a search is.
type FewShotProgress struct {
	// summary is generation of generations, such as 3/10.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// generation that was done last.
	// +required
	// +kubebuilder:validation:Minimum=0
	Generation *int32 `json:"generation,omitempty"`
	// generations in all, at most.
	// +required
	// +kubebuilder:validation:Minimum=1
	Generations int32 `json:"generations,omitempty"`
	// bestScore of a mixture so far.
	// +optional
	BestScore Score `json:"bestScore,omitempty"`
	// baselineScore is the base model's.
	// +optional
	BaselineScore Score `json:"baselineScore,omitempty"`
	// uniformScore is that of equal weights.
	// +optional
	UniformScore Score `json:"uniformScore,omitempty"`
	// estimatedRemainingSeconds of the search, once it is known.
	// +optional
	// +kubebuilder:validation:Minimum=0
	EstimatedRemainingSeconds *int64 `json:"estimatedRemainingSeconds,omitempty"`
}
