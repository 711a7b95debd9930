// Package engine runs a model for many requests at once. One goroutine owns
// the key-value cache and calls the model; everybody else hands it jobs. In
// each turn it advances all running sequences by one ragged batch per composed
// model: prompts that are being read, answers that are being written, and the
// labels that pass 1 compares, all alike. New requests join and finished or
// cancelled ones leave between two turns.
//
// What a request gets does not depend on its neighbours: a row of a batch is
// computed the same in any batch (package backend), and its random draws come
// from a generator of its own (package sample).
package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/transformersquared/operator/runtime/model"
)

// Errors that say what a caller can do about them. ContextError is another.
var (
	// ErrBusy says that the queue is full: try again later.
	ErrBusy = errors.New("the engine is at its limit of waiting requests")
	// ErrClosed says that the engine is closing or closed.
	ErrClosed = errors.New("the engine is shutting down")
)

// ContextError says that a request does not fit the context length.
type ContextError struct {
	// Prompt and Answer are the tokens of the prompt and those asked for, Limit
	// what both may have together.
	Prompt, Answer, Limit int
}

// Error names the numbers.
func (e *ContextError) Error() string {
	return fmt.Sprintf("the context length is %d tokens, but the request needs %d: %d of the prompt and %d of the answer",
		e.Limit, e.Prompt+e.Answer, e.Prompt, e.Answer)
}

// TextStream turns the tokens of one answer into text as they come; see
// tokenizer.Stream.
type TextStream interface {
	// Push returns the text that this token completes, possibly none.
	Push(id int32) string
	// Flush returns what is left when no token follows.
	Flush() string
}

// Options are what an engine is made of.
type Options struct {
	// Base is the model with the base weights.
	Base *model.Model
	// Compose makes the weights of a mixture; see Composer.
	Compose func(context.Context, Mixture) (*model.Model, error)
	// Text starts the text of one answer.
	Text func() TextStream
	// StopTokens end an answer.
	StopTokens []int32
	// ContextLength bounds prompt and answer together, in tokens; 0 means what
	// the model was made for.
	ContextLength int
	// MaxBatch bounds how many sequences are computed together; 0 means
	// DefaultMaxBatch.
	MaxBatch int
	// MaxWaiting bounds how many requests wait for a place in the batch; 0 means
	// DefaultMaxWaiting.
	MaxWaiting int
	// MaxComposed bounds how many composed models are kept, besides the base and
	// those in use; 0 means as many as fit into a GiB, and from 8 to 64.
	MaxComposed int
	// StepTokens bounds how many tokens of prompts are read in one turn, so that
	// a long prompt does not hold up the answers beside it; 0 means
	// DefaultStepTokens.
	StepTokens int
}

// Defaults of Options.
const (
	DefaultMaxBatch   = 16
	DefaultMaxWaiting = 256
	DefaultStepTokens = 512
)

// composedThatFit is the default of Options.MaxComposed. A composed model
// shares all but its projections with the base.
func composedThatFit(m *model.Model) int {
	const gigabyte, bytesPerNumber, least, most = 1 << 30, 4, 8, 64
	bytes := 0
	for _, l := range m.Linears() {
		bytes += l.Out * l.In * bytesPerNumber
	}
	return min(max(gigabyte/max(bytes, 1), least), most)
}

func (o *Options) setDefaults() error {
	if o.Base == nil || o.Text == nil {
		return errors.New("an engine needs a model and a tokenizer")
	}
	positive := func(name string, v *int, otherwise int) error {
		if *v < 0 {
			return fmt.Errorf("%s is %d: it must be positive, or 0 for the default", name, *v)
		}
		if *v == 0 {
			*v = otherwise
		}
		return nil
	}
	limit := o.Base.Config().MaxPositions
	if o.ContextLength > limit {
		return fmt.Errorf("a context length of %d tokens: the model was made for %d", o.ContextLength, limit)
	}
	return errors.Join(
		positive("the context length", &o.ContextLength, limit),
		positive("the batch size", &o.MaxBatch, DefaultMaxBatch),
		positive("the number of waiting requests", &o.MaxWaiting, DefaultMaxWaiting),
		positive("the number of composed models", &o.MaxComposed, composedThatFit(o.Base)),
		positive("the number of tokens a step", &o.StepTokens, DefaultStepTokens),
	)
}

// Engine runs one base model and the models composed from it. Its methods may
// be called from any goroutine.
type Engine struct {
	o       Options
	weights *weights
	stop    context.CancelFunc
	ended   chan struct{} // Closed when the loop has ended.
	wake    chan struct{} // One place: something waits.

	mu      sync.Mutex
	waiting []*job
	closed  bool

	active                         atomic.Int64
	promptTokens, tokens, turns    atomic.Int64
	reusedTokens, cancelled, fails atomic.Int64
}

// New starts an engine. ctx only bounds the start: Close ends the engine.
func New(ctx context.Context, o Options) (*Engine, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	places := newPlaces(o.MaxBatch)
	cache, err := o.Base.NewCache(places.total(), o.ContextLength)
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{
		o: o, weights: newWeights(running, o.Base, o.Compose, o.MaxComposed),
		stop: stop, ended: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	l := &loop{engine: e, cache: cache, places: places}
	go func() {
		defer close(e.ended)
		defer cache.Close()
		l.run(running)
	}()
	return e, nil
}

// Close ends every request with ErrClosed and waits for the engine's
// goroutines.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	<-e.ended
	e.weights.wait()
}

// ContextLength is what a prompt and its answer may have together, in tokens.
func (e *Engine) ContextLength() int { return e.o.ContextLength }

// Prepare composes the weights of mixtures ahead of their first request, up to
// the number that the engine keeps.
func (e *Engine) Prepare(ctx context.Context, mixtures ...Mixture) error {
	for _, m := range mixtures[:min(len(mixtures), e.o.MaxComposed)] {
		if _, err := e.weights.get(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// Retain forgets the composed weights of every mixture but these; requests that
// use them go on.
func (e *Engine) Retain(mixtures ...Mixture) { e.weights.retain(mixtures) }

// Stats are the engine's gauges and counters.
type Stats struct {
	// Waiting and Active count requests, Composed the models that are kept.
	Waiting, Active, Composed int
	// PromptTokens were read, ReusedTokens were found in the cache, Tokens were
	// written, in Turns of the loop.
	PromptTokens, ReusedTokens, Tokens, Turns int64
	// Cancelled requests were given up by their callers; Failed ones by us.
	Cancelled, Failed int64
}

// Stats returns the present numbers.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	waiting := len(e.waiting)
	e.mu.Unlock()
	return Stats{
		Waiting: waiting, Active: int(e.active.Load()), Composed: e.weights.len(),
		PromptTokens: e.promptTokens.Load(), ReusedTokens: e.reusedTokens.Load(),
		Tokens: e.tokens.Load(), Turns: e.turns.Load(),
		Cancelled: e.cancelled.Load(), Failed: e.fails.Load(),
	}
}

// enqueue hands a job to the loop. A job that continues an admitted request
// is not refused for want of room: half of its work is done already.
func (e *Engine) enqueue(j *job, continues bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	if !continues && len(e.waiting)+int(e.active.Load()) >= e.o.MaxBatch+e.o.MaxWaiting {
		return ErrBusy
	}
	e.waiting = append(e.waiting, j)
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return nil
}

// HasRoom reports whether n requests that come together would be admitted now,
// ErrBusy otherwise. An idle engine has room for any number.
func (e *Engine) HasRoom(n int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if busy := len(e.waiting) + int(e.active.Load()); busy > 0 && busy+n > e.o.MaxBatch+e.o.MaxWaiting {
		return ErrBusy
	}
	return nil
}

// checkPrompt validates what comes from outside before it reaches the batch,
// where a bad token would fail its neighbours too.
func (e *Engine) checkPrompt(tokens []int32, answer int) error {
	if len(tokens) == 0 {
		return errors.New("the prompt has no tokens")
	}
	if len(tokens)+answer > e.o.ContextLength {
		return &ContextError{Prompt: len(tokens), Answer: answer, Limit: e.o.ContextLength}
	}
	return e.checkTokens("the prompt", tokens)
}

func (e *Engine) checkTokens(of string, tokens []int32) error {
	vocabulary := e.o.Base.Config().VocabSize
	for i, id := range tokens {
		if id < 0 || int(id) >= vocabulary {
			return fmt.Errorf("token %d of %s is %d: the model has the tokens 0 to %d", i, of, id, vocabulary-1)
		}
	}
	return nil
}
