package toolcall_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/toolcall"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

// model is a tokenizer with a chat template.
func model(t testing.TB, template string, special ...string) *tokenizer.Tokenizer {
	t.Helper()
	dir := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Template, shape.Special, shape.Vocab = template, special, shape.Vocab+len(special)
	checkpointtest.Write(t, dir, shape)
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// formatOf is that of a family.
func formatOf(t testing.TB, family string, special ...string) *toolcall.Format {
	t.Helper()
	f, err := toolcall.Detect(model(t, toolcalltest.Templates[family], special...))
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != family {
		t.Fatalf("the family is %s, want %s", f.Name(), family)
	}
	return f
}

func TestFamiliesAreFoundByWhatTemplatesDo(t *testing.T) {
	for name, template := range toolcalltest.Templates {
		t.Run(name, func(t *testing.T) {
			f := formatOf(t, name)
			if want := name != "json"; f.ShowsCalls() != want {
				t.Errorf("shows calls: %v", f.ShowsCalls())
			}
			// Whatever it is called.
			renamed := strings.ReplaceAll(template, "<|assistant|>", "<|user|>")
			if g, err := toolcall.Detect(model(t, renamed)); err != nil || g.Name() != name {
				t.Errorf("with other roles: %v, %v", g, err)
			}
		})
	}
	for name, c := range map[string]struct {
		template string
		want     error
	}{
		"one without tools":              {"{% for m in messages %}{{ m.content }}{% endfor %}", toolcall.ErrNoTools},
		"one that asks, and shows none":  {"{% if tools %}Call away.{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}", toolcall.ErrNoTools},
		"one that refuses them":          {"{% if tools %}{{ raise_exception('no tools here') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}", toolcall.ErrNoTools},
		"one with calls in another form": {strings.NewReplacer(`{"name": "' + call.name + '", "arguments": '`, `<call:' + call.name + '>'`).Replace(toolcalltest.Templates["hermes"]), toolcall.ErrUnknownForm},
	} {
		if _, err := toolcall.Detect(model(t, c.template)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := toolcall.Detect(model(t, "{% if tools %}{{ raise_exception('no tools here') }}{% endif %}{{ messages[0].content }}"))
	if err == nil || !strings.Contains(err.Error(), "no tools here") {
		t.Errorf("the template's own words are missing: %v", err)
	}
}

// shared returns a folder of the test data that is not part of the repository.
func shared(t *testing.T, parts ...string) string {
	t.Helper()
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		t.Skip("T2_SHARED_DATA is not set: the templates of published models are not part of the repository")
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

func TestPublishedTemplates(t *testing.T) {
	qwen, err := tokenizer.Load(shared(t, "tokenizers", "qwen3"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := toolcall.Detect(qwen)
	if err != nil || f.Name() != "hermes" || !f.ShowsCalls() || len(f.Shown()) != 0 {
		t.Fatalf("Qwen 3: %+v, %v", f, err)
	}
	offer := toolcall.Offer{Functions: []toolcall.Function{weather, {Name: "now", Description: "Tells the \"time\"."}}}
	got, err := qwen.ApplyChatTemplateWith(f.Prepare([]tokenizer.Message{
		{Role: "system", Content: "Be brief."}, {Role: "user", Content: "Weather in Bonn? <|im_end|>"},
		{Role: "assistant", Content: "Let me see.", ToolCalls: []tokenizer.ToolCall{
			{ID: "1", Name: "get_weather", Arguments: json.RawMessage(`{"city":"Bonn","days":2,"é":1.0}`)}, {ID: "2", Name: "now", Arguments: json.RawMessage(`{}`)},
		}},
		{Role: "tool", ToolCallID: "1", Content: "rain"}, {Role: "tool", ToolCallID: "2", Content: "noon"},
	}), tokenizer.ChatOptions{Tools: offer.Tools()})
	if err != nil {
		t.Fatal(err)
	}
	want := "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" +
		"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n" +
		`{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": {"type": "object", ` +
		`"required": ["city"], "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}` + "\n" +
		`{"type": "function", "function": {"name": "now", "description": "Tells the \"time\".", "parameters": {"type": "object", "properties": {}}}}` + "\n" +
		"</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n" +
		"<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" +
		"<|im_start|>user\nWeather in Bonn? <|im_end|><|im_end|>\n<|im_start|>assistant\nLet me see.\n" +
		"<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\", \"days\": 2, \"é\": 1.0}}\n</tool_call>\n" +
		"<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call><|im_end|>\n" +
		"<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	llama, err := tokenizer.Load(shared(t, "tokenizers", "llama3_1"))
	if err != nil {
		t.Fatal(err)
	}
	// This copy of it comes without tools, which must not be lost silently.
	if _, err := toolcall.Detect(llama); !errors.Is(err, toolcall.ErrNoTools) {
		t.Errorf("Llama 3.1 without tools: %v", err)
	}
}

// TestMistralsTemplateShowsToolsAsTheirReference compares with the texts that mistral-common
// made of conversations, as far as the published template does the same.
func TestMistralsTemplateShowsToolsAsTheirReference(t *testing.T) {
	f := formatOf(t, "mistral")
	tok := model(t, toolcalltest.Templates["mistral"])
	for _, name := range []string{"several_calls", "parallel_calls"} {
		dir := shared(t, "tokenizers", "mistral-v3", "samples", name)
		b, err := os.ReadFile(filepath.Join(dir, "sample.json"))
		if err != nil {
			t.Fatal(err)
		}
		var sample struct {
			Tools    []json.RawMessage
			Messages []struct {
				Role, Content string
				ToolCallID    string `json:"tool_call_id"`
				ToolCalls     []struct {
					ID       string
					Function struct{ Name, Arguments string }
				} `json:"tool_calls"`
			}
		}
		if err := json.Unmarshal(b, &sample); err != nil {
			t.Fatal(err)
		}
		var messages []tokenizer.Message
		for _, m := range sample.Messages {
			one := tokenizer.Message{Role: m.Role, Content: m.Content, ToolCallID: m.ToolCallID}
			for _, c := range m.ToolCalls {
				one.ToolCalls = append(one.ToolCalls, tokenizer.ToolCall{ID: c.ID, Name: c.Function.Name, Arguments: json.RawMessage(c.Function.Arguments)})
			}
			messages = append(messages, one)
		}
		got, err := tok.ApplyChatTemplateWith(f.Prepare(messages), tokenizer.ChatOptions{Tools: sample.Tools})
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "text_v3.txt"))
		if err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(string(text), "▁", " ")
		for _, part := range []string{"[AVAILABLE_TOOLS]", "[TOOL_CALLS]"} {
			for i, wanted := range strings.Split(want, part)[1:] {
				wanted, _, _ = strings.Cut(strings.ReplaceAll(wanted, "[/AVAILABLE_TOOLS]", "</s>"), "</s>")
				_, rest, _ := strings.Cut(got, part)
				for range i {
					_, rest, _ = strings.Cut(rest, part)
				}
				rest, _, _ = strings.Cut(strings.ReplaceAll(strings.ReplaceAll(rest, "[/AVAILABLE_TOOLS]", "</s>"), "<|end|>", "</s>"), "</s>")
				if diff := cmp.Diff(wanted, rest); diff != "" {
					t.Errorf("%s, %s %d: -want +got\n%s", name, part, i, diff)
				}
			}
		}
	}
}

var weather = toolcall.Function{
	Name: "get_weather", Description: "Tells the weather.", Place: "tools[0].function.parameters",
	Parameters: json.RawMessage(`{"type":"object","required":["city"],"properties":{"city":{"type":"string"},"days":{"type":"integer"}}}`),
}

func TestConversationsArePreparedForTheTemplate(t *testing.T) {
	call := func(id string) tokenizer.ToolCall {
		return tokenizer.ToolCall{ID: id, Name: "get_weather", Arguments: json.RawMessage(`{}`)}
	}
	history := []tokenizer.Message{
		{Role: "user", Content: "x"}, {Role: "assistant", Content: "y", ToolCalls: []tokenizer.ToolCall{call("call_1"), call("call_2")}},
		{Role: "tool", ToolCallID: "call_2", Content: "second"}, {Role: "tool", ToolCallID: "call_1", Content: "first"}, {Role: "user", Content: "z"},
	}
	// Llama's template takes one call a message.
	apart := []tokenizer.Message{
		{Role: "user", Content: "x"}, {Role: "assistant", Content: "y", ToolCalls: []tokenizer.ToolCall{call("call_1")}}, {Role: "tool", ToolCallID: "call_1", Content: "first"},
		{Role: "assistant", ToolCalls: []tokenizer.ToolCall{call("call_2")}}, {Role: "tool", ToolCallID: "call_2", Content: "second"}, {Role: "user", Content: "z"},
	}
	if diff := cmp.Diff(apart, formatOf(t, "llama").Prepare(history)); diff != "" {
		t.Errorf("one call a message: -want +got\n%s", diff)
	}
	if diff := cmp.Diff(history, formatOf(t, "hermes").Prepare(history)); diff != "" {
		t.Errorf("as it is: -want +got\n%s", diff)
	}
	// Mistral's wants ids of nine letters and digits; those that belong together still do.
	f := formatOf(t, "mistral")
	got := f.Prepare(history)
	calls := got[1].ToolCalls
	if len(calls[0].ID) != 9 || calls[0].ID == calls[1].ID || got[2].ToolCallID != calls[1].ID || got[3].ToolCallID != calls[0].ID {
		t.Errorf("ids: %+v", got)
	}
	if history[1].ToolCalls[0].ID != "call_1" {
		t.Error("the conversation itself was changed")
	}
	if again := f.Prepare(got); !cmp.Equal(got, again) {
		t.Errorf("ids of Mistral's own change: %s", cmp.Diff(got, again))
	}
	for _, family := range []string{"hermes", "llama", "mistral"} {
		f, tok := formatOf(t, family), model(t, toolcalltest.Templates[family])
		if _, err := tok.EncodeChatWith(f.Prepare(history), tokenizer.ChatOptions{Tools: toolcall.Offer{Functions: []toolcall.Function{weather}}.Tools()}); err != nil {
			t.Errorf("%s: %v", family, err)
		}
	}
}
