package engine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
)

// compiler compiles schemas for the house's model.
func (h *house) compiler() *constrain.Compiler {
	v := constrain.NewVocabulary(h.base.Config().VocabSize, func(id int32) []byte {
		if h.tok.IsSpecial(id) {
			return nil
		}
		return h.tok.TokenBytes(id)
	})
	return constrain.NewCompiler(v, constrain.Options{})
}

// TestConstrainedAnswersThatGiveWayGoOn asks for answers of a structure at a time, for which
// there are blocks for less than two: they are what they are alone.
func TestConstrainedAnswersThatGiveWayGoOn(t *testing.T) {
	h, next := gated(t, func(o *engine.Options) { o.CacheTokens = 7 * block })
	const items = (4*block - 4) / 3 // Of two digits and a comma.
	g, err := h.compiler().Schema(t.Context(), fmt.Appendf(nil, `{"type":"array","items":{"type":"integer","minimum":10,"maximum":99},"minItems":%d,"maxItems":%[1]d}`, items))
	if err != nil {
		t.Fatal(err)
	}
	request := func(i int) engine.Request {
		return engine.Request{
			Prompt: numbered(int32(7*i), 9+i), MaxTokens: 5 * block, Seed: uint64(i), Logprobs: 2,
			Sampling: sample.Params{Temperature: 1, PresencePenalty: 0.5}, Constraint: g.NewMatcher(h.tok.EOS()),
		}
	}
	var alone [3]answer
	for i := range alone {
		if alone[i], err = h.ask(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
		var numbers []int
		if err := json.Unmarshal([]byte(alone[i].text), &numbers); err != nil || len(numbers) != items || alone[i].result.Finish != engine.FinishStop {
			t.Errorf("the answer is %q, %s: %v", alone[i].text, alone[i].result.Finish, err)
		}
	}
	answers, _ := h.together(t, next, len(alone), request)
	for i, a := range answers {
		if !slices.Equal(a.tokens, alone[i].tokens) || a.text != alone[i].text || !reflect.DeepEqual(a.probs, alone[i].probs) {
			t.Errorf("answer %d is %q, alone %q", i, a.text, alone[i].text)
		}
	}
	if s := h.Stats(); s.Preempted == 0 || s.Failed != 0 {
		t.Errorf("%d gave way and %d failed", s.Preempted, s.Failed)
	}
}

// TestStopTokensAreAllowedWhereTheTextMayEnd forces the stop token: a number may end with
// any digit, but not before the first.
func TestStopTokensAreAllowedWhereTheTextMayEnd(t *testing.T) {
	h := start(t, nil)
	g, err := h.compiler().Schema(t.Context(), []byte(`{"type":"integer","minimum":100}`))
	if err != nil {
		t.Fatal(err)
	}
	end := h.tok.EOS()[0]
	r := engine.Request{
		Prompt: h.tokens(t, "abc"), MaxTokens: 20, Logprobs: -1, Constraint: g.NewMatcher(h.tok.EOS()),
		Sampling: sample.Params{Bias: map[int32]float64{end: 100}},
	}
	got, err := h.ask(t.Context(), r)
	if err != nil || len(got.text) != 3 || got.result.StopToken != end || got.result.Finish != engine.FinishStop {
		t.Errorf("the answer is %q, %+v, %v: want three digits and the stop token", got.text, got.result, err)
	}
	r.Constraint, r.IgnoreStopTokens = g.NewMatcher(h.tok.EOS()), true
	if _, err := h.ask(t.Context(), r); err == nil {
		t.Error("a constraint whose end is ignored is taken")
	}
}

func TestAVocabularyThatCannotSpellTheSchemaFails(t *testing.T) {
	h := start(t, nil)
	v := constrain.NewVocabulary(h.base.Config().VocabSize, func(int32) []byte { return []byte("x") })
	g, err := constrain.NewCompiler(v, constrain.Options{}).Schema(t.Context(), []byte(`{"type":"null"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.ask(t.Context(), engine.Request{Prompt: h.tokens(t, "abc"), MaxTokens: 4, Logprobs: -1, Constraint: g.NewMatcher(h.tok.EOS())})
	if !errors.Is(err, constrain.ErrStuck) {
		t.Errorf("got %v", err)
	}
}
