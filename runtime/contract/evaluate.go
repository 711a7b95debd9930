package contract

import "math"

// EvaluateSpec tells `t2 evaluate` everything about one evaluation of an expert set, before
// it serves: the same questions are put to the base, to the set that serves, to the new one,
// and to each of its experts alone, as a server would answer them.
type EvaluateSpec struct {
	// Name is the policy's: the model name that means two passes.
	Name string `json:"name"`
	// RunID names the folder under DirRuns that holds this evaluation's state.
	RunID               string `json:"runID"`
	DataDir             string `json:"dataDir"`
	BaseDigest          string `json:"baseDigest"`
	DecompositionDigest string `json:"decompositionDigest"`
	// TransferDir is as in ServeSpec.
	TransferDir string `json:"transferDir,omitempty"`
	// Candidate is the new set, Stable the one that serves; nil where none does.
	Candidate ExpertSet  `json:"candidate"`
	Stable    *ExpertSet `json:"stable,omitempty"`
	// Sets are the data sets: the gate's first, then the guards'.
	Sets []EvaluationSet `json:"sets"`
	// Samples is how many questions of each are asked, from the first; 0 means all.
	Samples int `json:"samples,omitempty"`
	// MaxNewTokens bounds an answer; 0 means DefaultEvaluation's.
	MaxNewTokens int `json:"maxNewTokens,omitempty"`
	// ContextLength, DType, Form, KVCacheType, KVCacheBytes and MaxBatch are as in
	// ServeSpec; only the first four have a part in what is answered.
	ContextLength int    `json:"contextLength,omitempty"`
	DType         string `json:"dtype,omitempty"`
	Form          string `json:"form,omitempty"`
	KVCacheType   string `json:"kvCacheType,omitempty"`
	KVCacheBytes  int64  `json:"kvCacheBytes,omitempty"`
	MaxBatch      int    `json:"maxBatch,omitempty"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA.
	Backend string `json:"backend,omitempty"`
}

// EvaluationSet is a data set of an evaluation, and what judges the answers.
type EvaluationSet struct {
	// Field is where its user names it, for messages. It has no part in what an
	// evaluation is.
	Field   string      `json:"field,omitempty"`
	Dataset DatasetSpec `json:"dataset"`
	Reward  string      `json:"reward"`
}

// What an EvaluateSpec means that does not say it.
const (
	DefaultSamples             = 64
	DefaultEvaluationMaxTokens = 512
	// MaxGuards bounds the data sets beside the gate's, for the termination message's sake.
	MaxGuards = 8
)

// Who answers in an evaluation, beside the experts of the candidate by their names.
const (
	AnswererBase      = BaseName
	AnswererStable    = "stable set"
	AnswererCandidate = "candidate set"
)

// EvaluationResult is what an evaluation found. It is small: everything else is in the
// artifact.
type EvaluationResult struct {
	// Digest is that of the artifact, a folder of DirEvaluations.
	Digest string `json:"digest"`
	// StableDigest, empty where there was none, and CandidateDigest are the sets'.
	StableDigest    string `json:"stableDigest,omitempty"`
	CandidateDigest string `json:"candidateDigest"`
	// Sets are in the order of EvaluateSpec.Sets.
	Sets []SetScores `json:"sets"`
	// Experts are how many questions of the first set each expert alone answered right, in
	// the order of EvaluateSpec.Candidate.
	Experts []int `json:"experts,omitempty"`
	// Seconds that it took, in all of its pods.
	Seconds float64 `json:"seconds"`
}

// SetScores is how many questions of a data set who answered right.
type SetScores struct {
	Questions int `json:"questions"`
	Base      int `json:"base"`
	// Stable is 0 where there is no such set.
	Stable    int `json:"stable,omitempty"`
	Candidate int `json:"candidate"`
	// Won is how many the candidate answered right of those that who serves answered wrong
	// (the stable set, or the base where there is none), Lost the other way round.
	Won  int `json:"won"`
	Lost int `json:"lost"`
	// DatasetDigest is that of the file.
	DatasetDigest string `json:"datasetDigest"`
}

// Gain is the candidate's score less that of who serves, with its bounds of 95 %.
func (s SetScores) Gain() (gain, low, high float64) {
	both := s.Candidate - s.Won
	return PairedDifference(both, s.Won, s.Lost, s.Questions-both-s.Won-s.Lost)
}

// z95 is the 0.975 quantile of the normal distribution.
const z95 = 1.959963984540054

// Wilson returns the score interval of 95 % for a share of right answers, where so many of n
// were right (E. B. Wilson, 1927). Unlike the normal approximation it is one for few answers
// and for shares of 0 and 1.
func Wilson(right, n int) (low, high float64) {
	if n <= 0 {
		return 0, 1
	}
	p, m := float64(right)/float64(n), float64(n)
	centre := p + z95*z95/(2*m)
	half := z95 * math.Sqrt(p*(1-p)/m+z95*z95/(4*m*m))
	scale := 1 + z95*z95/m
	return max((centre-half)/scale, 0), min((centre+half)/scale, 1)
}

// PairedDifference returns how far the share of right answers of one is above that of another
// one who was asked the same questions, with an interval of 95 %: method 10 of R. G. Newcombe,
// "Improved confidence intervals for the difference between binomial proportions based on
// paired data", Statistics in Medicine 17 (1998). both were answered right by both, won by the
// first alone, lost by the second alone, and neither by none.
func PairedDifference(both, won, lost, neither int) (difference, low, high float64) {
	n := both + won + lost + neither
	if n <= 0 {
		return 0, -1, 1
	}
	a, b, c, d := float64(both), float64(won), float64(lost), float64(neither)
	p1, p2 := (a+b)/float64(n), (a+c)/float64(n)
	low1, high1 := Wilson(both+won, n)
	low2, high2 := Wilson(both+lost, n)
	difference = p1 - p2
	// φ says how alike they answer; corrected for continuity where it is above 0.
	phi := 0.0
	if margins := (a + b) * (c + d) * (a + c) * (b + d); margins > 0 {
		determinant := a*d - b*c
		if determinant > 0 {
			determinant = max(determinant-float64(n)/2, 0)
		}
		phi = determinant / math.Sqrt(margins)
	}
	apart := func(x, y float64) float64 { return math.Sqrt(max(x*x-2*phi*x*y+y*y, 0)) }
	low = difference - apart(p1-low1, high2-p2)
	high = difference + apart(high1-p1, p2-low2)
	return difference, max(low, -1), min(high, 1)
}

// EvaluationManifest describes an evaluation's artifact: a folder of DirEvaluations. Digest
// is DigestFiles(Files).
type EvaluationManifest struct {
	Digest     string      `json:"digest"`
	Files      []FileEntry `json:"files"`
	SizeBytes  int64       `json:"sizeBytes"`
	BaseDigest string      `json:"baseDigest"`
	// RunID is the evaluation's.
	RunID           string `json:"runID"`
	StableDigest    string `json:"stableDigest,omitempty"`
	CandidateDigest string `json:"candidateDigest"`
	// Answerers are the columns of the matrix: AnswererBase, AnswererStable where there is
	// one, AnswererCandidate, and the experts by name.
	Answerers []string `json:"answerers"`
	// Scores are as in EvaluationResult.Sets.
	Scores []SetScores `json:"scores"`
}

// Files of an evaluation's artifact.
const (
	// EvaluationSamples has a line of JSON for each answer: an EvaluationSample.
	EvaluationSamples = "samples.jsonl"
	// EvaluationMatrix is an EvaluationRights: who answered which question right.
	EvaluationMatrix = "matrix.json"
)

// EvaluationSample is one answer.
type EvaluationSample struct {
	// Set is the place of the data set in EvaluateSpec.Sets, Line that of the record in
	// its file, from 1.
	Set      int    `json:"set"`
	Line     int    `json:"line"`
	Answerer string `json:"answerer"`
	// Expert is what the set chose, as in Adaptation.
	Expert string `json:"expert"`
	Prompt string `json:"prompt"`
	Answer string `json:"answer"`
	Right  bool   `json:"right"`
	// Extracted and Why are the judge's.
	Extracted string `json:"extracted,omitempty"`
	Why       string `json:"why,omitempty"`
}

// EvaluationRights are, of each data set, the questions and who answered them right.
type EvaluationRights struct {
	Answerers []string              `json:"answerers"`
	Sets      []EvaluationQuestions `json:"sets"`
}

// EvaluationQuestions are those of one data set.
type EvaluationQuestions struct {
	DatasetDigest string               `json:"datasetDigest"`
	Questions     []EvaluationQuestion `json:"questions"`
}

// EvaluationQuestion is one question. Right has a place for each answerer: nil where it was
// not asked (experts alone are asked the first data set's questions only).
type EvaluationQuestion struct {
	Line   int     `json:"line"`
	Prompt string  `json:"prompt"`
	Right  []*bool `json:"right"`
}
