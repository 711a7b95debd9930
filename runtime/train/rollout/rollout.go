// Package rollout lets a model answer many prompts at once: sequences share
// each step of the model, finished ones give their place in the cache to the
// next, and every sequence draws from a sampler of its own. As a row of the
// model does not depend on its batch, neither does an answer.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	g, err := newGeneration(m, prompts, sampler, o)
	if err != nil {
		return nil, err
	}
	defer g.cache.Close()
	for g.next < len(prompts) || len(g.running) > 0 {
		if err := g.step(ctx); err != nil {
			return nil, err
		}
	}
	return g.answers, nil
}

// generation is the state of one call of Generate.
type generation struct {
	model   *model.Model
	options Options
	cache   *model.Cache
	prompts [][]int32
	sampler func(i int) *sample.Sampler
	answers []Answer

	next    int // prompt that waits first
	free    []int
	running []*sequence
}

// sequence is an answer in the making.
type sequence struct {
	index   int // of its prompt
	place   int // in the cache
	pending []int32
	sampler *sample.Sampler
	most    int // tokens that the answer may have
}

func newGeneration(m *model.Model, prompts [][]int32, sampler func(i int) *sample.Sampler, o Options) (*generation, error) {
	if o.MaxNewTokens < 1 {
		return nil, fmt.Errorf("an answer of at most %d tokens is none", o.MaxNewTokens)
	}
	positions := m.Config().MaxPositions
	longest := 0
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("prompt %d is empty", i)
		}
		if len(p) >= positions {
			return nil, fmt.Errorf("prompt %d has %d tokens, which leaves no room for an answer: the model has %d positions", i, len(p), positions)
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
	places := int(min(int64(o.Sequences), int64(len(prompts)), max(1, o.CacheBytes/sequenceBytes(m, longest))))
	cache, err := m.NewCache(places, longest)
	if err != nil {
		return nil, err
	}
	g := &generation{
		model: m, options: o, cache: cache, prompts: prompts, sampler: sampler,
		answers: make([]Answer, len(prompts)),
	}
	for place := places - 1; place >= 0; place-- {
		g.free = append(g.free, place)
	}
	return g, nil
}

// sequenceBytes returns the size of one sequence of n tokens in the cache.
func sequenceBytes(m *model.Model, n int) int64 {
	return int64(model.Pages(n)*model.PageTokens) * m.CacheTokenBytes()
}

// step admits prompts to free places, computes one batch, and takes a token for
// each sequence whose prompt is read.
func (g *generation) step(ctx context.Context) error {
	for len(g.free) > 0 && g.next < len(g.prompts) {
		g.admit(g.next)
		g.next++
	}
	segments, batch := g.plan()
	logits, err := g.model.Step(ctx, g.cache, segments)
	if err != nil {
		return err
	}
	var errs []error
	for row, s := range batch {
		s.pending = s.pending[len(segments[row].Tokens):]
		if len(s.pending) == 0 {
			errs = append(errs, g.take(s, logits.Row(row)))
		}
	}
	g.running = slices.DeleteFunc(g.running, func(s *sequence) bool { return s.place < 0 })
	return errors.Join(errs...)
}

func (g *generation) admit(index int) {
	prompt := g.prompts[index]
	s := &sequence{
		index: index, place: g.free[len(g.free)-1], pending: prompt, sampler: g.sampler(index),
		most: min(g.options.MaxNewTokens, g.model.Config().MaxPositions-len(prompt)),
	}
	g.free = g.free[:len(g.free)-1]
	g.running = append(g.running, s)
}

// plan chooses what to compute: the last token of each sequence that answers,
// then as much of the prompts as fits; at least one token.
func (g *generation) plan() (segments []model.Segment, batch []*sequence) {
	budget := g.options.StepTokens
	add := func(s *sequence, n int) {
		segments = append(segments, model.Segment{Seq: s.place, Tokens: s.pending[:n]})
		batch = append(batch, s)
		budget -= n
	}
	for _, s := range g.running {
		if len(s.pending) == 1 {
			add(s, 1)
		}
	}
	for _, s := range g.running {
		if n := min(len(s.pending), budget); len(s.pending) > 1 && n > 0 {
			add(s, n)
		}
	}
	return segments, batch
}

// take appends the next token to a sequence's answer, and ends the sequence
// where that was the last.
func (g *generation) take(s *sequence, logits []float32) error {
	token, err := s.sampler.Next(logits)
	if err != nil {
		return fmt.Errorf("choosing token %d of answer %d: %w", len(g.answers[s.index].Tokens), s.index, err)
	}
	a := &g.answers[s.index]
	a.Tokens = append(a.Tokens, token)
	a.Stopped = slices.Contains(g.options.Stop, token)
	if !a.Stopped && len(a.Tokens) < s.most {
		s.pending = a.Tokens[len(a.Tokens)-1:]
		return nil
	}
	if err := g.cache.Truncate(s.place, 0); err != nil {
		return err
	}
	g.free = append(g.free, s.place)
	s.place = -1
	return nil
}
