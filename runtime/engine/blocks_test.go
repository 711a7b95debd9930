package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"weak"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

const block = model.BlockSize

// TestOneThatNeedsManyBlocksIsOvertakenSoOften holds up an answer that leaves a third of
// the blocks. One that needs all waits, and lets as many pass as the batch has places;
// then the next one waits behind it, though there would be room.
func TestOneThatNeedsManyBlocksIsOvertakenSoOften(t *testing.T) {
	const places = 3
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens, o.MaxBatch = 6*block, nil, places })
	var wg sync.WaitGroup
	var order []string
	var mu sync.Mutex
	ask := func(name string, prompt, waiting int) {
		wg.Go(func() {
			a, err := h.ask(t.Context(), engine.Request{Prompt: numbered(int32(prompt), prompt*block-1), MaxTokens: 2})
			if err != nil || len(a.tokens) != 2 {
				t.Errorf("%s: %d tokens, %v", name, len(a.tokens), err)
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
		})
		waitFor(t, func() bool { return h.Stats().Waiting == waiting })
	}
	first := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(first)
	ask("first", 4, 0)
	<-first.reached
	ask("large", 6, 1)
	for i := range places + 1 {
		ask(fmt.Sprint("small ", i), 1, 2+i)
	}
	close(first.open)
	wg.Wait()
	large := slices.Index(order, "large")
	if large < 2 || large == len(order)-1 || order[len(order)-1] != fmt.Sprint("small ", places) {
		t.Errorf("they ended in the order %q; want the large one behind some, and the last one behind it", order)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if p := h.Stats().Blocks; p.Used != p.Cached || p.Reserved != 0 {
		t.Errorf("blocks %+v, want none to be used but by the prefix cache", p)
	}
}

// TestTheYoungestGivesWay asks for three long answers at a time, for which there are
// blocks for less than two. They are admitted together, as their prompts are short; those
// that give way go on to the same tokens, likelihoods and texts as alone, and are counted.
func TestTheYoungestGivesWay(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = 7*block, nil })
	mixtures := append(h.experts(t, 2), engine.Mixture{})
	h.use(t, engine.Set{Mixtures: mixtures[:2]})
	request := func(i int) engine.Request {
		return engine.Request{
			Mixture: mixtures[i], Prompt: numbered(int32(7*i), 9+i), MaxTokens: 4*block - 3, Seed: uint64(i), Logprobs: 2,
			Sampling: sample.Params{Temperature: 1, PresencePenalty: 0.5, FrequencyPenalty: 0.5},
		}
	}
	var alone [3]answer
	for i := range alone {
		var err error
		if alone[i], err = h.ask(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Stats().Preempted; n != 0 {
		t.Errorf("%d gave way to nobody", n)
	}
	answers, _ := h.together(t, next, len(alone), request)
	for i, a := range answers {
		if !slices.Equal(a.tokens, alone[i].tokens) || a.text != alone[i].text || !reflect.DeepEqual(a.probs, alone[i].probs) {
			t.Errorf("answer %d differs from what it is alone", i)
		}
		if a.result.PromptTokens != 9+i || a.result.Tokens != 4*block-3 || a.result.CachedTokens > 9+i {
			t.Errorf("answer %d counts %+v", i, a.result)
		}
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if s := h.Stats(); s.Preempted == 0 || s.Failed != 0 || s.Blocks.Used != s.Blocks.Cached {
		t.Errorf("%d gave way, %d failed, blocks %+v", s.Preempted, s.Failed, s.Blocks)
	}
}

// TestScoresGiveWayToOlderAnswers scores labels while an answer that came before takes
// the last blocks.
func TestScoresGiveWayToOlderAnswers(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens, o.StepTokens = 7*block, nil, 1 })
	r := engine.ScoreRequest{Prompt: numbered(3, 3*block+5)}
	for i := range int32(6) {
		r.Labels = append(r.Labels, []int32{i, 7, 9})
	}
	want, err := h.Score(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	// Its blocks leave the prefix cache, so that it is read anew, a token in a step.
	if _, err := h.ask(t.Context(), engine.Request{Prompt: numbered(90, 7*block), MaxTokens: 1}); err != nil {
		t.Fatal(err)
	}
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(g)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1, 2, 3}, MaxTokens: 5 * block}); err != nil {
			t.Errorf("the answer: %v", err)
		}
	})
	<-g.reached
	wg.Go(func() {
		got, err := h.Score(t.Context(), r)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("scores %v, %v; alone %v", got, err, want)
		}
	})
	waitFor(t, func() bool { return h.Stats().Waiting == 1 })
	close(g.open)
	wg.Wait()
	if s := h.Stats(); s.Preempted == 0 || s.Failed != 0 {
		t.Errorf("%d gave way and %d failed", s.Preempted, s.Failed)
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
	const ofLabels = 24 * 2 * block
	if got, least := h.CacheTokens(), 3*h.ContextLength()+ofLabels; got < least || got > 2*least {
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
		if want := (engine.BlockStats{Total: blocks, Used: 2, Cached: 2, Idle: 2}); s.Blocks != want {
			t.Errorf("blocks %+v, want %+v", s.Blocks, want)
		}
	}
	for blocks, got := range scores {
		if !slices.Equal(got, scores[100]) || math.IsNaN(got[0]) {
			t.Errorf("with %d blocks the scores are %v, want %v", blocks, got, scores[100])
		}
	}
	// One step for each wave, the first with the prompt.
	if steps[3] != 20 || steps[5] != 7 || steps[100] != 1 {
		t.Errorf("steps by blocks are %v, want 20, 7 and 1", steps)
	}
}

// TestWhatWasUsedLongestAgoIsEvicted scores prompts of two wordings, which are both
// cached, and then asks for what needs their blocks.
func TestWhatWasUsedLongestAgoIsEvicted(t *testing.T) {
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
	// Two blocks more than are free: of the wording that was used longest ago the ends
	// leave, the older first, and the beginning stays.
	large := numbered(77, 4*block+9)
	if _, err := h.ask(t.Context(), engine.Request{Prompt: large, MaxTokens: 2}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	cached(common+2*block+4, blocks)
	if again := score(prompt(0, 200)); !slices.Equal(first, again) {
		t.Errorf("a prompt that was evicted gets %v, before it was %v", again, first)
	}
	cached(common+2*block+4+2*block, blocks-1) // A label took one for a while.
	// One that needs all: it goes on in the middle of a block of the one before, of which
	// there is no room for a copy.
	all := slices.Concat(large[:4*block+5], numbered(1, blocks*block-4*block-5))
	if _, err := h.ask(t.Context(), engine.Request{Prompt: all, MaxTokens: 1}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if s := h.Stats(); s.Failed != 0 || s.Preempted != 0 || s.Blocks.Used != blocks || s.Blocks.Cached != blocks {
		t.Errorf("%d requests failed, %d gave way, blocks %+v", s.Failed, s.Preempted, s.Blocks)
	}
}

// TestCachedPromptsDoNotKeepWeights scores with a composed model, which must be
// collected once the set has no use for it. Composed anew it finds what it has read
// before: its weights are the same.
func TestCachedPromptsDoNotKeepWeights(t *testing.T) {
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
	again, err := h.Score(t.Context(), r)
	if err != nil || !slices.Equal(first, again) {
		t.Errorf("scores %v, %v; before they were %v", again, err, first)
	}
	if n := h.Stats().CachedTokens; n != block-1 {
		t.Errorf("%d tokens of the prompt were in the cache, want %d", n, block-1)
	}
	// Another expert, and the base, have read nothing.
	for _, m := range []engine.Mixture{{}, h.expert(t, 2)} {
		r.Mixture = m
		if _, err := h.Score(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Stats().CachedTokens; n != block-1 {
		t.Errorf("%d tokens were taken from the cache, %d of them of other weights", n, n-block+1)
	}
}
