package engine_test

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
)

// upper is a text stream of a request's own.
type upper struct{ pushed []int32 }

func (u *upper) Push(id int32) string {
	u.pushed = append(u.pushed, id)
	return "X"
}

func (*upper) Flush() string { return "!" }

func TestARequestMayHaveATextOfItsOwn(t *testing.T) {
	h := start(t, nil)
	own := &upper{}
	got, err := h.ask(t.Context(), engine.Request{Prompt: h.tokens(t, "abc"), MaxTokens: 3, Logprobs: -1, Text: own, IgnoreStopTokens: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.text != "XXX!" || !slices.Equal(own.pushed, got.tokens) {
		t.Errorf("text %q of %v, pushed %v", got.text, got.tokens, own.pushed)
	}
}

func TestStopTokensCanBeIgnored(t *testing.T) {
	h := start(t, nil)
	end := h.tok.EOS()[0]
	forced := sample.Params{Bias: map[int32]float64{end: 100}}
	r := engine.Request{Prompt: h.tokens(t, "abc"), MaxTokens: 4, Logprobs: -1, Sampling: forced}
	stopped, err := h.ask(t.Context(), r)
	if err != nil || stopped.result.StopToken != end || len(stopped.tokens) != 0 {
		t.Errorf("answer %+v, %v, want one that ends at once", stopped, err)
	}
	r.IgnoreStopTokens = true
	on, err := h.ask(t.Context(), r)
	if err != nil || on.result.Finish != engine.FinishLength || !slices.Equal(on.tokens, []int32{end, end, end, end}) {
		t.Errorf("answer %+v, %v, want four of token %d", on, err, end)
	}
}

func TestRepetitionPenaltiesKnowThePrompt(t *testing.T) {
	h := start(t, nil)
	r := engine.Request{Prompt: h.tokens(t, "abc"), MaxTokens: 1, Logprobs: -1, IgnoreStopTokens: true}
	// A prompt that has the token which follows it.
	for range 250 {
		plain, err := h.ask(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(r.Prompt, plain.tokens[0]) {
			break
		}
		r.Prompt = append(plain.tokens, r.Prompt...)
	}
	plain, err := h.ask(t.Context(), r)
	if err != nil || !slices.Contains(r.Prompt, plain.tokens[0]) {
		t.Fatalf("the prompt %v has not its answer %v, %v", r.Prompt, plain.tokens, err)
	}
	r.Sampling.RepetitionPenalty = sample.MaxRepetition
	got, err := h.ask(t.Context(), r)
	if err != nil || slices.Contains(r.Prompt, got.tokens[0]) {
		t.Errorf("the answer is %v, %v, and the prompt has it: %v", got.tokens, err, r.Prompt)
	}
}
