// Package rollout lets a model answer many prompts at once, on the engine that
// serves (package engine): sequences share each step of the model, finished ones
// give their blocks of the cache to the next, and every sequence draws from a
// sampler of its own. So what is trained is what will be served, and an answer
// does not depend on which others are asked for.
package rollout

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// Options bound a generation.
type Options struct {
	// Stop are the tokens that end an answer.
	Stop []int32
	// MaxNewTokens bounds an answer. The model's positions bound it too.
	MaxNewTokens int
	// Sequences bounds how many are computed together; 0 means DefaultSequences.
	Sequences int
	// StepTokens bounds the tokens of one step of the model; 0 means
	// DefaultStepTokens.
	StepTokens int
	// CacheBytes bounds the key-value cache (one sequence is always allowed); 0
	// means DefaultCacheBytes.
	CacheBytes int64
	// Reader reads the prompts where the model is an expert that acts on answers alone; see
	// engine.Options.
	Reader *model.Model
	// Compose and Factors make the weights of the questions' mixtures (see package
	// engine), of which so many are kept; without them there are the base's alone.
	Compose  func(context.Context, engine.Mixture) (*model.Model, error)
	Factors  engine.Factors
	Mixtures int
}

// Defaults of Options.
const (
	DefaultSequences  = 64
	DefaultStepTokens = 4096
	DefaultCacheBytes = 1 << 30
)

// Answer is what a model said.
type Answer struct {
	// Tokens follow the prompt; the stop token is among them if there was one.
	Tokens []int32
	// Stopped says that a stop token ended the answer; else a bound did.
	Stopped bool
	// LogLikelihood is Σ log p of the tokens but a stop token, where it was asked for.
	LogLikelihood float64
}

// Text returns the tokens without the stop token.
func (a Answer) Text() []int32 {
	if a.Stopped {
		return a.Tokens[:len(a.Tokens)-1]
	}
	return a.Tokens
}

// Generate answers prompts; the i-th by the i-th sampler. It returns
// sample.ErrNotFinite, wrapped, when the model's logits are not numbers.
func Generate(ctx context.Context, m *model.Model, prompts [][]int32, sampler func(i int) *sample.Sampler, o Options) ([]Answer, error) {
	if len(prompts) == 0 {
		return nil, nil
	}
	if o.Sequences == 0 {
		o.Sequences = DefaultSequences
	}
	// Room for all at once, if the bound allows it.
	o.Sequences = min(o.Sequences, len(prompts))
	s, err := Start(ctx, m, prompts, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	questions := make([]Question, len(prompts))
	for i, prompt := range prompts {
		questions[i] = Question{Prompt: prompt, Sampler: sampler(i)}
	}
	return s.Answer(ctx, questions)
}

// Question is a prompt, and what answers it.
type Question struct {
	Prompt  []int32
	Sampler *sample.Sampler
	// Mixture are the weights; the zero value is the base's.
	Mixture engine.Mixture
	// LogLikelihood asks for that of the answer.
	LogLikelihood bool
}

// Session is a model that answers questions until it is closed, each with the weights
// that the question names.
type Session struct {
	engine  *engine.Engine
	longest int // Tokens of a prompt and its answer together.
	most    int // Tokens of an answer.
}

// Start begins a session for questions none of which has a longer prompt than these.
func Start(ctx context.Context, m *model.Model, prompts [][]int32, o Options) (*Session, error) {
	longest, err := o.check(m, prompts)
	if err != nil {
		return nil, err
	}
	// Room for all that may be computed together, if the bound allows it, and for one in
	// any case.
	perSequence := model.Blocks(longest) * model.BlockSize
	room := min(int64(o.Sequences*perSequence), o.CacheBytes/m.CacheTokenBytes())
	e, err := engine.New(ctx, engine.Options{
		Base: m, Reader: o.Reader, StopTokens: o.Stop, Compose: o.Compose, Factors: o.Factors,
		ContextLength: longest, MaxBatch: o.Sequences, MaxWaiting: maxWaiting, StepTokens: o.StepTokens,
		CacheTokens: max(int(room), perSequence), MaxComposed: o.Mixtures, Patient: true,
	})
	if err != nil {
		return nil, err
	}
	return &Session{engine: e, longest: longest, most: o.MaxNewTokens}, nil
}

// maxWaiting bounds the questions of one call of Answer that wait for their turn.
const maxWaiting = 1 << 20

// Prepare makes what the mixtures of a set need, and takes it into use.
func (s *Session) Prepare(ctx context.Context, set engine.Set) error {
	if err := s.engine.Prepare(ctx, set); err != nil {
		return err
	}
	s.engine.Retain(set)
	return nil
}

// Stats are those of the session's engine.
func (s *Session) Stats() engine.Stats { return s.engine.Stats() }

// Close ends the session.
func (s *Session) Close() { s.engine.Close() }

// Answer answers questions, all of them together.
func (s *Session) Answer(ctx context.Context, questions []Question) ([]Answer, error) {
	answers := make([]Answer, len(questions))
	all, ctx := errgroup.WithContext(ctx)
	for i, q := range questions {
		all.Go(func() error {
			var err error
			if answers[i], err = s.one(ctx, q); err != nil {
				return fmt.Errorf("answer %d: %w", i, err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return answers, nil
}

func (s *Session) one(ctx context.Context, q Question) (a Answer, err error) {
	r := engine.Request{
		Mixture: q.Mixture, Prompt: q.Prompt, MaxTokens: min(s.most, s.longest-len(q.Prompt)), Sampler: q.Sampler, Logprobs: -1,
	}
	if q.LogLikelihood {
		r.Logprobs = 0
	}
	result, err := s.engine.Generate(ctx, r, func(d engine.Delta) error {
		if d.Token >= 0 {
			a.Tokens = append(a.Tokens, d.Token)
			if d.Logprob != nil {
				a.LogLikelihood += d.Logprob.Value
			}
		}
		return nil
	})
	if err != nil {
		return a, err
	}
	if result.StopToken >= 0 {
		a.Tokens, a.Stopped = append(a.Tokens, result.StopToken), true
	}
	return a, nil
}

// check sets the defaults and returns the tokens of the longest prompt and its
// answer together.
func (o *Options) check(m *model.Model, prompts [][]int32) (longest int, err error) {
	if o.MaxNewTokens < 1 {
		return 0, fmt.Errorf("an answer of at most %d tokens is none", o.MaxNewTokens)
	}
	positions := m.Config().MaxPositions
	for i, p := range prompts {
		if len(p) == 0 {
			return 0, fmt.Errorf("prompt %d is empty", i)
		}
		if len(p) >= positions {
			return 0, fmt.Errorf("prompt %d has %d tokens, which leaves no room for an answer: the model has %d positions", i, len(p), positions)
		}
		longest = max(longest, min(positions, len(p)+o.MaxNewTokens))
	}
	if o.Sequences == 0 {
		o.Sequences = DefaultSequences
	}
	if o.StepTokens == 0 {
		o.StepTokens = DefaultStepTokens
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	return longest, nil
}
