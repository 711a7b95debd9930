package engine_test

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
)

// TestWhatASetBeginsWithStays takes a set into use with and without saying what questions will
// begin with, and counts what is cached of a question: at once, after so many other prompts
// that all else has been evicted, and after another set.
func TestWhatASetBeginsWithStays(t *testing.T) {
	const blocks = 12
	beginning := numbered(11, 3*block+5)
	question := func(i int) engine.ScoreRequest {
		return engine.ScoreRequest{Prompt: slices.Concat(beginning, numbered(int32(60+40*i), 20)), Labels: [][]int32{{1, 2}, {3}}}
	}
	for name, c := range map[string]struct {
		says           bool
		first, flooded int
	}{
		"said":     {says: true, first: len(beginning), flooded: 3 * block},
		"not said": {},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(o *engine.Options) { o.CacheTokens, o.StopTokens = blocks*block, nil })
			idle := func() {
				t.Helper()
				waitFor(t, func() bool { s := h.Stats(); return s.Running == 0 && s.Waiting == 0 })
			}
			set := engine.Set{Mixtures: []engine.Mixture{h.expert(t, 1)}}
			if c.says {
				set.Beginnings = []engine.Beginning{{Tokens: beginning}}
			}
			h.use(t, set)
			if c.says {
				waitFor(t, func() bool { return h.Stats().PromptTokens == int64(len(beginning)) })
			}
			idle()
			ask := func(i int) (scores []float64, cached int) {
				t.Helper()
				before := h.Stats().CachedTokens
				scores, err := h.Score(t.Context(), question(i))
				if err != nil {
					t.Fatal(err)
				}
				idle()
				return scores, int(h.Stats().CachedTokens - before)
			}
			flood := func() {
				t.Helper()
				for i := range int32(2 * blocks) {
					prompt := numbered(0, 2*block)
					prompt[0], prompt[1] = 7*i, i
					if _, err := h.ask(t.Context(), engine.Request{Prompt: prompt, MaxTokens: 1}); err != nil {
						t.Fatal(err)
					}
				}
				idle()
			}
			first, cached := ask(0)
			if cached != c.first {
				t.Errorf("%d tokens of the first question were cached, want %d", cached, c.first)
			}
			flood()
			again, cached := ask(0)
			if cached != c.flooded {
				t.Errorf("%d tokens were cached after many other prompts, want %d", cached, c.flooded)
			}
			if !slices.Equal(again, first) {
				t.Errorf("the same question has the scores %v and then %v", first, again)
			}
			// It takes no room from anyone.
			if _, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, block*blocks-2), MaxTokens: 2}); err != nil {
				t.Errorf("a request as large as the cache: %v", err)
			}
			idle()
			if b := h.Stats().Blocks; b.Used != b.Cached || b.Reserved != 0 {
				t.Errorf("an idle engine has blocks %+v", b)
			}
			ask(0)
			h.use(t, engine.Set{Mixtures: set.Mixtures})
			flood()
			if _, cached := ask(0); cached != 0 {
				t.Errorf("%d tokens were cached after many other prompts beside another set, want none", cached)
			}
		})
	}
}
