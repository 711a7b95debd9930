package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Strategies of adaptation.
const (
	StrategyPrompt = "Prompt"
	StrategyFixed  = "Fixed"
)

// MaxExperts bounds the experts of one set: each is a line of pass 1's prompt.
const MaxExperts = 64

// OthersLabel is the category that means the base weights.
const OthersLabel = "others"

// DefaultPromptTemplate is the user message of pass 1. {skills} becomes one
// line per skill, "- name: description", the last one OthersLine; {prompt}
// becomes the text of the request (paper, section 3.2 and appendix, adapted).
const DefaultPromptTemplate = "Classify the request into one category.\n{skills}\nRequest: {prompt}\nCategory:"

// OthersLine describes OthersLabel in DefaultPromptTemplate.
const OthersLine = "- " + OthersLabel + ": none of the above"

// DefaultRequestTokens is how much of a request pass 1 looks at: what a request
// is about shows at its beginning and at its end, and without a bound pass 1
// would cost as much as reading the request once more.
const DefaultRequestTokens = 128

// ServeSpec tells `t2 serve` what to serve; it never changes while a pod runs.
type ServeSpec struct {
	// Name is the policy's name: the model name that means two passes.
	Name                string `json:"name"`
	DataDir             string `json:"dataDir"`
	BaseDigest          string `json:"baseDigest"`
	DecompositionDigest string `json:"decompositionDigest"`
	// ContextLength bounds prompt and answer together, in tokens.
	ContextLength int `json:"contextLength"`
	// MaxBatch bounds how many sequences are decoded together.
	MaxBatch int `json:"maxBatch"`
	// DType is what matrices are kept as: DTypeF32 (which empty means), DTypeBF16 or
	// DTypeInt8.
	DType string `json:"dtype,omitempty"`
	// Form is auto (which empty means), merged or factored.
	Form string `json:"form,omitempty"`
}

// ExpertSet says which experts a pod offers and how it adapts. The operator
// writes it to a ConfigMap (for pods that start) and PUTs it to each running
// pod; the pod verifies every digest, loads what is new, and swaps the whole
// set or nothing.
type ExpertSet struct {
	Strategy string      `json:"strategy"` // StrategyPrompt or StrategyFixed
	Experts  []ExpertRef `json:"experts"`
	// PromptTemplate is for StrategyPrompt; empty means DefaultPromptTemplate.
	PromptTemplate string `json:"promptTemplate,omitempty"`
	// RequestTokens is how many tokens of a longer request StrategyPrompt looks at,
	// half of them from its beginning and half from its end; 0 means
	// DefaultRequestTokens.
	RequestTokens int `json:"requestTokens,omitempty"`
	// Fallback names the expert used where pass 1 cannot decide or fails;
	// empty means the base weights.
	Fallback string `json:"fallback,omitempty"`
}

// ExpertRef is one expert of a set.
type ExpertRef struct {
	Name        string `json:"name"`
	Skill       string `json:"skill"`
	Description string `json:"description,omitempty"`
	Digest      string `json:"digest"`
	// Weight is α of StrategyFixed.
	Weight float64 `json:"weight,omitempty"`
}

// Digest identifies the set: the SHA-256 of its JSON.
func (s ExpertSet) Digest() (string, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encoding expert set: %w", err)
	}
	sum := sha256.Sum256(b)
	return DigestPrefix + hex.EncodeToString(sum[:]), nil
}

// ServingStatus is what a pod answers on PathExpertSet.
type ServingStatus struct {
	// ExpertSetDigest is that of the set in use; empty before the first.
	ExpertSetDigest string `json:"expertSetDigest"`
	// Error says why the last set offered was refused; empty if it was taken.
	Error    string         `json:"error,omitempty"`
	Experts  []ServedExpert `json:"experts"`
	Requests int64          `json:"requests"`
	// Fallbacks counts the requests for which pass 1 chose no expert.
	Fallbacks int64 `json:"fallbacks"`
	// LastAdaptation describes the last two-pass request; nil before it.
	LastAdaptation *Adaptation `json:"lastAdaptation,omitempty"`
	// LastAdaptationTime is when that was chosen.
	LastAdaptationTime time.Time `json:"lastAdaptationTime,omitzero"`
}

// ServedExpert counts what one expert was used for.
type ServedExpert struct {
	Name     string `json:"name"`
	Digest   string `json:"digest"`
	Requests int64  `json:"requests"`
}

// Adaptation is the extension field "t2" of a completion: what pass 1 chose
// and how long each pass took.
type Adaptation struct {
	Strategy string `json:"strategy"`
	// Expert is the name of the expert chosen, or "base".
	Expert string `json:"expert"`
	// Weights are the α of the composed weights, by expert name.
	Weights map[string]float64 `json:"weights,omitempty"`
	// Probabilities are pass 1's, by expert name and OthersLabel.
	Probabilities map[string]float64 `json:"probabilities,omitempty"`
	// Pass1Seconds and Pass2Seconds are wall times; pass 1 is 0 when pinned.
	Pass1Seconds float64 `json:"pass1Seconds"`
	Pass2Seconds float64 `json:"pass2Seconds"`
	// ExpertSetDigest says which set answered.
	ExpertSetDigest string `json:"expertSetDigest"`
}

// AdaptationField is the name of that extension field.
const AdaptationField = "t2"

// BaseName is what a model name "<policy>:base" pins: the base weights.
const BaseName = "base"
