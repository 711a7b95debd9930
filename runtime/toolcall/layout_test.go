package toolcall_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/toolcall"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

// follows reports whether a layout allows an answer, token by token, and then its end.
func follows(t *testing.T, tok *tokenizer.Tokenizer, v *constrain.Vocabulary, l constrain.Layout, answer []int32) bool {
	t.Helper()
	g, err := constrain.NewCompiler(v, constrain.Options{}).Layout(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	m := g.NewMatcher(tok.EOS())
	for _, token := range answer {
		if allowed, err := m.Allowed(); err != nil || !allowed.Allows(token) {
			return false
		}
		if err := m.Accept(token); err != nil {
			t.Fatal(err)
		}
	}
	return m.MayEnd()
}

// answerOf are the tokens that a template makes of an assistant's message, as training has
// shown them to the model.
func answerOf(t *testing.T, tok *tokenizer.Tokenizer, f *toolcall.Format, o toolcall.Offer, answer tokenizer.Message) []int32 {
	t.Helper()
	answer.Role = "assistant"
	question := []tokenizer.Message{{Role: "user", Content: "x"}}
	before, err := tok.EncodeChatWith(question, tokenizer.ChatOptions{Tools: o.Tools()})
	if err != nil {
		t.Fatal(err)
	}
	all, err := tok.EncodeChatWith(f.Prepare(append(question, answer)), tokenizer.ChatOptions{Tools: o.Tools(), NoGenerationPrompt: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < len(before) || !slices.Equal(all[:len(before)], before) {
		t.Fatalf("%q does not begin with %q", tok.Decode(all, false), tok.Decode(before, false))
	}
	all = all[len(before):]
	for i, token := range all {
		if slices.Contains(tok.EOS(), token) {
			return all[:i]
		}
	}
	return all
}

// TestLayoutsAllowWhatTemplatesShow writes calls as the template shows them, by the real
// vocabulary where there is one, and reads them as their parser does.
func TestLayoutsAllowWhatTemplatesShow(t *testing.T) {
	calls := []tokenizer.ToolCall{
		{ID: "abcdefgh1", Name: "get_weather", Arguments: json.RawMessage(`{"city": "Köln, \"Dom\"", "days": 2}`)},
		{ID: "abcdefgh2", Name: "now", Arguments: json.RawMessage(`{}`)},
	}
	strict := offer
	strict.Functions = slices.Clone(offer.Functions)
	strict.Functions[0].Strict = true
	for _, c := range []struct {
		name string
		tok  func(t *testing.T) *tokenizer.Tokenizer
		most int
	}{
		{"hermes", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["hermes"])
		}, 2},
		{"hermes, with special markers", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["hermes"], "<tool_call>", "</tool_call>")
		}, 2},
		{"llama", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["llama"])
		}, 1},
		{"qwen-coder", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["qwen-coder"])
		}, 2},
		{"qwen-coder, with special markers", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["qwen-coder"], "<tool_call>", "</tool_call>")
		}, 2},
		{"mistral-named", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["mistral-named"], "[TOOL_CALLS]", "[ARGS]")
		}, 2},
		{"mistral-ids", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["mistral-ids"], "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
		}, 2},
		{"mistral-ids, spelled", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			return model(t, toolcalltest.Templates["mistral-ids"])
		}, 2},
		{"Qwen 3", func(t *testing.T) *tokenizer.Tokenizer {
			t.Helper()
			tok, err := tokenizer.Load(shared(t, "tokenizers", "qwen3"))
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := c.tok(t)
			f, err := toolcall.Detect(tok)
			if err != nil {
				t.Fatal(err)
			}
			v := constrain.NewVocabulary(tok.VocabSize(), f.Spelling(tok))
			required := strict
			required.Required = true
			for n := 1; n <= c.most; n++ {
				answer := answerOf(t, tok, f, strict, tokenizer.Message{ToolCalls: calls[:n]})
				// Qwen 3 shows that it has thought nothing before the last answer.
				thought := slices.Index(answer, func() int32 { id, _ := tok.TokenID("</think>"); return id }())
				if thought >= 0 {
					answer = answer[thought+2:]
				}
				if !follows(t, tok, v, f.Layout(required, nil), answer) || !follows(t, tok, v, f.Layout(strict, nil), answer) {
					t.Errorf("the layout does not allow %q", tok.Decode(answer, false))
				}
				if one := required; n == 2 {
					one.Single = true
					if follows(t, tok, v, f.Layout(one, nil), answer) {
						t.Error("two calls are allowed where one is")
					}
				}
				stream := tok.NewStream().Showing(f.Shown())
				var text strings.Builder
				for _, token := range answer {
					text.WriteString(stream.Push(token))
				}
				text.WriteString(stream.Flush())
				got, parsed, _ := parse(t, f.NewParser(required, false), text.String(), 3)
				if got != "" || len(parsed) != n || parsed[0].Name != "get_weather" || parsed[0].Arguments != `{"city": "Köln, \"Dom\"", "days": 2}` {
					t.Errorf("%q is read as %q and %v", text.String(), got, parsed)
				}
			}
			words, err := tok.Encode("It rains, {really}.", false)
			if err != nil {
				t.Fatal(err)
			}
			if !follows(t, tok, v, f.Layout(strict, nil), words) || follows(t, tok, v, f.Layout(required, nil), words) {
				t.Error("text is not allowed where it should be, or the other way round")
			}
			wrong := answerOf(t, tok, f, strict, tokenizer.Message{ToolCalls: []tokenizer.ToolCall{{ID: "abcdefgh1", Name: "get_weather", Arguments: json.RawMessage(`{"city": "x", "days": "y"}`)}}})
			if follows(t, tok, v, f.Layout(strict, nil), wrong) {
				t.Errorf("%q is allowed", tok.Decode(wrong, false))
			}
		})
	}
}

// TestMistralsVocabularyFollowsCalls has the vocabulary of Mistral v3, whose marker is a
// special token, and the answers that mistral-common makes with it.
func TestMistralsVocabularyFollowsCalls(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile(shared(t, "tokenizers", "mistral-v3", "mistral_instruct_tokenizer_240323.model.v3"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"bos_token": "<s>", "eos_token": "</s>", "chat_template": toolcalltest.Templates["mistral"]})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"tokenizer.model": b, "tokenizer_config.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := toolcall.Detect(tok)
	if err != nil || f.Name() != "mistral" || len(f.Shown()) != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	v := constrain.NewVocabulary(tok.VocabSize(), f.Spelling(tok))
	marker, _ := tok.TokenID("[TOOL_CALLS]")
	var sample struct{ Tokens []int32 }
	b, err = os.ReadFile(shared(t, "tokenizers", "mistral-v3", "samples", "get_weather_full", "tokens_v3.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &sample); err != nil {
		t.Fatal(err)
	}
	// The first call that the conversation has.
	ids := sample.Tokens[slices.Index(sample.Tokens, marker):]
	ids = ids[:slices.Index(ids, tok.EOS()[0])]
	stream := tok.NewStream().Showing(f.Shown())
	var text strings.Builder
	for _, token := range ids {
		text.WriteString(stream.Push(token))
	}
	text.WriteString(stream.Flush())
	o := toolcall.Offer{Functions: []toolcall.Function{{Name: "get_current_weather"}}}
	got, calls, callIDs := parse(t, f.NewParser(o, false), text.String(), 5)
	if got != "" || len(calls) != 1 || calls[0].Name != "get_current_weather" || !strings.Contains(calls[0].Arguments, "Paris, France") || callIDs[0] != "123456789" {
		t.Errorf("%q is read as %q and %v", text.String(), got, calls)
	}
	// The layout leaves the id to the server.
	withoutID, err := tok.Encode(`[{"name": "get_current_weather", "arguments": {"location": "Paris, France", "format": "celsius"}}]`, false)
	if err != nil {
		t.Fatal(err)
	}
	o.Required, o.Functions[0].Parameters = true, json.RawMessage(`{"type":"object"}`)
	if answer := append([]int32{marker}, withoutID...); !follows(t, tok, v, f.Layout(o, nil), answer) {
		t.Errorf("the layout does not allow %q", tok.Decode(answer, false))
	}
	if follows(t, tok, v, f.Layout(o, nil), withoutID) {
		t.Error("the marker may be left out")
	}
	spelled, err := tok.Encode(`[TOOL_CALLS]`, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(spelled) > 1 && follows(t, tok, v, f.Layout(o, nil), append(spelled, withoutID...)) {
		t.Error("the marker may be spelled by other tokens")
	}
}
