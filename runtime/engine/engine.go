// Package engine runs a model for many requests at once. One goroutine owns
// the key-value cache and calls the model; everybody else hands it jobs. In
// each step it advances all running sequences by one ragged batch per model:
// prompts that are being read (prefill), answers that are being written (decode),
// and the labels that pass 1 compares, all alike. New requests join and finished or
// cancelled ones leave between two steps.
//
// # Merged and unmerged
//
// A mixture of experts is computed in one of two forms. Merged, its matrices
// are composed to dense ones: a model of its own, and so a batch of its own in
// each step. Unmerged, all mixtures and the base (z = 1) share U and Vᵀ, and one
// batch, in which each sequence has its own σ⊙z; what no expert scales stays
// dense. Writing answers is bound by the memory that a step reads: d merged
// models read d sets of weights, the unmerged one c sets, whatever d. A matrix of
// full rank is 1 + shorter/longer side as large in factors, so that c is 2 if all
// are square, and 1.4 for a small Llama. One mixture alone is c times as fast
// merged.
//
// FormAuto chooses for a Set of experts as a whole. Where one mixture is fixed,
// everything is merged. Else everything is unmerged if a step of all mixtures and
// the base gains at least what a step of one mixture loses, c; or if there are
// more mixtures than are kept merged, or more than can be listed (Set.Blends), each of
// which would wait until it is composed. Memory decides before speed does: what there is no
// room for merged is unmerged, and the other way round. Of the gain that the memory allows, d/c, three
// quarters are counted: that much is left on processors, where the merged
// models' smaller batches save arithmetic (BenchmarkMixtures of package model).
// So two experts beside the base are enough for a small Llama, and five where
// all matrices are square. Then a mixture that the set did not
// name is unmerged, too, and need not wait until it is composed, unless it
// scales matrices that the set does not; and pass 1 stays with the base's dense
// weights: reading its prompts is bound by arithmetic, of which the unmerged
// form has more.
//
// U and Vᵀ take c times the memory of the matrices that they make, beside the
// base's own, which stay: for pass 1, and because the next set may be merged.
// They are read from the decomposition when a set is prepared that is unmerged,
// those that the set before has, too, are shared with it, and they go with the
// last set, or request, that uses them. An engine that only merges never has
// them; one that never merges never composes.
//
// # Memory
//
// PlanOf divides what there is before anything is loaded: what is needed in any case, and
// budgets of the cache, of requests' bodies and of experts. Merged models and factors
// together stay within the budget of experts, those included that only requests in flight
// use any more: who asks for a mixture that is not there waits until there is room, and those
// that nobody uses, or that were used longest ago, make it. Where one mixture is fixed the
// others are merged only when somebody asks for them.
//
// # What a request gets
//
// What a request gets does not depend on its neighbours: a row of a batch is
// computed the same in any batch (package backend), and its random draws come
// from a generator of its own (package sample). The two forms differ in
// rounding, so the form must not depend on neighbours either: which mixtures
// happen to run at a time would be the best guide to the faster form, and is
// left out for that. The form is a function of the options, the set that Retain
// has taken into use, and the mixture; it is looked up when a request is made
// and stays until its end. So, with a seed, FormAuto gives the same answer as
// long as the set is the same, and FormMerged and FormUnmerged, which leaves every
// matrix of the decomposition unmerged, whatever the set is.
//
// # The cache
//
// Keys and values lie in blocks (package model). A request is admitted once there are
// blocks for its prompt, and takes more as its answer grows: an answer that may be long
// reserves nothing. When there is no block left the youngest request gives way: it waits
// again, before all others, and then reads what it has read and written until then, to the
// same tokens as if nothing had been. A request that the cache could not hold with nothing
// beside it is refused (CacheError).
//
// What a request begins with and another one, by the same weights, began with, is read
// once: the choices of one request, the turns of a conversation, conversations under one
// system prompt, the prompts of pass 1. While both run the blocks are shared, and a request
// waits for one before it that is reading at least half of its prompt (Options.Patient: a
// quarter more than is there). What ends leaves its
// blocks to the prefix cache, where they stay until a request needs one: the
// least recently used are evicted first, and so the cache never takes room from requests.
// Last of all go the beginnings that the set in use names (Set.Beginnings): what all
// questions of pass 1 begin with.
// An expert's weights may leave and come again: their name, not their place in memory, says
// whose keys and values these are.
//
// # The queue
//
// Requests are admitted, and their prompts read, in the order in which they arrived, whatever
// they ask for: pass 2 of one whose pass 1 has been answered is behind nobody who came
// meanwhile. Some go out of turn: what needs more blocks than there are lets others pass, as
// many as the batch has places; and jobs of pass 1 have places of their own, beside the batch
// of answers: where that is full, requests have their pass 1 while they wait for it. Only
// prompts that pass 1 reads for the answer, too (Read), wait until theirs is among the next to
// be answered, so that they are still in the cache then.
//
// Pass 2 begins with the step behind pass 1: the loop waits for it for a millisecond at most.
// The questions of a step are one batch, with their labels as forks, of the base's dense
// matrices, whatever the form of the experts is: a question has some hundred rows, and a batch
// of its own costs no more than ten; the factors would cost the more arithmetic for each row.
//
// # Experts that act on answers
//
// A mixture of experts that act on answers alone (contract.ActivationAnswer) computes a
// request from the last token of its prompt on. What is before it the base reads, in its
// merged form, so that such experts, the base and pass 1 find in the cache what any of them
// has read. Of a conversation's last answer the base reads the tokens anew in the next turn:
// that the expert wrote them is nothing that the next one was trained for.
//
// # On a device
//
// Where the backend can reserve memory, an engine takes at its start what its largest
// step needs, as Plan says it: requests allocate nothing. Where it can record, a step in
// which each sequence gets one token is one command for the device (package model).
package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// Errors that say what a caller can do about them. ContextError and CacheError
// are others.
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

// MixtureError says which mixture of a set could not be prepared; the base means
// the factors that all of them need.
type MixtureError struct {
	Mixture Mixture
	Err     error
}

// Error is the cause's, which names the mixture.
func (e *MixtureError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *MixtureError) Unwrap() error { return e.Err }

// TextStream turns the tokens of one answer into text as they come; see
// tokenizer.Stream.
type TextStream interface {
	// Push returns the text that this token completes, possibly none.
	Push(id int32) string
	// Flush returns what is left when no token follows.
	Flush() string
}

// noText is the text of tokens that nobody reads.
type noText struct{}

func (noText) Push(int32) string { return "" }
func (noText) Flush() string     { return "" }

// Options are what an engine is made of.
type Options struct {
	// Base is the model with the base weights.
	Base *model.Model
	// Reader reads prompts, but for their last token, of what Base's own weights answer; nil
	// means that Base does. It is of the same base as Base, which is an expert that acts on
	// answers alone, as while it is trained.
	Reader *model.Model
	// Compose makes the weights of a mixture; see Composer.
	Compose func(context.Context, Mixture) (*model.Model, error)
	// Factors make the unmerged form; without them there is the merged one only.
	Factors Factors
	// Form of the mixtures; empty means FormAuto.
	Form Form
	// Text starts the text of one answer; nil means that nobody reads texts.
	Text func() TextStream
	// StopTokens end an answer.
	StopTokens []int32
	// ContextLength bounds prompt and answer together, in tokens; 0 means what
	// the model was made for.
	ContextLength int
	// MaxBatch bounds how many answers are written together; 0 means DefaultMaxBatch. Jobs of
	// pass 1 are computed beside them.
	MaxBatch int
	// CacheTokens is how many tokens of prompts and answers the key-value cache
	// holds, rounded up to blocks; tokens that requests share count once. 0
	// means room for a full batch of requests of the whole context length, or what
	// fits into DefaultCacheBytes, and for one at least.
	CacheTokens int
	// MaxWaiting bounds how many requests wait for a slot in the batch, each of which
	// counts as often as it has choices; 0 means DefaultMaxWaiting.
	MaxWaiting int
	// MaxComposed bounds how many merged models are kept, besides the base and
	// those in use; 0 means as many as ExpertBytes hold, or as fit into a GiB without
	// these: one at least, and 64 at most.
	MaxComposed int
	// ExpertBytes bounds what mixtures are computed with, merged models and factors, kept
	// and in use together (Plan.Experts); 0 means that nothing does. A request whose mixture
	// is to be merged waits until there is room for it.
	ExpertBytes int64
	// StepTokens bounds how many tokens of prompts are read in one step, so that
	// a long prompt does not hold up the answers beside it; 0 means
	// DefaultStepTokens.
	StepTokens int
	// Patient says that all requests are of one who waits for the last of them: a prompt
	// waits for less that others before it are reading, a quarter of it, too.
	Patient bool

	followUp time.Duration // 0 means defaultFollowUp.
}

// Defaults of Options.
const (
	DefaultMaxBatch   = 16
	DefaultMaxWaiting = 256
	DefaultStepTokens = 512
)

// mostComposed bounds the default of Options.MaxComposed.
const mostComposed = 64

// composedThatFit is the default of Options.MaxComposed. A composed model
// shares all but its projections with the base.
func composedThatFit(o *Options) int {
	if o.ExpertBytes > 0 {
		return mostComposed // Fewer, if they are too large.
	}
	const gigabyte = 1 << 30
	bytes := int64(0)
	for _, l := range o.Base.Linears() {
		bytes += o.Base.DType().Bytes(l.Out, l.In)
	}
	return int(min(max(gigabyte/max(bytes, 1), 1), mostComposed))
}

func (o *Options) setDefaults() error {
	if o.Base == nil {
		return errors.New("an engine needs a model")
	}
	if o.Text == nil {
		o.Text = func() TextStream { return noText{} }
	}
	var err error
	if o.Form, err = ParseForm(string(o.Form)); err != nil {
		return err
	}
	if o.Form == FormUnmerged && o.Factors.Attach == nil {
		return errors.New("the unmerged form needs a decomposition")
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
	if o.CacheTokens < 0 {
		return fmt.Errorf("the size of the cache is %d tokens: it must be positive, or 0 for the default", o.CacheTokens)
	}
	if o.ExpertBytes < 0 {
		return fmt.Errorf("experts may take %d bytes: it must be positive, or 0 for no bound", o.ExpertBytes)
	}
	if o.followUp == 0 {
		o.followUp = defaultFollowUp
	}
	limit := o.Base.Config().MaxPositions
	if o.ContextLength > limit {
		return fmt.Errorf("a context length of %d tokens: the model was made for %d", o.ContextLength, limit)
	}
	return errors.Join(
		positive("the context length", &o.ContextLength, limit),
		positive("the batch size", &o.MaxBatch, DefaultMaxBatch),
		positive("the number of waiting requests", &o.MaxWaiting, DefaultMaxWaiting),
		positive("the number of composed models", &o.MaxComposed, composedThatFit(o)),
		positive("the number of tokens a step", &o.StepTokens, DefaultStepTokens),
	)
}

// Engine runs one base model and the models composed from it. Its methods may
// be called from any goroutine.
type Engine struct {
	o           Options
	totalBlocks int // Of the cache.
	weights     *weights
	stop        context.CancelFunc
	ended       chan struct{} // Closed when the loop has ended.
	lost        chan error    // Has one, once the device is lost.
	wake        chan struct{} // One place: something has changed in the queue.

	mu      sync.Mutex
	waiting []*job
	places  int // Taken by requests; see admission.
	closed  bool

	arrivals uint64              // How many requests were admitted.
	expected map[*admission]bool // Those whose pass 1 has just been answered.
	pins     []pin               // What the set in use begins with;
	repin    bool                // the loop has not seen it.

	reading sync.WaitGroup // Of pins.

	running, choosing              atomic.Int64
	promptTokens, tokens, steps    atomic.Int64
	cachedTokens, cancelled, fails atomic.Int64
	preempted                      atomic.Int64
	usedBlocks, cachedBlocks       atomic.Int64
	idleBlocks                     atomic.Int64
	reservedBlocks                 atomic.Int64
	merged, unmerged               computed
}

// computed counts what was computed in one form.
type computed struct {
	tokens, batches atomic.Int64
}

func (e *Engine) computed(f Form) *computed {
	if f == FormUnmerged {
		return &e.unmerged
	}
	return &e.merged
}

// New starts an engine. ctx only bounds the start: Close ends the engine.
func New(ctx context.Context, o Options) (*Engine, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	slots := newSlots(o.MaxBatch)
	cache, err := o.Base.NewPagedCache(slots.total(), o.ContextLength, cacheBlocks(o.Base.CacheTokenBytes(), o.ContextLength, o.CacheTokens, slots))
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	// What steps need is there before the first request.
	release, err := reserve(ctx, o, slots, cache)
	if err != nil {
		cache.Close()
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{
		o: o, totalBlocks: cache.TotalBlocks(), stop: stop, ended: make(chan struct{}), lost: make(chan error, 1), wake: make(chan struct{}, 1),
		expected: map[*admission]bool{},
		weights: newWeights(running, policy{
			base: o.Base, reader: o.Reader, form: o.Form, factors: o.Factors, batch: o.MaxBatch, composed: o.MaxComposed, budget: o.ExpertBytes,
		}, o.Compose),
	}
	l := &loop{engine: e, cache: cache, slots: slots}
	go func() {
		defer close(e.ended)
		defer release()
		defer cache.Close()
		l.run(running)
	}()
	return e, nil
}

// reserve takes the device memory of steps, where the backend can reserve some, and
// records decode steps of the base, where it can record.
func reserve(ctx context.Context, o Options, slots slots, cache *model.Cache) (release func(), err error) {
	release = func() {}
	if r, ok := o.Base.Backend().(backend.Reserver); ok {
		if release, err = r.Reserve(o.Base.StepBytes(slots.steps(o.StepTokens, o.ContextLength))); err != nil {
			return nil, err
		}
	}
	if err := o.Base.RecordSteps(ctx, cache, o.MaxBatch, false); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// Close ends every request with ErrClosed and waits for the engine's
// goroutines.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	<-e.ended
	e.reading.Wait()
	e.weights.wait()
}

// Lost has an error once the device is lost (backend.ErrDeviceLost): the engine has
// ended every request by then, and refuses new ones with ErrClosed. Another process may
// do better.
func (e *Engine) Lost() <-chan error { return e.lost }

// lose ends the engine because of its device. The loop calls it, at most once, and ends.
func (e *Engine) lose(err error) {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.lost <- err
	e.stop()
}

// ContextLength is what a prompt and its answer may have together, in tokens.
func (e *Engine) ContextLength() int { return e.o.ContextLength }

// CacheTokens is how many tokens the key-value cache holds.
func (e *Engine) CacheTokens() int { return e.totalBlocks * model.BlockSize }

// Prepare makes what a set needs ahead of its first request: factors and
// scales, or as many merged models as the engine keeps. Requests are computed in
// the same form as before until Retain. An error is ctx's or a *MixtureError; when
// ctx ends, what is being made for this set alone is given up.
func (e *Engine) Prepare(ctx context.Context, s Set) error { return e.weights.prepare(ctx, s) }

// Retain takes a set into use, and others that are used beside it: requests that are made
// from now on are computed in their forms, those for a mixture of several in the first
// one's. What they have no use for is forgotten; requests that use it go on with it.
func (e *Engine) Retain(s Set, beside ...Set) {
	all := append([]Set{s}, beside...)
	e.weights.retain(all...)
	e.pinned(all)
}

// Form is the form of the first set in use: FormMerged or FormUnmerged.
func (e *Engine) Form() Form { return e.weights.form() }

// Stats are the engine's gauges and counters.
type Stats struct {
	// Waiting and Running count requests: those that wait for a place, and those that are
	// computed, of which Choosing are in pass 1.
	Waiting, Running, Choosing int
	// PromptTokens were read, CachedTokens were found in the cache, Tokens were
	// written, in Steps of the loop.
	PromptTokens, CachedTokens, Tokens, Steps int64
	// Cancelled requests were given up by their callers; Failed ones by us. Preempted
	// counts how often one gave way for want of blocks.
	Cancelled, Failed, Preempted int64
	// Blocks are those of the key-value cache.
	Blocks BlockStats
	// Merged and Unmerged are what is held and was computed in each form; the
	// base's own weights count as merged.
	Merged, Unmerged FormStats
}

// BlockStats count blocks of the key-value cache, of model.BlockSize tokens each.
type BlockStats struct {
	// Total are all, Used those that hold tokens, and Cached those of them that hold
	// the prompts of the prefix cache; they are evicted for requests. Of these, Idle
	// are those that no request in the batch has. A block that several share counts
	// once.
	Total, Used, Cached, Idle int
	// Reserved are those that the requests in the batch may come to hold at most,
	// if they share none.
	Reserved int
}

// FormStats are the gauges and counters of one form.
type FormStats struct {
	// Mixtures are held, besides the base, and take Bytes of memory: merged
	// models, or the factors and the scales of each mixture.
	Mixtures int
	Bytes    int64
	// Tokens, of prompts and answers, were computed in this many Batches.
	Tokens, Batches int64
}

// Stats returns the present numbers.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	waiting := requests(e.waiting)
	e.mu.Unlock()
	merged := FormStats{Tokens: e.merged.tokens.Load(), Batches: e.merged.batches.Load()}
	unmerged := FormStats{Tokens: e.unmerged.tokens.Load(), Batches: e.unmerged.batches.Load()}
	e.weights.count(&merged, &unmerged)
	return Stats{
		Waiting: waiting, Running: int(e.running.Load()), Choosing: int(e.choosing.Load()), Merged: merged, Unmerged: unmerged,
		PromptTokens: e.promptTokens.Load(), CachedTokens: e.cachedTokens.Load(),
		Tokens: e.tokens.Load(), Steps: e.steps.Load(),
		Cancelled: e.cancelled.Load(), Failed: e.fails.Load(), Preempted: e.preempted.Load(),
		Blocks: BlockStats{
			Total: e.totalBlocks, Used: int(e.usedBlocks.Load()), Cached: int(e.cachedBlocks.Load()),
			Idle: int(e.idleBlocks.Load()), Reserved: int(e.reservedBlocks.Load()),
		},
	}
}

// checkPrompt validates what comes from outside before it reaches the batch,
// where a bad token would fail its neighbours too.
func (e *Engine) checkPrompt(tokens []int32, answer int, d demand) error {
	if len(tokens) == 0 {
		return errors.New("the prompt has no tokens")
	}
	if err := e.fits(len(tokens), answer, d); err != nil {
		return err
	}
	return e.checkTokens("the prompt", tokens)
}

func (e *Engine) checkTokens(of string, tokens []int32) error {
	if err := e.o.Base.CheckTokens(tokens); err != nil {
		return fmt.Errorf("%s: %w", of, err)
	}
	return nil
}
