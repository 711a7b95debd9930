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
	// Lesson is what it has learnt from answers to questions; nil where that is nothing.
	Lesson *ProbeLesson `json:"lesson,omitempty"`
}

// ProbeLesson says what a probe has learnt from who answered which question right.
type ProbeLesson struct {
	// Questions is how many were answered right by some of those whom the probe chooses from,
	// and wrong by others: only they say who should answer.
	Questions int `json:"questions"`
	// Weight is what all of them weigh beside all prompts; 0 where the probe is that of the
	// prompts alone, since the questions are answered as well by that.
	Weight float64 `json:"weight,omitempty"`
	// Before is what a probe of the prompts alone makes of these questions, After what this
	// one would that had not seen the question.
	Before LessonScore `json:"before"`
	After  LessonScore `json:"after"`
}

// LessonScore says how well questions go to somebody who answers them right.
type LessonScore struct {
	// Right is the share of the questions that do. CalibrationError is the mean difference
	// between how sure the probe is of its most likely label and how often that one answers
	// right (in ten bins).
	Right            float64 `json:"right"`
	CalibrationError float64 `json:"calibrationError"`
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

// MaxProbeQuestions is how many questions that tell experts apart a probe learns from at most,
// the first ones; where ProbeSpec.MaxPrompts is given, half of that.
const MaxProbeQuestions = MaxProbePrompts / 2

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
	// Answers are an evaluation's, by which the probe learns who answers right; nil where
	// there is none, and the prompts alone count.
	Answers *EvaluatedAnswers `json:"answers,omitempty"`
	// DType is what matrices are kept as: DTypeF32, which empty means, DTypeBF16 or
	// DTypeInt8: as they are served.
	DType string `json:"dtype,omitempty"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA.
	Backend string `json:"backend,omitempty"`
}

// EvaluatedAnswers are what the base and experts, each alone, have answered to the questions of
// an evaluation's first data set.
type EvaluatedAnswers struct {
	// ID is that of EvaluateSpec.Answers: it stands for the answers in the identity of what
	// learns from them, as two evaluations that differ in how experts are chosen have the
	// same.
	ID string `json:"id"`
	// Digest is that of an evaluation's artifact that has them.
	Digest string `json:"digest"`
	// Experts are those whose answers count, and the skills that they stand for.
	Experts []EvaluatedExpert `json:"experts"`
}

// EvaluatedExpert is an expert by its name in an evaluation.
type EvaluatedExpert struct {
	Name  string `json:"name"`
	Skill string `json:"skill"`
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
	// Lesson is what came of ProbeSpec.Answers; nil where there are none, or they could not be
	// read.
	Lesson *ProbeLesson `json:"lesson,omitempty"`
	// Seconds that it took.
	Seconds float64 `json:"seconds"`
}

// ProbeRef is the probe of an expert set.
type ProbeRef struct {
	Digest string `json:"digest"`
}
