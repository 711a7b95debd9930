package engine_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"weak"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

const block = model.BlockSize

// TestNobodyOvertakesOneThatNeedsManyBlocks holds up an answer that leaves half of
// the blocks; one that needs all waits behind it, and one that needs few behind
// that.
func TestNobodyOvertakesOneThatNeedsManyBlocks(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = 4*block, nil })
	var wg sync.WaitGroup
	ask := func(tokens, blocks int) {
		wg.Go(func() {
			a, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: blocks * block})
			if err != nil || len(a.tokens) != blocks*block {
				t.Errorf("an answer of %d blocks has %d tokens, %v", blocks, len(a.tokens), err)
			}
		})
		waitFor(t, func() bool { return h.Stats().Waiting == tokens })
	}
	first := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(first)
	ask(0, 2)
	<-first.reached
	second := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(second)
	ask(1, 4)
	ask(2, 1)
	close(first.open)
	<-second.reached
	if s := h.Stats(); s.Waiting != 1 || s.Blocks.Reserved != 4 {
		t.Errorf("%d wait beside the large one and %d blocks are reserved, want 1 and 4", s.Waiting, s.Blocks.Reserved)
	}
	close(second.open)
	wg.Wait()
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if p := h.Stats().Blocks; p != (engine.BlockStats{Total: 4}) {
		t.Errorf("blocks %+v, want none to be used", p)
	}
}

// TestSlotsWithoutBlocksAreNotGiven asks for three answers of two blocks each at a
// time.
func TestSlotsWithoutBlocksAreNotGiven(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = 4*block, nil })
	answers, before := h.together(t, next, 3, func(int) engine.Request {
		return engine.Request{Prompt: []int32{2}, MaxTokens: 2 * block}
	})
	for i, a := range answers {
		if !slices.Equal(a.tokens, answers[0].tokens) || len(a.tokens) != 2*block {
			t.Errorf("answer %d has %d tokens, or others than the first", i, len(a.tokens))
		}
	}
	// A step for the one before, then two at a time: twice as many steps as tokens.
	if steps := h.Stats().Steps - before.Steps; steps < 4*block {
		t.Errorf("%d steps for three answers of %d tokens, of which two fit at a time", steps, 2*block)
	}
}

func TestRequestsThatTheCacheCannotHold(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = 2*block-1, nil })
	if h.CacheTokens() != 2*block {
		t.Errorf("the cache holds %d tokens, want two blocks", h.CacheTokens())
	}
	refused := func(what string, err error, want engine.CacheError) {
		t.Helper()
		var tooMuch *engine.CacheError
		if !errors.As(err, &tooMuch) || *tooMuch != want {
			t.Errorf("%s: got %v, want %v", what, err, &want)
		}
	}
	_, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 60), MaxTokens: 6})
	refused("an answer", err, engine.CacheError{Prompt: 60, Answer: 6, Needed: 3, Limit: 2})
	refused("what a server asks first", h.Fits(60, 6), engine.CacheError{Prompt: 60, Answer: 6, Needed: 3, Limit: 2})
	// The prompt has a block of its own that is not full, and the fork a copy of it.
	_, err = h.Score(t.Context(), engine.ScoreRequest{Prompt: make([]int32, 40), Labels: [][]int32{{1}, {1, 2}}})
	refused("labels", err, engine.CacheError{Prompt: 40, Answer: 2, Needed: 3, Limit: 2})

	if _, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: make([]int32, 40), Labels: [][]int32{{1}, {2}}}); err != nil {
		t.Errorf("labels of one token need no fork: %v", err)
	}
	for _, most := range []int{0, 5} {
		a, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 60), MaxTokens: most})
		if err != nil || a.result.Tokens != 5 {
			t.Errorf("at most %d tokens: %d, %v; want the 5 that the cache leaves", most, a.result.Tokens, err)
		}
	}
	if _, err := engine.New(t.Context(), engine.Options{Base: h.base, Text: func() engine.TextStream { return nil }, CacheTokens: -1}); err == nil {
		t.Error("a cache of -1 tokens: no error")
	}
}

// TestDefaultCacheHoldsAFullBatch wants room for every slot at the whole
// context.
func TestDefaultCacheHoldsAFullBatch(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.MaxBatch = 3 })
	if got, least := h.CacheTokens(), 3*h.ContextLength(); got < least || got > 2*least {
		t.Errorf("the cache holds %d tokens, want %d and a little more", got, least)
	}
}

// TestLabelsAreScoredAlikeWithFewForks compares a cache with room for one fork
// with one for all.
func TestLabelsAreScoredAlikeWithFewForks(t *testing.T) {
	r := engine.ScoreRequest{Prompt: make([]int32, block+8)}
	for i := range int32(20) {
		r.Prompt[i] = 7 * i
		r.Labels = append(r.Labels, []int32{65 + i, 97, i, 4}[:2+i%3])
	}
	scores := map[int][]float64{}
	steps := map[int]int64{}
	for _, blocks := range []int{3, 5, 100} {
		h := start(t, func(o *engine.Options) { o.CacheTokens = blocks * block })
		var err error
		if scores[blocks], err = h.Score(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return h.Stats().Running == 0 })
		s := h.Stats()
		steps[blocks] = s.Steps
		// The prompt is in the prefix cache.
		if want := (engine.BlockStats{Total: blocks, Used: 2, Cached: 2}); s.Blocks != want {
			t.Errorf("blocks %+v, want %+v", s.Blocks, want)
		}
	}
	for blocks, got := range scores {
		if !slices.Equal(got, scores[100]) || math.IsNaN(got[0]) {
			t.Errorf("with %d blocks the scores are %v, want %v", blocks, got, scores[100])
		}
	}
	// One step for each wave, the first with the prompt.
	if steps[3] != 20 || steps[5] != 7 || steps[100] != 2 {
		t.Errorf("steps by blocks are %v, want 20, 7 and 2", steps)
	}
}

// TestKeptPromptsTakeTurnsAndGiveWay scores prompts of two wordings, which are
// both cached, and then asks for what needs their blocks.
func TestKeptPromptsTakeTurnsAndGiveWay(t *testing.T) {
	const blocks = 10
	h := start(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = blocks*block, nil })
	prompt := func(wording, last int32) []int32 {
		p := make([]int32, 2*block+5)
		for i := range p {
			p[i] = wording + int32(i)
		}
		p[len(p)-2] = last
		return p
	}
	score := func(p []int32) []float64 {
		t.Helper()
		s, err := h.Score(t.Context(), engine.ScoreRequest{Prompt: p, Labels: [][]int32{{1, 2}, {3}}})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return h.Stats().Running == 0 })
		return s
	}
	cached := func(hits int64, blocks int) {
		t.Helper()
		if s := h.Stats(); s.CachedTokens != hits || s.Blocks.Cached != blocks || s.Blocks.Used != blocks {
			t.Errorf("%d tokens were cached and %+v, want %d and %d blocks cached", s.CachedTokens, s.Blocks, hits, blocks)
		}
	}
	const common = 2*block + 3
	first := score(prompt(0, 200))
	cached(0, 3)
	score(prompt(100, 200))
	cached(0, 6)
	score(prompt(0, 201)) // Shares two whole blocks, and has the third for itself.
	cached(common, 7)
	score(prompt(100, 200)) // The same again: all but its last token.
	cached(common+2*block+4, 7)
	// Two blocks more than are free: the wording that was used longest ago leaves
	// first, and its third block alone is not enough.
	if _, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 4*block), MaxTokens: block}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	cached(common+2*block+4, 3)
	if again := score(prompt(0, 200)); !slices.Equal(first, again) {
		t.Errorf("a prompt that gave way gets %v, before it was %v", again, first)
	}
	cached(common+2*block+4, 6)
	if _, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, blocks*block), MaxTokens: 1}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	cached(common+2*block+4, 0)
	if s := h.Stats(); s.Failed != 0 {
		t.Errorf("%d requests failed", s.Failed)
	}
}

// TestKeptPromptsDoNotKeepWeights scores with a composed model, which must be
// collected once the set has no use for it.
func TestKeptPromptsDoNotKeepWeights(t *testing.T) {
	var composed weak.Pointer[model.Model]
	h := start(t, func(o *engine.Options) {
		o.Form = engine.FormMerged
		compose := o.Compose
		o.Compose = func(ctx context.Context, m engine.Mixture) (*model.Model, error) {
			made, err := compose(ctx, m)
			composed = weak.Make(made)
			return made, err
		}
	})
	r := engine.ScoreRequest{Mixture: h.expert(t, 1), Prompt: make([]int32, block), Labels: [][]int32{{1, 2}}}
	first, err := h.Score(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	h.Retain(engine.Set{})
	waitFor(t, func() bool {
		runtime.GC()
		return composed.Value() == nil
	})
	if n := h.Stats().Blocks.Cached; n != 1 {
		t.Errorf("%d blocks are cached, want the prompt's", n)
	}
	// It is composed anew, and what the other one has read is not taken for its own.
	again, err := h.Score(t.Context(), r)
	if err != nil || !slices.Equal(first, again) {
		t.Errorf("scores %v, %v; before they were %v", again, err, first)
	}
	if n := h.Stats().CachedTokens; n != 0 {
		t.Errorf("%d tokens of forgotten weights were taken from the cache", n)
	}
}
