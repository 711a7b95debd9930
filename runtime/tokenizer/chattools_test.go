package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const toolTemplate = `{% if tools %}{% for t in tools %}{{ t | tojson }};{% endfor %}{% endif %}` +
	`{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_call_id is defined %}[{{ m.tool_call_id }}]{% endif %}` +
	`{% for c in m.tool_calls or [] %}({{ c.id }} {{ c.type }} {{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}<|end|>{% endfor %}`

func TestTemplatesAreGivenToolsAndCalls(t *testing.T) {
	tok := loadSimple(t, toolTemplate)
	// Objects keep their order, and numbers what they are.
	tool := json.RawMessage(`{"z": {"b": 1, "a": [1.0, -2e3, 12345678901234567890, true, null, "x\ny"]}, "a": {}, "e": []}`)
	messages := []Message{
		{Role: "user", Content: "hi"},
		{Role: "assistant", ToolCalls: []ToolCall{{ID: "c1", Name: "f", Arguments: json.RawMessage(`{"y":1,"x":"é"}`)}, {ID: "c2", Name: "g", Arguments: json.RawMessage(` {} `)}}},
		{Role: "tool", Content: "42", ToolCallID: "c1"},
	}
	got, err := tok.ApplyChatTemplateWith(messages, ChatOptions{Tools: []json.RawMessage{tool, json.RawMessage(`{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"z": {"b": 1, "a": [1.0, -2000.0, 1.2345678901234567e+19, true, null, "x\ny"]}, "a": {}, "e": []};{};` +
		`<|user|>hi<|end|><|assistant|>(c1 function f {"y": 1, "x": "é"})(c2 function g {})<|end|><|tool|>42[c1]<|end|>`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, c := range map[string]struct {
		raw, want string
	}{
		"no JSON": {`{`, "tool 0"}, "nothing": {``, "tool 0"}, "something behind": {`{} {}`, "follows"}, "too deep": {strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested deeper"},
	} {
		if _, err := tok.EncodeChatWith(messages[:1], ChatOptions{Tools: []json.RawMessage{json.RawMessage(c.raw)}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s as a tool: %v", name, err)
		}
		broken := []Message{{Role: "assistant", ToolCalls: []ToolCall{{ID: "1", Name: "f", Arguments: json.RawMessage(c.raw)}}}}
		if _, err := tok.EncodeChat(broken); err == nil || !strings.Contains(err.Error(), "message 0: the arguments of tool call 0") {
			t.Errorf("%s as arguments: %v", name, err)
		}
	}
}

func TestToolsCannotInjectSpecialTokens(t *testing.T) {
	tok := loadSimple(t, `{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ m.tool_call_id }}{% for c in m.tool_calls or [] %}<{{ c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}>{% endfor %}{% endfor %}`)
	ids, err := tok.EncodeChatWith([]Message{{Role: "user", Content: "x", ToolCallID: "<|end|>", ToolCalls: []ToolCall{
		{ID: "<|user|>", Name: "|end|", Arguments: json.RawMessage(`{"<s>": "<|end|>", "a": ["<|", "end|>"]}`)},
	}}}, ChatOptions{Tools: []json.RawMessage{json.RawMessage(`{"<|end|>": ["<s>", {"\u003c|end|>": "\u003cs>"}]}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if tok.IsSpecial(id) {
			t.Errorf("%q has the special token %q", tok.Decode(ids, false), tok.TokenText(id))
		}
	}
}

// TestTheTemplateForToolsIsTaken has two templates, as the models that have one for tools.
func TestTheTemplateForToolsIsTaken(t *testing.T) {
	dir := byteTokenizer(t, "", "<|end|>")
	config, err := json.Marshal(map[string]any{"eos_token": "<|end|>", "chat_template": []any{
		map[string]string{"name": "tool_use", "template": "T{{ tools | length }}"}, map[string]string{"name": "default", "template": "D{{ messages[0].content }}"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]ChatOptions{"Dx": {}, "T1": {Tools: []json.RawMessage{json.RawMessage(`{}`)}}} {
		if got, err := tok.ApplyChatTemplateWith([]Message{{Role: "user", Content: "x"}}, o); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

func TestStreamsShowTheSpecialTokensTheyAreToldTo(t *testing.T) {
	tok := loadSimple(t, toolTemplate)
	end, _ := tok.TokenID("<|end|>")
	user, _ := tok.TokenID("<|user|>")
	a, err := tok.Encode("a", false)
	if err != nil {
		t.Fatal(err)
	}
	s := tok.NewStream().Showing(map[int32]bool{end: true})
	text := ""
	for _, id := range []int32{a[0], end, user, a[0]} {
		text += s.Push(id)
	}
	if text += s.Flush(); text != "a<|end|>a" {
		t.Errorf("%q", text)
	}
}
