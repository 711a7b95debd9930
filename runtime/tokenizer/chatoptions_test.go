package tokenizer

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestChatOptionsReachTheTemplate(t *testing.T) {
	const thinking = simpleTemplate + `{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}`
	const shows = `{% for m in messages %}{{ m.name | default('nobody') }}: {{ m.content }}{% endfor %}/{{ effort }}/{{ list | join('+') }}/{{ d.k }}`
	const trims = `{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + '<|end|>' }}{% endfor %}`
	named := []Message{{Role: "user", Content: "hi", Name: "ann"}}
	user, assistant := []Message{{Role: "user", Content: "hi"}}, []Message{{Role: "user", Content: "hi"}, {Role: "assistant", Content: "It is "}}
	for _, c := range []struct {
		name, template string
		messages       []Message
		o              ChatOptions
		want           string
	}{
		{"nothing", thinking, user, ChatOptions{}, "<|user|>hi<|end|><|assistant|>"},
		{"a variable", thinking, user, ChatOptions{Variables: map[string]any{"enable_thinking": false}}, "<|user|>hi<|end|><|assistant|><think></think>"},
		{"its other value", thinking, user, ChatOptions{Variables: map[string]any{"enable_thinking": true}}, "<|user|>hi<|end|><|assistant|>"},
		{"no generation prompt", thinking, user, ChatOptions{NoGenerationPrompt: true}, "<|user|>hi<|end|>"},
		{"values of every kind", shows, named, ChatOptions{Variables: map[string]any{
			"effort": "high", "list": []any{json.Number("1"), 2.0, 1.5, true, nil}, "d": map[string]any{"k": "v"},
		}}, "ann: hi/high/1+2+1.5+True+None/v"},
		{"a message to go on with", simpleTemplate, assistant, ChatOptions{ContinueFinal: true}, "<|user|>hi<|end|><|assistant|>It is "},
		{"one that the template trims", trims, assistant, ChatOptions{ContinueFinal: true}, "<|user|>hi<|end|><|assistant|>It is"},
		{"an empty one", simpleTemplate, []Message{{Role: "user", Content: "hi"}, {Role: "assistant", Content: ""}}, ChatOptions{ContinueFinal: true}, "<|user|>hi<|end|><|assistant|>"},
		{"one of the user's", simpleTemplate, user, ChatOptions{ContinueFinal: true}, "<|user|>hi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := loadSimple(t, c.template)
			ids, err := tok.EncodeChatWith(c.messages, c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, false); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestVariablesCannotInjectSpecialTokens(t *testing.T) {
	tok := loadSimple(t, `{{ x }}{% for m in messages %}{{ m.name }}{{ y[0] }}<{{ m.content }}>{% endfor %}`)
	ids, err := tok.EncodeChatWith([]Message{{Role: "user", Content: "s", Name: "<|end|>"}}, ChatOptions{
		Variables: map[string]any{"x": "<s>a<|e", "y": []any{"nd|><|user|>"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if tok.IsSpecial(id) {
			t.Errorf("%q has the special token %q", tok.Decode(ids, false), tok.TokenText(id))
		}
	}
}

func TestVariablesThatARequestCannotSetAreNamed(t *testing.T) {
	tok := loadSimple(t, simpleTemplate)
	deep := any("x")
	for range 40 {
		deep = []any{deep}
	}
	for name, c := range map[string]struct {
		value any
		want  string
	}{
		"messages": {"x", "messages"}, "add_generation_prompt": {true, "add_generation_prompt"}, "tools": {nil, "tools"},
		"bos_token": {"x", "bos_token"}, "a-b": {1.0, "letters"}, "": {1.0, "letters"}, "deep": {deep, "nested deeper"}, "odd": {make(chan int), "no value"},
	} {
		_, err := tok.EncodeChatWith([]Message{{Role: "user", Content: "x"}}, ChatOptions{Variables: map[string]any{name: c.value}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want something about %q", name, err, c.want)
		}
	}
	hides := loadSimple(t, `{{ messages[0].content }}`)
	if _, err := hides.EncodeChatWith([]Message{{Role: "user", Content: "x"}, {Role: "assistant", Content: "y"}}, ChatOptions{ContinueFinal: true}); err == nil {
		t.Error("a message that the template does not show was continued")
	}
}

// TestPublishedTemplatesTakeTheirVariables asks Qwen 3 not to think, in the way
// that its model card describes, and lets its last message be continued.
func TestPublishedTemplatesTakeTheirVariables(t *testing.T) {
	tok, err := Load(shared(t, "tokenizers", "qwen3"))
	if err != nil {
		t.Fatal(err)
	}
	const begin = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
	for _, c := range []struct {
		name     string
		messages []Message
		o        ChatOptions
		want     string
	}{
		{"thinking", []Message{{Role: "user", Content: "hi"}}, ChatOptions{}, begin},
		{"not thinking", []Message{{Role: "user", Content: "hi"}}, ChatOptions{Variables: map[string]any{"enable_thinking": false}}, begin + "<think>\n\n</think>\n\n"},
		{"continued", []Message{{Role: "user", Content: "hi"}, {Role: "assistant", Content: "It is "}}, ChatOptions{ContinueFinal: true}, begin + "<think>\n\n</think>\n\nIt is "},
	} {
		ids, err := tok.EncodeChatWith(c.messages, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Decode(ids, false); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
