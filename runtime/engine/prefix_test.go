package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
)

// numbered returns n different tokens.
func numbered(from int32, n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = (from + 3*int32(i)) % 256
	}
	return tokens
}

// elsewhere asks n requests, one after another, of an engine of its own on the same volume,
// without stop tokens: so that h has read nothing of them.
func (h *house) elsewhere(t *testing.T, set engine.Set, n int, request func(i int) engine.Request) []answer {
	t.Helper()
	other := startOn(t, h.volume, func(o *engine.Options) { o.StopTokens = nil })
	other.use(t, set)
	answers := make([]answer, n)
	for i := range answers {
		var err error
		if answers[i], err = other.ask(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
	}
	return answers
}

// TestChoicesReadTheirPromptOnce asks for several answers to one prompt at a time,
// with and without an expert: the first of each kind reads the prompt, in several
// steps, and the others its last token.
func TestChoicesReadTheirPromptOnce(t *testing.T) {
	const choices, length = 5, 2*block + 5
	for _, most := range []int{1, 12} { // An answer of one token ends as soon as its prompt is read.
		t.Run(fmt.Sprintf("answers of %d tokens", most), func(t *testing.T) {
			h, next := gated(t, func(o *engine.Options) { o.StepTokens, o.StopTokens = block, nil })
			mixtures := []engine.Mixture{{}, h.expert(t, 1)}
			h.use(t, engine.Set{Mixtures: mixtures[1:]})
			request := func(i int) engine.Request {
				return engine.Request{
					Mixture: mixtures[i%2], Prompt: numbered(5, length), MaxTokens: most,
					Seed: uint64(i), Sampling: sample.Params{Temperature: 1},
				}
			}
			alone := h.elsewhere(t, engine.Set{Mixtures: mixtures[1:]}, 2*choices, request)
			answers, before := h.together(t, next, len(alone), request)
			for i, a := range answers {
				if !slices.Equal(a.tokens, alone[i].tokens) || a.result.PromptTokens != length {
					t.Errorf("choice %d is %v, alone %v; it counts %d tokens of the prompt", i, a.tokens, alone[i].tokens, a.result.PromptTokens)
				}
			}
			waitFor(t, func() bool { return h.Stats().Running == 0 })
			s := h.Stats()
			if read, want := s.PromptTokens-before.PromptTokens, int64(2*(length+choices-1)); read != want {
				t.Errorf("%d tokens of prompts were read, want %d", read, want)
			}
			if cached, want := s.CachedTokens-before.CachedTokens, int64(2*(choices-1)*(length-1)); cached != want {
				t.Errorf("%d tokens were cached, want %d", cached, want)
			}
			if s.Blocks.Used != s.Blocks.Cached || s.Blocks.Reserved != 0 {
				t.Errorf("an idle engine has blocks %+v", s.Blocks)
			}
		})
	}
}

// TestPromptsShareBeginnings asks for prompts of which two have most in common and
// the third little with both.
func TestPromptsShareBeginnings(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.StepTokens, o.StopTokens = block, nil })
	beginning := numbered(9, block+7)
	prompts := [][]int32{
		slices.Concat(beginning, numbered(100, 20)),
		slices.Concat(beginning, numbered(200, 30)),
		slices.Concat(beginning[:10], numbered(50, 40)),
	}
	request := func(i int) engine.Request { return engine.Request{Prompt: prompts[i], MaxTokens: 20} }
	alone := h.elsewhere(t, engine.Set{}, 3, request)
	answers, before := h.together(t, next, len(prompts), request)
	for i, a := range answers {
		if !slices.Equal(a.tokens, alone[i].tokens) {
			t.Errorf("answer %d is %v, alone %v", i, a.tokens, alone[i].tokens)
		}
	}
	// In whichever order they come, the first step's tokens all go to the first one:
	// the other kind finds ten tokens of it there, and the second of the two waits.
	if got, want := h.Stats().CachedTokens-before.CachedTokens, int64(len(beginning)+10); got != want {
		t.Errorf("%d tokens were cached, want %d", got, want)
	}
}

// TestAPatientPromptWaitsForLess asks for prompts that have a third in common, where all
// could be read in one step.
func TestAPatientPromptWaitsForLess(t *testing.T) {
	beginning := numbered(9, 20)
	prompts := [][]int32{slices.Concat(beginning, numbered(100, 40)), slices.Concat(beginning, numbered(200, 40)), slices.Concat(beginning[:10], numbered(50, 40))}
	for patient, want := range map[bool]int{false: 0, true: len(beginning)} {
		t.Run(fmt.Sprint(patient), func(t *testing.T) {
			h, next := gated(t, func(o *engine.Options) { o.Patient, o.StopTokens = patient, nil })
			request := func(i int) engine.Request { return engine.Request{Prompt: prompts[i], MaxTokens: 4} }
			alone := h.elsewhere(t, engine.Set{}, 3, request)
			answers, before := h.together(t, next, len(prompts), request)
			for i, a := range answers {
				if !slices.Equal(a.tokens, alone[i].tokens) {
					t.Errorf("answer %d is %v, alone %v", i, a.tokens, alone[i].tokens)
				}
			}
			if got := int(h.Stats().CachedTokens - before.CachedTokens); got != want {
				t.Errorf("%d tokens were cached, want %d", got, want)
			}
		})
	}
}

// cancelling is the text of an answer that gives up another at its n-th token.
type cancelling struct {
	engine.TextStream
	left   int
	cancel context.CancelFunc
}

func (c *cancelling) Push(id int32) string {
	if c.left--; c.left == 0 {
		c.cancel()
	}
	return c.TextStream.Push(id)
}

// TestAPromptGivenUpIsHandedOver cancels a request while another waits for the rest
// of its prompt.
func TestAPromptGivenUpIsHandedOver(t *testing.T) {
	const step, length = 8, 40
	h, next := gated(t, func(o *engine.Options) { o.StepTokens, o.StopTokens = step, nil })
	request := engine.Request{Prompt: numbered(5, length), MaxTokens: 10}
	alone := h.elsewhere(t, engine.Set{}, 1, func(int) engine.Request { return request })[0]
	before := h.Stats()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	next.Store(g)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := h.ask(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 30}); err != nil {
			t.Errorf("the request before: %v", err)
		}
	})
	<-g.reached
	// The loop is held up in g's first token. The one to be given up reads a step's
	// tokens with each of g's next ones.
	g.TextStream = &cancelling{TextStream: g.TextStream, left: 4 + 1, cancel: cancel}
	wg.Go(func() {
		if _, err := h.ask(ctx, request); !errors.Is(err, context.Canceled) {
			t.Errorf("the one given up: %v", err)
		}
	})
	waitFor(t, func() bool { return h.Stats().Waiting == 1 })
	wg.Go(func() {
		a, err := h.ask(t.Context(), request)
		if err != nil || !slices.Equal(a.tokens, alone.tokens) {
			t.Errorf("the one behind it got %v, %v; alone %v", a.tokens, err, alone.tokens)
		}
	})
	waitFor(t, func() bool { return h.Stats().Waiting == 2 })
	close(g.open)
	wg.Wait()
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	s := h.Stats()
	if cached := s.CachedTokens - before.CachedTokens; cached != 4*step {
		t.Errorf("%d tokens were handed over, want %d", cached, 4*step)
	}
	if s.Cancelled != 1 || s.Failed != 0 || s.Blocks.Used != s.Blocks.Cached {
		t.Errorf("%d were cancelled, %d failed, blocks %+v", s.Cancelled, s.Failed, s.Blocks)
	}
}
