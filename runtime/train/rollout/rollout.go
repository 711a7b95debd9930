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
	longest, err := o.check(m, prompts)
	if err != nil {
		return nil, err
	}
	// Room for all at once, if the bound allows it, and for one in any case.
	batch, perSequence := min(o.Sequences, len(prompts)), model.Blocks(longest)*model.BlockSize
	room := min(int64(batch*perSequence), o.CacheBytes/m.CacheTokenBytes())
	e, err := engine.New(ctx, engine.Options{
		Base: m, StopTokens: o.Stop,
		ContextLength: longest, MaxBatch: batch, MaxWaiting: len(prompts), StepTokens: o.StepTokens,
		CacheTokens: max(int(room), perSequence),
	})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	answers := make([]Answer, len(prompts))
	all, ctx := errgroup.WithContext(ctx)
	for i, prompt := range prompts {
		all.Go(func() error {
			a := &answers[i]
			result, err := e.Generate(ctx, engine.Request{
				Prompt: prompt, MaxTokens: min(o.MaxNewTokens, longest-len(prompt)), Sampler: sampler(i), Logprobs: -1,
			}, func(d engine.Delta) error {
				if d.Token >= 0 {
					a.Tokens = append(a.Tokens, d.Token)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("answer %d: %w", i, err)
			}
			if result.StopToken >= 0 {
				a.Tokens, a.Stopped = append(a.Tokens, result.StopToken), true
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return answers, nil
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
