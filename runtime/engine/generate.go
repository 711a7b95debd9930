package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// Request asks for an answer to a prompt.
type Request struct {
	Mixture Mixture
	Prompt  []int32
	// MaxTokens bounds the answer; 0 means what the context length, and the cache,
	// leave.
	MaxTokens int
	Sampling  sample.Params
	// Sampler chooses the tokens where the caller has one, instead of one made of
	// Sampling and Seed. It belongs to the engine until the answer has ended.
	Sampler *sample.Sampler
	// Text turns the answer into text where the caller has something for it, instead
	// of Options.Text. It belongs to the engine until the answer has ended.
	Text TextStream
	// Constraint says which tokens are allowed, where the answer has to have a structure:
	// others are never chosen, whatever Sampling says. The answer ends with FinishStop as soon
	// as nothing can follow. It belongs to the engine until the answer has ended, and excludes
	// IgnoreStopTokens.
	Constraint *constrain.Matcher
	// IgnoreStopTokens lets the answer go on behind Options.StopTokens.
	IgnoreStopTokens bool
	// Seed names the random draws: the same request with the same seed gets the
	// same answer, whatever else is running; see the package's documentation.
	Seed uint64
	// Stop are texts that end the answer; they are not part of it.
	Stop []string
	// Logprobs asks for each token's log-probability and those of this many most
	// likely tokens; negative asks for none.
	Logprobs int
	// Salt keeps the request's part of the key-value cache to requests with the same one:
	// what they have in common with others they read for themselves, and nobody can tell
	// from the time that an answer takes what they have read.
	Salt string
}

// MaxLogprobs bounds Request.Logprobs.
const MaxLogprobs = 20

// Reasons why an answer ended.
const (
	// FinishStop: a stop token or a stop text.
	FinishStop = "stop"
	// FinishLength: MaxTokens or the context length.
	FinishLength = "length"
)

// Delta is a piece of an answer: one token, and the text that has become
// certain with it.
type Delta struct {
	// Token is the token, -1 for text alone at the end of an answer.
	Token int32
	Text  string
	// Logprob is set if it was asked for and Token is one.
	Logprob *Logprob
}

// Logprob is the log-probability of a token, and of the most likely tokens in
// its place, under the model's distribution before temperature, truncation, bias and
// constraint.
type Logprob struct {
	Token int32
	Value float64
	Top   []Logprob
}

// Result is how an answer went.
type Result struct {
	Finish string
	// StopToken is the one of Options.StopTokens that ended the answer, -1 if none
	// did.
	StopToken int32
	// PromptTokens and Tokens count what was read and sampled, the stop token
	// included; CachedTokens are those of the prompt that were in the cache.
	PromptTokens, CachedTokens, Tokens int
	// Waited is the time until the request got its slot, FirstToken until its
	// first token and Total until its last, all since it was made.
	Waited, FirstToken, Total time.Duration
}

// Generate answers a request, calling emit for each piece, in the caller's
// goroutine. An error of emit, or the end of ctx, ends the request at the next
// token.
func (e *Engine) Generate(ctx context.Context, r Request, emit func(Delta) error) (Result, error) {
	begun := time.Now()
	if err := r.Sampling.Validate(); err != nil {
		return Result{}, err
	}
	if r.Logprobs > MaxLogprobs || r.MaxTokens < 0 || slices.Contains(r.Stop, "") {
		return Result{}, fmt.Errorf("a request with %d log-probabilities, at most %d tokens and stop texts %q", r.Logprobs, r.MaxTokens, r.Stop)
	}
	if r.Constraint != nil && r.IgnoreStopTokens {
		return Result{}, errors.New("a request with a constraint that ignores stop tokens: they end what may end")
	}
	if err := e.checkTokens("the logit bias", slices.Sorted(maps.Keys(r.Sampling.Bias))); err != nil {
		return Result{}, err
	}
	if err := e.checkPrompt(r.Prompt, max(r.MaxTokens, 1), answerDemand(len(r.Prompt), max(r.MaxTokens, 1))); err != nil {
		return Result{}, err
	}
	if r.Constraint != nil { // The first mask may take longer than a step, which others would wait for.
		if _, err := r.Constraint.Allowed(); err != nil {
			return Result{}, err
		}
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = e.LongestAnswer(len(r.Prompt))
	}
	j, err := e.weights.job(ctx, r.Mixture, r.Salt, false, r.Prompt)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &answer{
		engine: e, request: r, begun: begun, out: newStream(), text: r.Text, stop: stopper{texts: r.Stop},
		sampler: r.Sampler, result: Result{PromptTokens: len(r.Prompt), StopToken: -1},
	}
	if a.sampler == nil {
		a.sampler = sample.New(r.Sampling, sample.Stream(r.Seed))
		a.sampler.Read(r.Prompt)
	}
	if a.text == nil {
		a.text = e.o.Text()
	}
	j.ctx, j.work = ctx, a
	if err := e.enqueue(j); err != nil {
		return Result{}, err
	}
	for {
		deltas, ended, err := a.out.take(ctx)
		if err != nil {
			return Result{PromptTokens: len(r.Prompt)}, err
		}
		for _, d := range deltas {
			if err := emit(d); err != nil {
				return Result{PromptTokens: len(r.Prompt)}, err
			}
		}
		if ended {
			return a.result, a.out.failure()
		}
	}
}

// answer is the work of a Request. The loop owns it until the stream is closed.
type answer struct {
	engine  *Engine
	request Request
	begun   time.Time
	sampler *sample.Sampler
	text    TextStream
	stop    stopper
	out     *stream

	tokens []int32 // Sampled so far.
	result Result
	// allowed is what the constraint allows next, and stuck why that is unknown.
	allowed *constrain.Mask
	stuck   error
}

func (*answer) lane() lane { return answering }

func (*answer) demand(prompt int) demand { return demand{blocks: model.Blocks(prompt)} }

func (a *answer) admitted() {
	if a.result.Waited == 0 {
		a.result.Waited = time.Since(a.begun)
	}
}

// found counts what was cached for the first token; what an answer that has given way
// finds of itself is not the caller's.
func (a *answer) found(tokens int) {
	if len(a.tokens) == 0 {
		a.result.CachedTokens = tokens
	}
}

func (a *answer) sequence(*job) []int32 { return slices.Concat(a.request.Prompt, a.tokens) }

// restart has nothing to do: the row behind the last token is the same, whether that is
// read or was written, and the sampler has it all in its state.
func (*answer) restart() {}

func (*answer) forks(*job, *loop) []model.Fork { return nil }

func (a *answer) segments(j *job, _ *loop) ([]model.Segment, error) {
	return []model.Segment{{Seq: j.slot, Tokens: a.tokens[len(a.tokens)-1:]}}, nil
}

// asks for one token, and for its row where likelihoods are wanted, too. Under a constraint
// it is asked among those that are allowed; where that is one there is nothing to choose.
func (a *answer) asks() []backend.Ask {
	ask := backend.Ask{Draw: a.sampler.Draw(), Logits: a.request.Logprobs >= 0}
	if a.request.Constraint == nil {
		return []backend.Ask{ask}
	}
	a.allowed, a.stuck = a.request.Constraint.Allowed()
	if a.stuck != nil || a.allowed.Count == 1 {
		ask.Draw = nil
	} else {
		ask.Draw.Allowed = a.allowed.Bits
	}
	return []backend.Ask{ask}
}

// chosen is the next token.
func (a *answer) chosen(got backend.Answer) (int32, error) {
	if a.request.Constraint == nil || got.Err != nil {
		return got.Token, got.Err
	}
	if a.stuck != nil {
		return 0, a.stuck
	}
	id := got.Token
	if a.allowed.Count == 1 {
		id = a.allowed.First
	}
	return id, a.request.Constraint.Accept(id)
}

// take takes one token.
func (a *answer) take(answers []backend.Answer) (done bool, err error) {
	id, err := a.chosen(answers[0])
	if err != nil {
		return false, err
	}
	a.sampler.Took(id)
	if a.result.Tokens++; a.result.Tokens == 1 {
		a.result.FirstToken = time.Since(a.begun)
	}
	a.engine.tokens.Add(1)
	a.tokens = append(a.tokens, id)
	if !a.request.IgnoreStopTokens && slices.Contains(a.engine.o.StopTokens, id) {
		a.result.StopToken = id
		a.finish(FinishStop)
		return true, nil
	}
	d := Delta{Token: id}
	if a.request.Logprobs >= 0 {
		if d.Logprob, err = logprob(answers[0].Logits, id, a.request.Logprobs); err != nil {
			return false, err
		}
	}
	var stopped bool
	d.Text, stopped = a.stop.push(a.text.Push(id))
	a.out.push(d)
	if stopped {
		a.result.Finish = FinishStop
		return true, nil
	}
	if a.request.Constraint != nil && a.request.Constraint.Ended() {
		a.finish(FinishStop)
		return true, nil
	}
	if a.result.Tokens == a.request.MaxTokens {
		a.finish(FinishLength)
		return true, nil
	}
	if a.request.Constraint != nil {
		// What is allowed next is found here, while other answers' is, too; asks finds it again,
		// and an error with it.
		_, _ = a.request.Constraint.Allowed()
	}
	return false, nil
}

// finish emits the text that was held back.
func (a *answer) finish(reason string) {
	a.result.Finish = reason
	text, stopped := a.stop.push(a.text.Flush())
	if stopped {
		a.result.Finish = FinishStop
	} else {
		text += a.stop.rest()
	}
	if text != "" {
		a.out.push(Delta{Token: -1, Text: text})
	}
}

func (a *answer) end(err error) {
	a.result.Total = time.Since(a.begun)
	a.out.close(err)
}

// logprob returns the log-probability of a token, and the n most likely.
func logprob(logits []float32, id int32, n int) (*Logprob, error) {
	normaliser, err := sample.LogSum(logits)
	if err != nil {
		return nil, err
	}
	at := func(id int32) Logprob { return Logprob{Token: id, Value: float64(logits[id]) - normaliser} }
	own := at(id)
	// top is sorted, the most likely first; n is small.
	top := make([]int32, 0, n+1)
	for i := range logits {
		candidate := int32(i)
		place := len(top)
		for place > 0 && logits[candidate] > logits[top[place-1]] {
			place--
		}
		if place == n {
			continue
		}
		top = slices.Insert(top, place, candidate)
		top = top[:min(len(top), n)]
	}
	for _, id := range top {
		own.Top = append(own.Top, at(id))
	}
	return &own, nil
}
