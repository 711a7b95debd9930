package contract

// StrategyProbe chooses an expert by a linear map from what the base makes of the request
// (ProbeManifest): pass 1 generates and compares nothing. For experts that act on answers
// alone the base has read the request then.
const StrategyProbe = "Probe"

// ProbeManifest describes a fitted probe: a folder of DirProbes.
type ProbeManifest struct {
	Digest     string      `json:"digest"`
	Files      []FileEntry `json:"files"`
	SizeBytes  int64       `json:"sizeBytes"`
	BaseDigest string      `json:"baseDigest"`
	// Labels are what it chooses from: skills, and OthersLabel if that was taught.
	Labels []string `json:"labels"`
	// Examples is the number of prompts that it was fitted to.
	Examples int `json:"examples"`
	// Least is what the probability of its most likely label has to reach: what is less
	// sure than nearly all prompts of the labels is none of them.
	Least float64 `json:"least"`
	// Evaluation is of prompts that were held out.
	Evaluation ProbeEvaluation `json:"evaluation"`
}

// ProbeEvaluation says how well a probe does on prompts that were held out.
type ProbeEvaluation struct {
	// Prompts is how many there were.
	Prompts int `json:"prompts"`
	// Accuracy is the share of them whose most likely label is theirs, Unsure of those
	// with no label as likely as Least.
	Accuracy float64 `json:"accuracy"`
	Unsure   float64 `json:"unsure"`
	// LogLoss is the mean of −log p of the right label, CalibrationError the mean
	// difference between how sure it was and how often right (in ten bins).
	LogLoss          float64 `json:"logLoss"`
	CalibrationError float64 `json:"calibrationError"`
}

// MaxProbePrompts is how many prompts a probe is fitted to at most: the cost grows with the
// cube, and a linear map of as many labels learns nothing more from more.
const MaxProbePrompts = 1024

// MinProbePrompts is the least that ProbeSpec.MaxPrompts may be.
const MinProbePrompts = 16

// ProbeSpec tells `t2 probe` everything about one probe.
type ProbeSpec struct {
	// Name of the AdaptivePolicy, for logs.
	Name       string `json:"name"`
	DataDir    string `json:"dataDir"`
	BaseDigest string `json:"baseDigest"`
	// Sets have prompts of one skill each, or of OthersLabel; their answers mean nothing
	// here. A fifth of them, by the hash of their text, is held out.
	Sets []SkillSet `json:"sets"`
	// MaxPrompts bounds the prompts that the probe is fitted to, all skills together; a
	// quarter as many of those that are held out are read. 0 means MaxProbePrompts, which
	// is the most.
	MaxPrompts int `json:"maxPrompts,omitempty"`
	// DType is what matrices are kept as: DTypeF32, which empty means, DTypeBF16 or
	// DTypeInt8: as they are served.
	DType string `json:"dtype,omitempty"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA.
	Backend string `json:"backend,omitempty"`
}

// ProbeResult is what a Job that fitted a probe says.
type ProbeResult struct {
	Digest     string          `json:"digest"`
	SizeBytes  int64           `json:"sizeBytes"`
	BaseDigest string          `json:"baseDigest"`
	Labels     []string        `json:"labels"`
	Examples   int             `json:"examples"`
	Least      float64         `json:"least"`
	Evaluation ProbeEvaluation `json:"evaluation"`
	// Seconds that it took.
	Seconds float64 `json:"seconds"`
}

// ProbeRef is the probe of an expert set.
type ProbeRef struct {
	Digest string `json:"digest"`
}
