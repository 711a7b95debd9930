package contract

import (
	"strings"
	"time"
)

// What a pod remembers of its requests, on PortAPI. Nothing of it outlives the pod.
const (
	// PathRequests, followed by / and the id of a request or of its answer, answers GET with
	// a RequestRecord: 200, or 404 where this pod does not have it. A policy's pods know
	// nothing of each other: whoever does not know which one answered (HeaderPod) asks all.
	PathRequests = "/v1/adaptation/requests"
	// PathOutcome takes an OutcomeReport by POST and answers with the RequestRecord that it
	// was about: 200, 400 for a body that makes no sense, 404 where this pod does not have
	// the request, 409 for one that was not answered.
	PathOutcome = "/v1/adaptation:outcome"
)

// PathOutcomes is on PortAdmin: it answers GET with the requests that were marked, oldest first, a
// line of JSON each; it takes the bearer token of PathExpertSet, for what clients have said
// is theirs. Parameters of its query: format, one of the OutcomeFormat constants; expert, one
// of those that answered; and right, true or false.
const PathOutcomes = "/outcomes"

// What a line of PathOutcomes is.
const (
	// OutcomeRecords is a RequestRecord each, which empty means.
	OutcomeRecords = "Records"
	// OutcomeChat and OutcomePairs are lines of FormatChat and FormatPairs, with what was
	// asked and what was answered: of right answers, unless the query says otherwise, and
	// where the text was kept (ServeSpec.KeepText) and the format can hold it.
	OutcomeChat  = FormatChat
	OutcomePairs = FormatPairs
)

// Headers of every answer on PortAPI, refusals among them.
const (
	// HeaderRequestID has the request's id: the client's own, if it sent one of 1 to 64
	// letters, digits, dots, hyphens and underscores, or one that the server made. The id of
	// an answer is that id behind one of the AnswerPrefix constants.
	HeaderRequestID = "X-Request-Id"
	// HeaderPod names the pod that answers.
	HeaderPod = "X-T2-Pod"
)

// What the ids of answers begin with, as OpenAI's do.
const (
	AnswerPrefixChat       = "chatcmpl-"
	AnswerPrefixCompletion = "cmpl-"
	AnswerPrefixResponse   = "resp_"
)

// RequestID is the request's id of the id of an answer; what is none stays as it is.
func RequestID(answer string) string {
	for _, prefix := range []string{AnswerPrefixChat, AnswerPrefixCompletion, AnswerPrefixResponse} {
		if id, ok := strings.CutPrefix(answer, prefix); ok && id != "" {
			return id
		}
	}
	return answer
}

// RequestObject is the kind of object that a RequestRecord is to OpenAI's clients.
const RequestObject = "adaptation.request"

// RequestRecord is what a pod remembers of one request for which weights were chosen: how it
// was answered and why so, and nothing that the client has written.
type RequestRecord struct {
	// Object is RequestObject.
	Object string `json:"object"`
	// ID is the request's; AnswerID the answer's.
	ID       string `json:"id"`
	AnswerID string `json:"answerID"`
	// Pod is the one that answered, where it knows its name.
	Pod string `json:"pod,omitempty"`
	// TraceID is that of the request's trace; empty where it was not traced.
	TraceID string `json:"traceID,omitempty"`
	// Time is when the request came.
	Time time.Time `json:"time"`
	// Model is the model name of the request.
	Model string `json:"model"`
	// Error is the code of what ended the answer before its end; empty where nothing did.
	Error string `json:"error,omitempty"`
	// Why says in words what led to the choice, as Explanation does.
	Why string `json:"why"`
	// Adaptation is what the answer says of its choice.
	Adaptation Adaptation `json:"t2"`
	// Finish says why each choice ended.
	Finish []string `json:"finish,omitempty"`
	// PromptTokens are those of the request's own prompt, CachedTokens what was known of
	// them, Pass1Tokens what pass 1 has read and Tokens those of the answer.
	PromptTokens int `json:"promptTokens"`
	CachedTokens int `json:"cachedTokens"`
	Pass1Tokens  int `json:"pass1Tokens"`
	Tokens       int `json:"tokens"`
	// QueuedSeconds and FirstTokenSeconds are since pass 2 began: until it was computed, and
	// until its first token. Those of the passes are in Adaptation.
	QueuedSeconds     float64 `json:"queuedSeconds"`
	FirstTokenSeconds float64 `json:"firstTokenSeconds"`
	// Outcome is what the client thought of the answer; nil where it has not said so.
	Outcome *Outcome `json:"outcome,omitempty"`
}

// OutcomeReport marks the answer to a request right or wrong.
type OutcomeReport struct {
	// Request is the id of the request or of its answer.
	Request string `json:"request"`
	// Right must be there.
	Right *bool `json:"right"`
	// Comment is at most MaxOutcomeComment bytes. It is kept, and listed by PathOutcomes.
	Comment string `json:"comment,omitempty"`
}

// MaxOutcomeComment bounds the comment of an OutcomeReport, in bytes.
const MaxOutcomeComment = 1024

// Outcome is what a client thought of an answer. The last report of a request counts.
type Outcome struct {
	Right   bool   `json:"right"`
	Comment string `json:"comment,omitempty"`
	// Time is when the answer was marked so.
	Time time.Time `json:"time"`
}

// Outcomes counts the answers that clients have marked, by what they think now. An answer of
// several experts counts for each.
type Outcomes struct {
	Right int64 `json:"right"`
	Wrong int64 `json:"wrong"`
}
