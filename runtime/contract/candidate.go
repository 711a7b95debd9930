package contract

import "time"

// CandidateSet is a set that a pod has loaded beside the one that it serves, so that both
// can be compared before one takes the other's place. The candidate becomes the set by
// being offered as the set itself (nothing is loaded anew then), and goes by the set being
// offered without it.
type CandidateSet struct {
	// Set has no candidate of its own, and another digest than the set that it is beside.
	Set ExpertSet `json:"set"`
	// Mode is one of the Candidate constants.
	Mode string `json:"mode"`
	// Percent is for CandidateCanary the share of conversations that the candidate answers,
	// 0 to 100, and for CandidateObserve of those that it decides about, 1 to 100.
	Percent int `json:"percent,omitempty"`
	// Salt is what conversations are hashed with: which of them are among the first of 100
	// depends on nothing else. While it stays and Percent grows, none goes back.
	Salt string `json:"salt,omitempty"`
}

// What a candidate does.
const (
	// CandidateCanary answers a share of the conversations.
	CandidateCanary = "Canary"
	// CandidateObserve answers nothing: it chooses for requests that the set has answered,
	// and how often it would have chosen otherwise is counted.
	CandidateObserve = "Observe"
)

// MaxCandidateSalt bounds CandidateSet.Salt, in bytes.
const MaxCandidateSalt = 253

// Sides of a pod that has a canary: Adaptation.Side, and the label side of metrics.
const (
	SideStable    = "stable"
	SideCandidate = "candidate"
)

// Headers of answers and of errors: which set the request came to, told before the first
// byte of a stream. HeaderSide is there as long as there is a canary.
const (
	HeaderExpertSet = "T2-Expert-Set"
	HeaderSide      = "T2-Side"
)

// WithoutCandidate is the set that answers while its candidate is not there. A candidate
// has no part in the set's digest.
func (s ExpertSet) WithoutCandidate() ExpertSet {
	s.Candidate = nil
	return s
}

// ServingCandidate says how the candidate of the desired set stands. It serves whole or not
// at all: what lacks an expert is not what is to be judged.
type ServingCandidate struct {
	// Digest is that of the candidate's set.
	Digest string `json:"digest"`
	// Mode, Percent and Salt are as they were offered; they are in force while Served.
	Mode    string `json:"mode"`
	Percent int    `json:"percent"`
	Salt    string `json:"salt,omitempty"`
	// Served says that all of it is loaded and does what Mode says.
	Served bool `json:"served"`
	// Loading says that it is being loaded; nil when it is not.
	Loading *LoadingSet `json:"loading,omitempty"`
	// Error says why it is not served.
	Error *LoadError `json:"error,omitempty"`
	// Since is when it was taken into use, from when on is counted; zero before.
	Since time.Time `json:"since,omitzero"`
	// Stable and Candidate count the requests of both sides since then. With
	// CandidateObserve, all are of the stable side.
	Stable    SideCounts `json:"stable"`
	Candidate SideCounts `json:"candidate"`
	// Observed is for CandidateObserve.
	Observed *Observed `json:"observed,omitempty"`
}

// SideCounts are about the requests of one side that have ended.
type SideCounts struct {
	// Requests have been answered, or have failed.
	Requests int64 `json:"requests"`
	// Errors are those of them that failed by our fault: with a status of 500 or more, or
	// after a stream had begun.
	Errors int64 `json:"errors"`
	// Fallbacks are those that were answered without pass 1 choosing an expert.
	Fallbacks int64 `json:"fallbacks"`
	// Tokens are those of answers.
	Tokens int64 `json:"tokens"`
	// FirstTokenSeconds is the sum, over answered requests, of the times that pass 1 and
	// pass 2 took until the first token, waiting included.
	FirstTokenSeconds float64 `json:"firstTokenSeconds"`
	// Outcomes are what clients think now of the answers of the side; nil where they have said
	// nothing. With CandidateObserve nobody has seen an answer of the candidate's.
	Outcomes *Outcomes `json:"outcomes,omitempty"`
}

// MaxDecisionPairs bounds Observed.Pairs.
const MaxDecisionPairs = 32

// Observed counts what a candidate chose for requests that the set has answered.
type Observed struct {
	// Compared is how many choices were compared, Different how many of them differ: by
	// the experts, or by the share of one by more than a sixteenth.
	Compared  int64 `json:"compared"`
	Different int64 `json:"different"`
	// Failed is how often the candidate could not choose.
	Failed int64 `json:"failed"`
	// Dropped is how many requests were left out for the sake of those that wait.
	Dropped int64 `json:"dropped"`
	// Seconds is what the candidate's choices took, all together.
	Seconds float64 `json:"seconds"`
	// Pairs are the choices that differ, the most frequent first. Those beyond
	// MaxDecisionPairs different ones are in no pair.
	Pairs []DecisionPair `json:"pairs,omitempty"`
}

// DecisionPair is what each side chose for the same requests: names as in
// Adaptation.Expert.
type DecisionPair struct {
	Stable    string `json:"stable"`
	Candidate string `json:"candidate"`
	Requests  int64  `json:"requests"`
}
