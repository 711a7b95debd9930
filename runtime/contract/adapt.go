package contract

// StrategyFewShot mixes experts by the weights that a search over a few examples has
// found (AdaptSpec), for every request. Before there are any, the base answers.
const StrategyFewShot = "FewShot"

// How many examples a search takes: the paper has 3, 5, 10 and 20.
const (
	MinExamples = 3
	MaxExamples = 20
)

// WeightDigits are the decimals that weights of a search have.
const WeightDigits = 4

// AdaptSpec tells `t2 adapt` everything about one search of the weights of experts.
type AdaptSpec struct {
	// Name of the AdaptivePolicy, for logs.
	Name string `json:"name"`
	// RunID names the folder under DirRuns that holds this search's state.
	RunID               string `json:"runID"`
	DataDir             string `json:"dataDir"`
	BaseDigest          string `json:"baseDigest"`
	DecompositionDigest string `json:"decompositionDigest"`
	// TransferDir is as in ServeSpec.
	TransferDir string `json:"transferDir,omitempty"`
	// Experts are those that are mixed, of whom there is at least one. The search
	// depends on their order.
	Experts []AdaptExpert `json:"experts"`
	// Examples are MinExamples to MaxExamples questions with answers.
	Examples DatasetSpec `json:"examples"`
	Reward   string      `json:"reward"`
	Search   FewShot     `json:"search"`
	// DType is what matrices are kept as: DTypeF32, which empty means, DTypeBF16 or
	// DTypeInt8: as they are served. It has no part in what a search is.
	DType string `json:"dtype,omitempty"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA. It has no part
	// in what a search is.
	Backend string `json:"backend,omitempty"`
}

// AdaptExpert is one of the experts that are mixed.
type AdaptExpert struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// TransferFrom is as in ExpertRef.
	TransferFrom string `json:"transferFrom,omitempty"`
}

// FewShot are the settings of a search by the cross-entropy method; DefaultFewShot has
// the paper's light one.
type FewShot struct {
	// Generations is the most that the search makes, 1 to 100.
	Generations int `json:"generations"`
	// Population is the number of mixtures in a generation.
	Population int `json:"population"`
	// EliteFraction of the population is what the next generation is drawn after.
	EliteFraction float64 `json:"eliteFraction"`
	// Layerwise searches a weight of each expert in each layer, instead of one for all
	// layers.
	Layerwise bool `json:"layerwise,omitempty"`
	// MaxNewTokens bounds an answer.
	MaxNewTokens int    `json:"maxNewTokens"`
	Seed         uint64 `json:"seed"`
}

// DefaultFewShot returns the paper's light search (section 3.2).
func DefaultFewShot() FewShot {
	return FewShot{Generations: 10, Population: 32, EliteFraction: 0.2, MaxNewTokens: 512}
}

// SearchProgress is how far a search is.
type SearchProgress struct {
	// Generation of Generations are done.
	Generation  int `json:"generation"`
	Generations int `json:"generations"`
	// Scores are shares of right answers, 0 to 1; what is not known yet is negative.
	BestScore     float64 `json:"bestScore"`
	BaselineScore float64 `json:"baselineScore"`
	UniformScore  float64 `json:"uniformScore"`
}

// FewShotResult is what a search found.
type FewShotResult struct {
	// Weights are in the order of AdaptSpec.Experts.
	Weights []FoundWeight `json:"weights"`
	// Score is the share of right answers of the found mixture, 0 to 1, BaselineScore
	// that of the base and UniformScore that of equal weights.
	Score         float64 `json:"score"`
	BaselineScore float64 `json:"baselineScore"`
	UniformScore  float64 `json:"uniformScore"`
	// Generations were made, in which so many different mixtures were evaluated.
	Generations int `json:"generations"`
	Evaluations int `json:"evaluations"`
	// Seconds that the search took, in all of its pods.
	Seconds float64 `json:"seconds"`
	// Examples is the number of examples, ExamplesDigest that of their file.
	Examples       int    `json:"examples"`
	ExamplesDigest string `json:"examplesDigest"`
}

// FoundWeight is the share of one expert in the mixture.
type FoundWeight struct {
	// Weight is α: where there is one for each layer, their mean.
	Weight float64   `json:"weight"`
	Layers []float64 `json:"layers,omitempty"`
	// Score of the expert alone.
	Score float64 `json:"score"`
}
