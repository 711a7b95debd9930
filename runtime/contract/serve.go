package contract

import (
	"fmt"
	"time"
)

// Strategies of adaptation.
const (
	StrategyPrompt     = "Prompt"
	StrategyClassifier = "Classifier"
	StrategyFixed      = "Fixed"
)

// choosesBySkill are the strategies that tell experts apart by their skills.
var choosesBySkill = map[string]bool{StrategyPrompt: true, StrategyClassifier: true, StrategyProbe: true}

// ChoosesBySkill reports whether a strategy tells experts apart by their skills,
// so that no two of a set may have the same.
func ChoosesBySkill(strategy string) bool { return choosesBySkill[strategy] }

// StrategyPinned is what Adaptation.Strategy says of a request whose model name
// chose the weights.
const StrategyPinned = "Pinned"

// Why pass 1 chose no expert: Adaptation.Fallback.
const (
	// FallbackOthers: it chose OthersLabel, so the base weights answer.
	FallbackOthers = "Others"
	// FallbackUnlikely: its most likely label, be it OthersLabel, is less likely
	// than ExpertSet.MinProbability.
	FallbackUnlikely = "BelowMinProbability"
	// FallbackTie: its most likely labels are equally likely, and more than are
	// mixed.
	FallbackTie = "Tie"
	// FallbackFailed: it failed; the log of the pod says why.
	FallbackFailed = "Failed"
	// FallbackNoExperts: there is none to choose.
	FallbackNoExperts = "NoExperts"
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

// MaxTopK bounds how many labels of pass 1 are mixed.
const MaxTopK = 8

// ServeSpec tells `t2 serve` what to serve; it never changes while a pod runs.
type ServeSpec struct {
	// Name is the policy's name: the model name that means two passes.
	Name                string `json:"name"`
	DataDir             string `json:"dataDir"`
	BaseDigest          string `json:"baseDigest"`
	DecompositionDigest string `json:"decompositionDigest"`
	// TransferDir has the volumes of other base models, a folder each, whose experts
	// may be transferred to this one (ExpertRef.TransferFrom); empty means none.
	TransferDir string `json:"transferDir,omitempty"`
	// ContextLength bounds prompt and answer together, in tokens.
	ContextLength int `json:"contextLength"`
	// MaxBatch bounds how many sequences are decoded together.
	MaxBatch int `json:"maxBatch"`
	// MaxWaiting bounds how many choices of requests wait for their turn; 0 means the
	// engine's default.
	MaxWaiting int `json:"maxWaiting,omitempty"`
	// KVCacheBytes is what the cache of keys and values may take; 0 means what the plan of
	// memory gives it.
	KVCacheBytes int64 `json:"kvCacheBytes,omitempty"`
	// KVCacheType is what keys and values are stored as: DTypeF32 or DTypeBF16; empty means
	// what the backend does for DType.
	KVCacheType string `json:"kvCacheType,omitempty"`
	// DType is what matrices are kept as: DTypeF32 (which empty means), DTypeBF16 or
	// DTypeInt8. On a GPU the latter two store activations and the key-value cache as
	// bfloat16, too.
	DType string `json:"dtype,omitempty"`
	// Form is auto (which empty means), merged or unmerged.
	Form string `json:"form,omitempty"`
	// Backend computes: BackendCPU, which empty means, or BackendCUDA.
	Backend string `json:"backend,omitempty"`
	// DrainSeconds is how long requests in flight may take after SIGTERM; 0 means the
	// server's default.
	DrainSeconds int `json:"drainSeconds,omitempty"`
	// KeepText has the text of requests and answers kept beside what PathRequests says of
	// them, for PathOutcomes alone.
	KeepText bool `json:"keepText,omitempty"`
	// NoAPIMetrics takes PathMetrics off PortAPI.
	NoAPIMetrics bool `json:"noAPIMetrics,omitempty"`
	// MetricNames are those of the gauges for endpoint pickers, by the Gauge constants, that
	// are not called what DefaultGaugeNames says.
	MetricNames map[string]string `json:"metricNames,omitempty"`
}

// Gauges that the endpoint picker of an InferencePool reads (gateway-api-inference-extension,
// proposal 003, and llm-d-router, docs/plugin-metric-protocol.md): ServeSpec.MetricNames.
const (
	// GaugeQueued is how many requests wait.
	GaugeQueued = "queued"
	// GaugeRunning is how many are being answered.
	GaugeRunning = "running"
	// GaugeCache is how much of the key-value cache cannot be had, 0 to 1.
	GaugeCache = "cache"
	// GaugeBlocks has the size and the number of the cache's blocks as labels.
	GaugeBlocks = "blocks"
	// GaugeExperts has as labels which experts can be asked for.
	GaugeExperts = "experts"
)

// DefaultGaugeNames are vLLM's, which pickers ask for unless they are told otherwise.
func DefaultGaugeNames() map[string]string {
	return map[string]string{
		GaugeQueued:  "vllm:num_requests_waiting",
		GaugeRunning: "vllm:num_requests_running",
		GaugeCache:   "vllm:kv_cache_usage_perc",
		GaugeBlocks:  "vllm:cache_config_info",
		GaugeExperts: "vllm:lora_requests_info",
	}
}

// ExpertSet says which experts a pod offers and how it adapts. The operator
// writes it to a ConfigMap (for pods that start) and PUTs it to each running
// pod, which records it as desired and answers at once. The pod verifies every
// digest, loads what is new, and swaps the set; the latest one offered wins. An
// expert that cannot be loaded takes nothing else down: the rest is served, and
// ServingStatus says what is missing.
type ExpertSet struct {
	// Called is the digest that whoever makes the set calls it by, so that a pod need not
	// find the same one (see Name). It is no part of the set's identity.
	Called string `json:"digest,omitempty"`
	// Unknown names the members of the set's JSON that whoever read it has no field for.
	Unknown []string `json:"-"`

	Strategy string      `json:"strategy"` // One of the Strategy constants but StrategyPinned.
	Experts  []ExpertRef `json:"experts"`
	// Classifier is the expert that pass 1 of StrategyClassifier runs with, which
	// answers no request and can be pinned by none.
	Classifier *ExpertRef `json:"classifier,omitempty"`
	// Probe is what StrategyProbe chooses by.
	Probe *ProbeRef `json:"probe,omitempty"`
	// PromptTemplate is for StrategyPrompt and StrategyClassifier, as are the three
	// after it; empty means DefaultPromptTemplate.
	PromptTemplate string `json:"promptTemplate,omitempty"`
	// RequestTokens is how many tokens of a longer request pass 1 looks at, half of
	// them from its beginning and half from its end; 0 means DefaultRequestTokens.
	RequestTokens int `json:"requestTokens,omitempty"`
	// MinProbability is what the probability of pass 1's most likely label, be it
	// OthersLabel, has to reach: below it Fallback answers. 0 means that
	// there is no such bound, 1 is the most.
	MinProbability float64 `json:"minProbability,omitempty"`
	// TopK is how many of the most likely labels of pass 1 are mixed, at most, by
	// their probabilities among themselves, rounded to sixteenths; OthersLabel's
	// share is the base weights'. 0 means 1: the most likely one alone; MaxTopK is
	// the most.
	TopK int `json:"topK,omitempty"`
	// Conversation is for StrategyPrompt and StrategyClassifier; nil means
	// ConversationEachTurn.
	Conversation *Conversation `json:"conversation,omitempty"`
	// Fallback names the expert used where pass 1 cannot decide, is not sure enough
	// or fails; empty means the base weights.
	Fallback string `json:"fallback,omitempty"`
	// Candidate is a set that is compared with this one; nil means that there is none.
	Candidate *CandidateSet `json:"candidate,omitempty"`
}

// Conversation says what pass 1 does with a conversation of several turns of the user.
type Conversation struct {
	// Mode is one of the Conversation constants; empty means ConversationEachTurn.
	Mode string `json:"mode,omitempty"`
	// Margin is for ConversationSwitch: by how much the probability of the label that
	// pass 1 finds most likely has to exceed that of the expert that answers.
	Margin float64 `json:"margin,omitempty"`
}

// What happens when a conversation goes on. Pass 1 reads what the user has said until
// then, as much of it as ExpertSet.RequestTokens allows.
const (
	// ConversationEachTurn chooses anew for each of the user's turns.
	ConversationEachTurn = "EachTurn"
	// ConversationKeep keeps the first expert that is chosen: later turns have no pass 1.
	// While none is, each turn has one.
	ConversationKeep = "Keep"
	// ConversationSwitch keeps an expert until another label is more likely by Margin.
	ConversationSwitch = "Switch"
)

// ExpertRef is one expert of a set.
type ExpertRef struct {
	Name        string `json:"name"`
	Skill       string `json:"skill"`
	Description string `json:"description,omitempty"`
	Digest      string `json:"digest"`
	// TransferFrom is set for an expert that was made for another base model, which is
	// to be served by the equal shape of the matrices: that base's name, which its
	// volume's folder has in ServeSpec.TransferDir.
	TransferFrom string `json:"transferFrom,omitempty"`
	// Weight is α of StrategyFixed and of StrategyFewShot.
	Weight float64 `json:"weight,omitempty"`
	// LayerWeights are α of StrategyFewShot by layer, where it differs by layer: then
	// Weight is their mean.
	LayerWeights []float64 `json:"layerWeights,omitempty"`
}

// Digest identifies the set: the SHA-256 of its Identity, which its candidate has no part in:
// what answers is the same.
func (s ExpertSet) Digest() (string, error) {
	digest, err := s.Identity().Digest()
	if err != nil {
		return "", fmt.Errorf("encoding expert set: %w", err)
	}
	return digest, nil
}

// Named is the set with its digest, and its candidate with its own, as it is sent.
func (s ExpertSet) Named() (ExpertSet, error) {
	digest, err := s.Digest()
	s.Called = digest
	if err != nil || s.Candidate == nil {
		return s, err
	}
	candidate := *s.Candidate
	candidate.Set, err = candidate.Set.Named()
	s.Candidate = &candidate
	return s, err
}

// Name is what pods and operator call the set: the digest that came with it. Of a set
// that comes without one, from an operator of before there was, it is Digest.
func (s ExpertSet) Name() (string, error) {
	if s.Called == "" {
		return s.Digest()
	}
	if !ValidDigest(s.Called) {
		return "", fmt.Errorf("the expert set is called %.80q, which is no digest", s.Called)
	}
	return s.Called, nil
}

// ServingStatus is what a pod answers on PathExpertSet.
type ServingStatus struct {
	// DesiredDigest is that of the set that the pod was told to serve last; empty
	// before the first.
	DesiredDigest string `json:"desiredDigest,omitempty"`
	// ExpertSetDigest names the set in use; empty before the first. It is
	// DesiredDigest if, and only if, all that was asked for is served: a set of
	// which something is missing has a digest of its own.
	ExpertSetDigest string `json:"expertSetDigest"`
	// Loading says that the desired set is being loaded; nil when nothing is.
	Loading *LoadingSet `json:"loading,omitempty"`
	// Error says why the desired set is not served, or not all of it; nil while it
	// is being loaded for the first time, and once it is served.
	Error *LoadError `json:"error,omitempty"`
	// Experts are those of the desired set, in its order, the classifier last, and
	// then those that are served until it is loaded.
	Experts []ServedExpert `json:"experts"`
	// Probe is that of the desired set; nil where it has none.
	Probe *ServedProbe `json:"probe,omitempty"`
	// Candidate is that of the desired set; nil where it has none, and from pods whose
	// runtime knows of none.
	Candidate *ServingCandidate `json:"candidate,omitempty"`
	Requests  int64             `json:"requests"`
	// Fallbacks counts the requests for which pass 1 chose no expert.
	Fallbacks int64 `json:"fallbacks"`
	// BaseOutcomes are of the base weights' answers; nil where none was marked.
	BaseOutcomes *Outcomes `json:"baseOutcomes,omitempty"`
	// LastAdaptation describes the last two-pass request; nil before it.
	LastAdaptation *Adaptation `json:"lastAdaptation,omitempty"`
	// LastAdaptationTime is when that was chosen.
	LastAdaptationTime time.Time `json:"lastAdaptationTime,omitzero"`
	// Device is what computes, in the backend's words; empty before the model is
	// loaded.
	Device string `json:"device,omitempty"`
}

// LoadingSet says how far the loading of a set is.
type LoadingSet struct {
	Digest string `json:"digest"`
	// Since is when the set was offered.
	Since time.Time `json:"since"`
	// Done of Total experts have been read and verified.
	Done  int `json:"done"`
	Total int `json:"total"`
}

// LoadError says why a set, or an expert of it, could not be loaded.
type LoadError struct {
	// Digest is that of the set, or of the expert, which the error is about.
	Digest string `json:"digest,omitempty"`
	// Reason is one of the Reason constants.
	Reason string `json:"reason"`
	// Message names the thing, the place and the remedy.
	Message string `json:"message"`
	// Permanent says that it stays so until somebody changes something. What may
	// pass by itself is tried again soon, and this now and then, as long as the
	// set is desired.
	Permanent bool `json:"permanent,omitempty"`
}

// ReasonExpertMissing says that an expert's folder is not where it should be.
const ReasonExpertMissing = "ExpertMissing" // retried

// ReasonRuntimeTooOld says that a set asks for what the runtime does not know.
const ReasonRuntimeTooOld = "RuntimeTooOld" // permanent

// States of a ServedExpert.
const (
	// ExpertServed: the version that was asked for is served.
	ExpertServed = "Served"
	// ExpertLoading: it is being loaded.
	ExpertLoading = "Loading"
	// ExpertFailed: it could not be loaded; Error says why.
	ExpertFailed = "Failed"
)

// ServedExpert says how one expert stands and counts what it was used for.
type ServedExpert struct {
	Name string `json:"name"`
	// Digest is that of the version which is served: the one before, while the one
	// that was asked for is not there; empty if none is.
	Digest string `json:"digest,omitempty"`
	// State is one of the constants above; empty means ExpertServed.
	State    string     `json:"state,omitempty"`
	Error    *LoadError `json:"error,omitempty"`
	Requests int64      `json:"requests"`
	// Outcomes are of its answers; nil where none was marked.
	Outcomes *Outcomes `json:"outcomes,omitempty"`
}

// ServedProbe says how the probe of a set stands.
type ServedProbe struct {
	// Digest is that of the one that is asked for.
	Digest string `json:"digest"`
	// State is one of the constants of ServedExpert.
	State string     `json:"state"`
	Error *LoadError `json:"error,omitempty"`
}

// Adaptation is the extension field "t2" of a completion: what pass 1 chose
// and how long each pass took.
type Adaptation struct {
	Strategy string `json:"strategy"`
	// Expert is the name of the expert chosen, or "base".
	Expert string `json:"expert"`
	// Weights are the α of the composed weights, by expert name, which sum to 1; in
	// a mixture, BaseName is the share of the base weights.
	Weights map[string]float64 `json:"weights,omitempty"`
	// Probabilities are pass 1's, by expert name and OthersLabel.
	Probabilities map[string]float64 `json:"probabilities,omitempty"`
	// Fallback is why pass 1 chose no expert, one of the Fallback constants; empty
	// where it chose one, and where there is no pass 1.
	Fallback string `json:"fallback,omitempty"`
	// Turn is the user's turn, counted from 1, whose pass 1 chose; 0 where there is no
	// pass 1.
	Turn int `json:"turn,omitempty"`
	// Pass1Seconds and Pass2Seconds are wall times; pass 1 is 0 when pinned.
	Pass1Seconds float64 `json:"pass1Seconds"`
	Pass2Seconds float64 `json:"pass2Seconds"`
	// ExpertSetDigest says which set answered.
	ExpertSetDigest string `json:"expertSetDigest"`
	// Side is the side that answered, SideStable or SideCandidate; empty while there is no
	// canary.
	Side string `json:"side,omitempty"`
}

// AdaptationField is the name of that extension field.
const AdaptationField = "t2"

// Explanation is what PathExplain answers: which weights the same request would be
// answered with, and why. Nothing is generated, and nothing is counted.
type Explanation struct {
	// Object is ExplanationObject.
	Object string `json:"object"`
	// Model is the model name of the request.
	Model    string `json:"model"`
	Strategy string `json:"strategy"`
	// Expert, Weights and Fallback are as in Adaptation.
	Expert   string             `json:"expert"`
	Weights  map[string]float64 `json:"weights,omitempty"`
	Fallback string             `json:"fallback,omitempty"`
	// Why says in words what led to the choice.
	Why string `json:"why"`
	// Turn is as in Adaptation.
	Turn int `json:"turn,omitempty"`
	// Classifier is the expert that pass 1 ran with; empty for the base weights, and
	// where there was no pass 1.
	Classifier string `json:"classifier,omitempty"`
	// Labels are what pass 1 chose from, in the order of the set.
	Labels []ExplainedLabel `json:"labels,omitempty"`
	// MinProbability is what the most likely label had to reach; 0 is no bound.
	MinProbability float64 `json:"minProbability,omitempty"`
	// PromptTokens are those of the request's own prompt, which pass 2 would read;
	// Pass1Tokens those of the prompt that pass 1 has read, 0 where there is none.
	PromptTokens int `json:"promptTokens"`
	Pass1Tokens  int `json:"pass1Tokens"`
	// Pass1Seconds is the wall time of pass 1, waiting included; pass 2 does not run.
	Pass1Seconds float64 `json:"pass1Seconds"`
	// ExpertSetDigest says which set would have answered.
	ExpertSetDigest string `json:"expertSetDigest,omitempty"`
	// Side is as in Adaptation.
	Side string `json:"side,omitempty"`
}

// ExplanationObject is the kind of object that an Explanation is to OpenAI's
// clients.
const ExplanationObject = "adaptation.explanation"

// ExplainedLabel is one of the answers that pass 1 compared.
type ExplainedLabel struct {
	// Expert is the name of the one that the label stands for, BaseName for
	// OthersLabel.
	Expert string `json:"expert"`
	// Label is what the model would have had to say.
	Label string `json:"label"`
	// LogLikelihood is Σ log p of the label's tokens; nil where the model finds it
	// impossible.
	LogLikelihood *float64 `json:"logLikelihood"`
	// Probability is that among the labels.
	Probability float64 `json:"probability"`
}

// BaseName is what a model name "<policy>:base" pins: the base weights.
const BaseName = "base"
