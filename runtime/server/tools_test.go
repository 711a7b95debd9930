package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
)

// hermesTemplate shows tools and calls as Qwen's templates do, in little.
const hermesTemplate = `{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{% endfor %}{% if add_generation_prompt %}:{% endif %}`

// spellsAll has a token for every character that a prompt of these tests has, and those of an
// answer, which is said whatever the prompt is.
func spellsAll(t testing.TB, template string, answer ...string) checkpointtest.Script {
	t.Helper()
	more := []string{"<0x0A>", "▁"}
	for c := byte('!'); c <= '~'; c++ {
		more = append(more, string(rune(c)))
	}
	s := checkpointtest.Says(t, append([]string{":"}, answer...), more...)
	s.Template, s.Context = template, 4096
	return s
}

// weather is a tool.
var weather = fields{"type": "function", "function": fields{
	"name": "get_weather", "description": "Tells the weather.", "parameters": fields{
		"type": "object", "properties": fields{"city": fields{"type": "string"}}, "required": []string{"city"}, "additionalProperties": false,
	},
}}

// told is what a client reads of an answer that may have calls.
type told struct {
	content string
	calls   []toldCall
	finish  string
}

type toldCall struct{ id, name, arguments string }

// bothTold asks whole and streamed, and returns the answer, which but for ids must be the
// same.
func (h *house) bothTold(t testing.TB, body fields) told {
	t.Helper()
	whole, resp := h.ask(t, contract.PathChatCompletions, body)
	if resp.StatusCode != http.StatusOK || len(whole.Choices) != 1 {
		t.Fatalf("status %s: %+v", resp.Status, whole.Error)
	}
	c := whole.Choices[0]
	got := told{finish: *c.Finish, content: c.Message.Content}
	for _, call := range c.Message.Calls {
		if call.Type != "function" || call.ID == "" || call.Index != nil {
			t.Errorf("call %+v", call)
		}
		got.calls = append(got.calls, toldCall{call.ID, call.Function.Name, call.Function.Arguments})
	}
	body["stream"] = true
	chunks, done := h.stream(t, contract.PathChatCompletions, body)
	var streamed told
	for _, p := range chunks {
		for _, c := range p.Choices {
			if c.Finish != nil {
				streamed.finish = *c.Finish
			}
			streamed.content += c.Delta.Content
			for _, call := range c.Delta.Calls {
				switch n := len(streamed.calls); {
				case call.Index == nil:
					t.Fatalf("a piece of a call without index: %+v", call)
				case *call.Index == n:
					if call.ID == "" || call.Type != "function" || call.Function.Name == "" {
						t.Errorf("the first piece of a call is %+v", call)
					}
					streamed.calls = append(streamed.calls, toldCall{call.ID, call.Function.Name, call.Function.Arguments})
				case *call.Index == n-1 && call.ID == "" && call.Function.Name == "":
					streamed.calls[n-1].arguments += call.Function.Arguments
				default:
					t.Errorf("piece %+v behind %d calls", call, n)
				}
			}
		}
	}
	if !done || streamed.finish != got.finish || len(streamed.calls) != len(got.calls) {
		t.Fatalf("streamed %+v, whole %+v", streamed, got)
	}
	if streamed.content != got.content {
		t.Errorf("streamed %q, whole %q", streamed.content, got.content)
	}
	for i, call := range streamed.calls {
		if call.name != got.calls[i].name || call.arguments != got.calls[i].arguments {
			t.Errorf("streamed call %+v, whole %+v", call, got.calls[i])
		}
	}
	return got
}

func TestCallsOfToolsAreToldApartFromText(t *testing.T) {
	script := spellsAll(t, hermesTemplate, "▁Let", "▁me", "▁see.", "<0x0A>", "<tool_", "call>", `{"name": "get`, `_weather", "argu`, `ments": {"city": "Bon`, `n"}}`, "</tool_call>")
	h := act(t, script)
	got := h.bothTold(t, chatAfter("weather?", fields{"tools": []any{weather}}))
	if got.finish != "tool_calls" || got.content != "Let me see." ||
		len(got.calls) != 1 || got.calls[0].name != "get_weather" || got.calls[0].arguments != `{"city": "Bonn"}` || !strings.HasPrefix(got.calls[0].id, "call_") {
		t.Errorf("%+v", got)
	}
}
