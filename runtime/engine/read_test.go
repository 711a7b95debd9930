package engine_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
)

// TestReadingLeavesThePromptToTheAnswer reads prompts and then answers one of them by an
// expert that acts on answers alone: of its prompt all but the last token is there.
func TestReadingLeavesThePromptToTheAnswer(t *testing.T) {
	h := start(t, func(o *engine.Options) { o.StopTokens = nil })
	expert := h.answering(t, 1)[0]
	h.use(t, engine.Set{Mixtures: []engine.Mixture{expert}, Fixed: true})
	prompt := numbered(3, block+9)
	state, err := h.Read(t.Context(), engine.ReadRequest{Prompt: prompt})
	if err != nil {
		t.Fatal(err)
	}
	if len(state) != h.base.Config().HiddenSize || math.IsNaN(float64(state[0])) {
		t.Fatalf("a state of %d numbers, want %d", len(state), h.base.Config().HiddenSize)
	}
	again, err := h.Read(t.Context(), engine.ReadRequest{Prompt: prompt})
	if err != nil || !slices.Equal(again, state) {
		t.Errorf("read again, of the cache: other numbers, or %v", err)
	}
	other, err := h.Read(t.Context(), engine.ReadRequest{Prompt: numbered(4, block+9)})
	if err != nil || slices.Equal(other, state) {
		t.Errorf("another prompt gives the same state, or %v", err)
	}
	salted, err := h.Read(t.Context(), engine.ReadRequest{Prompt: prompt, Salt: "pepper"})
	if err != nil || !slices.Equal(salted, state) {
		t.Errorf("with a salt: other numbers, or %v", err)
	}
	a, err := h.ask(t.Context(), engine.Request{Mixture: expert, Prompt: prompt, MaxTokens: 3})
	if err != nil || a.result.CachedTokens != len(prompt)-1 {
		t.Errorf("%d of %d tokens were in the cache, %v", a.result.CachedTokens, len(prompt), err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if s := h.Stats(); s.Failed != 0 || s.Blocks.Used != s.Blocks.Cached {
		t.Errorf("%d failed, blocks %+v", s.Failed, s.Blocks)
	}
}

func TestReadRefusesWhatItCannotRead(t *testing.T) {
	h := start(t, nil)
	var tooLong *engine.ContextError
	if _, err := h.Read(t.Context(), engine.ReadRequest{Prompt: make([]int32, h.ContextLength())}); !errors.As(err, &tooLong) {
		t.Errorf("a prompt of the whole context: %v", err)
	}
	if _, err := h.Read(t.Context(), engine.ReadRequest{}); err == nil {
		t.Error("no prompt: no error")
	}
	if _, err := h.Read(t.Context(), engine.ReadRequest{Prompt: []int32{-1}}); err == nil {
		t.Error("a token that there is not: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Read(ctx, engine.ReadRequest{Prompt: []int32{1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that was given up: %v", err)
	}
}
