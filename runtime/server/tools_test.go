package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

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
	rest := []string{`{"name": "get`, `_weather", "argu`, `ments": {"city": "Bon`, `n"}}`}
	for _, c := range []struct {
		name, family, text string
		special, said      []string
	}{
		{"behind text", "hermes", "Let me see.", nil, slices.Concat([]string{"▁Let", "▁me", "▁see.", "<0x0A>", "<tool_", "call>"}, rest, []string{"</tool_call>"})},
		{"by special tokens", "hermes", "", []string{"<tool_call>", "</tool_call>"}, slices.Concat([]string{"<tool_call>", "<0x0A>"}, rest, []string{"</tool_call>"})},
		{"in a list behind a special token", "mistral", "Well.", []string{"[TOOL_CALLS]"}, slices.Concat([]string{"▁Well.", "[TOOL_CALLS]", "▁["}, rest, []string{"]"})},
		{"as all of the answer", "llama", "", nil, rest},
		{"behind a special token that is none of the answer", "llama", "", []string{"<|python_tag|>"}, append([]string{"<|python_tag|>"}, rest...)},
	} {
		t.Run(c.family+" "+c.name, func(t *testing.T) {
			script := spellsAll(t, toolcalltest.Templates[c.family]+":", c.said...)
			script.Special = c.special
			h := act(t, script)
			got := h.bothTold(t, chatAfter("weather?", fields{"tools": []any{weather}}))
			if got.finish != "tool_calls" || got.content != c.text || len(got.calls) != 1 || got.calls[0].name != "get_weather" || got.calls[0].arguments != `{"city": "Bonn"}` {
				t.Errorf("%+v", got)
			}
			// Where nothing is offered nothing is called.
			if got := h.bothTold(t, chatAfter("weather?", nil)); got.finish != "stop" || len(got.calls) > 0 || !strings.Contains(got.content, `"get_weather"`) {
				t.Errorf("without tools: %+v", got)
			}
			// What is no call of theirs stays text.
			other := fields{"type": "function", "function": fields{"name": "now"}}
			if got := h.bothTold(t, chatAfter("weather?", fields{"tools": []any{other}})); got.finish != "stop" || len(got.calls) > 0 || !strings.Contains(got.content, `"get_weather"`) {
				t.Errorf("with another tool: %+v", got)
			}
		})
	}
}

// babble is a server on a tiny model of random weights that has a family's template; there is
// demo:base. A token is a byte.
func babble(t testing.TB, family string, special ...string) *house {
	t.Helper()
	dir := t.TempDir()
	shape := checkpointtest.Tiny()
	shape.Template, shape.Special, shape.Context, shape.Vocab = toolcalltest.Templates[family], special, 4096, shape.Vocab+len(special)
	checkpointtest.Write(t, dir, shape)
	return serve(t, dir)
}

// tools are two with schemas of which random answers soon come to an end.
const (
	ticketTool = `{"type":"function","function":{"name":"file_ticket","strict":true,"description":"Files a \"ticket\".","parameters":` + ticket + `}}`
	switchTool = `{"type":"function","function":{"name":"switch","parameters":{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"]}}}`
	switchName = `{"type":"function","function":{"name":"switch"}}`
	nowTool    = `{"type":"function","function":{"name":"now"}}`
)

// offered asks a random model with tools.
func offered(tools string, more string) string {
	return fmt.Sprintf(`{"model":"demo:base","messages":[{"role":"user","content":"x"}],"temperature":1.2,"max_tokens":600,"tools":[%s]%s}`, tools, more)
}

// argumentsOf are validators of the tools' arguments.
func argumentsOf(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	_, file := schemaOf(t, ticket)
	_, on := schemaOf(t, `{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"],"additionalProperties":false}`)
	_, none := schemaOf(t, `{"type":"object","maxProperties":0}`)
	return map[string]*jsonschema.Schema{"file_ticket": file, "switch": on, "now": none}
}

// TestDemandedCallsAreMadeAndValidate asks models of random weights for calls, which they
// would never make by themselves.
func TestDemandedCallsAreMadeAndValidate(t *testing.T) {
	validators := argumentsOf(t)
	answers, called := 0, map[string]int{}
	choices, least := 12, 200
	if testing.Short() { // The race detector makes ten times as much of it.
		choices, least = 2, 30
	}
	for _, family := range []struct {
		name    string
		special []string
	}{{"hermes", nil}, {"hermes", []string{"<tool_call>", "</tool_call>"}}, {"mistral", []string{"[TOOL_CALLS]"}}, {"llama", nil}, {"json", nil},
		{"mistral-ids", []string{"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}}, {"mistral-named", nil}, {"qwen-coder", nil}, {"qwen-coder", []string{"<tool_call>", "</tool_call>"}}} {
		h := babble(t, family.name, family.special...)
		for _, c := range []struct {
			choice string
			only   string
			most   int
		}{
			{`,"tool_choice":"required"`, "", 100},
			{`,"tool_choice":"required","parallel_tool_calls":false`, "", 1},
			{`,"tool_choice":{"type":"function","function":{"name":"file_ticket"}}`, "file_ticket", 1},
			{`,"tool_choice":{"type":"function","function":{"name":"now"}}`, "now", 1},
		} {
			got, resp := h.ask(t, contract.PathChatCompletions, offered(ticketTool+","+switchTool+","+nowTool, c.choice+fmt.Sprintf(`,"n":%d,"seed":3`, choices)))
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s%s: %+v", family.name, c.choice, got.Error)
			}
			for _, choice := range got.Choices {
				if *choice.Finish == "length" {
					continue // A random model need not come to an end.
				}
				answers++
				calls := choice.Message.Calls
				if *choice.Finish != "tool_calls" || choice.Message.Content != "" || len(calls) == 0 || len(calls) > c.most {
					t.Errorf("%s%s: %s, %q, %d calls", family.name, c.choice, *choice.Finish, choice.Message.Content, len(calls))
				}
				for _, call := range calls {
					called[call.Function.Name]++
					if nine := len(call.ID) == 9; nine != strings.HasPrefix(family.name, "mistral") || c.only != "" && call.Function.Name != c.only {
						t.Errorf("%s%s: call %+v", family.name, c.choice, call)
					}
					v, err := jsonschema.UnmarshalJSON(strings.NewReader(call.Function.Arguments))
					if err == nil {
						err = validators[call.Function.Name].Validate(v)
					}
					if err != nil {
						t.Errorf("%s%s: %s(%s): %v", family.name, c.choice, call.Function.Name, call.Function.Arguments, err)
					}
				}
			}
		}
	}
	if answers < least || len(called) != 3 {
		t.Errorf("%d answers came to an end, with calls of %v", answers, called)
	}
}

// TestDemandedCallsAreStreamed holds the pieces against the whole.
func TestDemandedCallsAreStreamed(t *testing.T) {
	seeds := 3
	if testing.Short() {
		seeds = 1
	}
	for _, family := range []string{"hermes", "mistral", "mistral-ids", "qwen-coder", "llama", "json"} {
		h := babble(t, family)
		for seed := range seeds {
			body := fields{
				"model": "demo:base", "messages": []fields{{"role": "user", "content": "x"}}, "temperature": 1.2, "seed": seed, "max_tokens": 600,
				"tools": []any{weather, fields{"type": "function", "function": fields{"name": "now"}}}, "tool_choice": "required",
			}
			got := h.bothTold(t, body)
			if got.content != "" || got.finish == "stop" {
				t.Errorf("%s: %+v", family, got)
			}
			// Cut off within the arguments, or before: no markup is text.
			delete(body, "stream")
			body["max_tokens"] = 10 + 20*seed
			if cut := h.bothTold(t, body); cut.content != "" || cut.finish != "length" {
				t.Errorf("%s, cut: %+v", family, cut)
			}
		}
	}
}

// TestTextsOfStopThatCutACallSaySo has texts of stop within a call, which would break who makes
// every call of an answer that says tool_calls, and behind its arguments.
func TestTextsOfStopThatCutACallSaySo(t *testing.T) {
	for family, behind := range map[string]string{"hermes": "</tool_call>", "mistral": "}]", "llama": "", "json": ""} {
		h := babble(t, family)
		body := func(stop string) fields {
			return fields{
				"model": "demo:base", "messages": []fields{{"role": "user", "content": "x"}}, "temperature": 1.2, "seed": 5, "max_tokens": 2000, "stop": stop,
				"tools":       []any{json.RawMessage(switchTool)},
				"tool_choice": fields{"type": "function", "function": fields{"name": "switch"}},
			}
		}
		if cut := h.bothTold(t, body(`on":`)); cut.finish != "stop" || len(cut.calls) != 1 || json.Valid([]byte(cut.calls[0].arguments)) {
			t.Errorf("%s: within its arguments: %+v", family, cut)
		}
		if cut := h.bothTold(t, body(`switch`)); cut.finish != "stop" || len(cut.calls) != 0 || cut.content != "" {
			t.Errorf("%s: before its name: %+v", family, cut)
		}
		if behind == "" { // Nothing but a brace.
			continue
		}
		if got := h.bothTold(t, body(behind)); got.finish != "tool_calls" || len(got.calls) != 1 || !json.Valid([]byte(got.calls[0].arguments)) {
			t.Errorf("%s: behind its arguments: %+v", family, got)
		}
	}
}

// TestStrictToolsConstrainCallsAlone lets a random model choose: what it writes is text, or
// text with well-formed calls behind.
func TestStrictToolsConstrainCallsAlone(t *testing.T) {
	script := spellsAll(t, toolcalltest.Templates["hermes"]+":", "▁So", "<tool_", "call>", "<0x0A>", `{"name": "`, `switch", "argu`, `ments": {"`, `on": `)
	// It would go on with what is not allowed, and less likely with what is.
	script.Follows[`on": `] = map[string]float64{"x": 3, "<0x0A>": 2.5, "t": 2}
	for before, after := range map[string]string{"t": "r", "r": "u", "u": "e", "e": "}", "/": "t"} {
		script.Follows[before] = map[string]float64{after: 1}
	}
	h := act(t, script)
	strict := strings.Replace(switchTool, `"name"`, `"strict":true,"name"`, 1)
	got, resp := h.ask(t, contract.PathChatCompletions, strings.Replace(strings.Replace(offered(strict, `,"parallel_tool_calls":false`), "1.2", "0", 1), `"x"`, `"weather?"`, 1))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%+v", got.Error)
	}
	c := got.Choices[0]
	if *c.Finish != "tool_calls" || c.Message.Content != "So" || len(c.Message.Calls) != 1 || c.Message.Calls[0].Function.Arguments != `{"on": true}` {
		t.Errorf("%s: %+v", *c.Finish, c.Message)
	}
}

// TestToolsGoWithStructures lets a random model choose between calls and a structure.
func TestToolsGoWithStructures(t *testing.T) {
	validators := argumentsOf(t)
	format := `,"n":12,"seed":5,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":` + ticket + `}}`
	said, called := 0, 0
	for _, family := range []string{"hermes", "llama"} {
		got, resp := babble(t, family).ask(t, contract.PathChatCompletions, offered(switchTool, format))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %+v", family, got.Error)
		}
		for _, c := range got.Choices {
			switch {
			case *c.Finish == "length":
			case len(c.Message.Calls) == 0:
				said++
				validates(t, validators["file_ticket"], c.Message.Content, *c.Finish)
			default:
				called++
				for _, call := range c.Message.Calls {
					validates(t, validators["switch"], call.Function.Arguments, "stop")
				}
				if c.Message.Content != "" || *c.Finish != "tool_calls" {
					t.Errorf("%s: %s, %+v", family, *c.Finish, c.Message)
				}
			}
		}
	}
	if said == 0 || called == 0 {
		t.Errorf("%d answers of the structure, %d calls", said, called)
	}
}

// TestAllowedToolsAreCalledAloneAndAllAreShown has random models call some of their tools.
func TestAllowedToolsAreCalledAloneAndAllAreShown(t *testing.T) {
	for _, family := range []string{"hermes", "llama"} {
		h := babble(t, family)
		all, _ := h.ask(t, contract.PathChatCompletions, offered(ticketTool+","+switchTool+","+nowTool, `,"max_tokens":1`))
		for mode, n := range map[string]int{"required": 8, "auto": 2} {
			got, resp := h.ask(t, contract.PathChatCompletions, offered(ticketTool+","+switchTool+","+nowTool,
				fmt.Sprintf(`,"n":%d,"seed":3,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":%q,"tools":[%s,%s]}}`, n, mode, nowTool, switchName)))
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %+v", family, got.Error)
			}
			if got.Usage.Prompt != all.Usage.Prompt {
				t.Errorf("%s: a prompt of %d tokens, with all of them %d", family, got.Usage.Prompt, all.Usage.Prompt)
			}
			for _, c := range got.Choices {
				if mode == "required" && len(c.Message.Calls) == 0 && *c.Finish != "length" {
					t.Errorf("%s: %s: %+v", family, *c.Finish, c.Message)
				}
				for _, call := range c.Message.Calls {
					if call.Function.Name != "now" && call.Function.Name != "switch" {
						t.Errorf("%s: call %+v", family, call)
					}
				}
			}
		}
	}
}

// TestCustomToolsTakeText has a call of one, streamed and whole, and goes on from there.
func TestCustomToolsTakeText(t *testing.T) {
	const tool, text = `{"type":"custom","custom":{"name":"patch","description":"Patches.","format":{"type":"text"}}}`, "a\n\"b\" z"
	for family, said := range map[string][]string{
		"hermes":     {"<tool_call>", "<0x0A>", `{"name": "`, `patch`, `", "arguments": `, `{"`, `input": "`, `a\n`, `\"`, `b\`, `"▁\u007a"}}`, "</tool_call>"},
		"qwen-coder": {"<tool_call>\n", "<function=", "patch>\n", "<parameter=", "input>\n", "a", "<0x0A>", `"b`, `"▁`, "z", "\n</parameter>\n", "</function>\n", "</tool_call>"},
	} {
		h := act(t, spellsAll(t, toolcalltest.Templates[family]+":", said...))
		body := chatAfter("x", fields{"tools": []any{json.RawMessage(tool)}, "max_tokens": 40})
		whole, resp := h.ask(t, contract.PathChatCompletions, body)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %+v", family, whole.Error)
		}
		c := whole.Choices[0]
		if *c.Finish != "tool_calls" || len(c.Message.Calls) != 1 || c.Message.Calls[0].Type != "custom" || c.Message.Calls[0].Custom == nil || c.Message.Calls[0].Function.Name != "" {
			t.Fatalf("%s: %s: %+v", family, *c.Finish, c.Message)
		}
		call := c.Message.Calls[0]
		if call.Custom.Name != "patch" || call.Custom.Input != text {
			t.Errorf("%s: %+v", family, call.Custom)
		}
		body["stream"] = true
		chunks, _ := h.stream(t, contract.PathChatCompletions, body)
		streamed, pieces := "", 0
		for _, chunk := range chunks {
			for _, c := range chunk.Choices {
				for _, call := range c.Delta.Calls {
					if call.Custom == nil || *call.Index != 0 || (pieces == 0) != (call.Custom.Name == "patch" && call.Type == "custom" && call.ID != "") {
						t.Errorf("%s: piece %+v", family, call)
					}
					streamed += call.Custom.Input
					pieces++
				}
			}
		}
		if streamed != text || pieces < 3 {
			t.Errorf("%s: streamed %q in %d pieces", family, streamed, pieces)
		}
		delete(body, "stream")
		body["tool_choice"] = fields{"type": "custom", "custom": fields{"name": "patch"}}
		body["messages"] = append(body["messages"].([]fields), fields{"role": "assistant", "tool_calls": []fields{
			{"id": call.ID, "type": "custom", "custom": fields{"name": "patch", "input": text}},
		}}, fields{"role": "tool", "tool_call_id": call.ID, "content": "done"})
		next, resp := h.ask(t, contract.PathChatCompletions, body)
		if resp.StatusCode != http.StatusOK || next.Usage.Prompt <= whole.Usage.Prompt || len(next.Choices[0].Message.Calls) != 1 {
			t.Errorf("%s: %+v", family, next)
		}
	}
}

// TestCallsThatTheLengthCutsOffAreCalls has calls cut within their arguments, where nothing
// constrains them and where they stand beside a structure.
func TestCallsThatTheLengthCutsOffAreCalls(t *testing.T) {
	structure := fields{"type": "json_schema", "json_schema": fields{"name": "x", "schema": json.RawMessage(ticket)}}
	for family, said := range map[string][]string{
		"hermes":        {"<tool_call>", "<0x0A>", `{"name": "`, `get_weather`, `", "arguments": `, `{"`, `city": "`, `Bon`, `n"}}`, "</tool_call>"},
		"llama":         {`{"name": "`, `get_weather`, `", "parameters": `, `{"`, `city": "`, `Bon`, `n"}}`},
		"mistral-named": {"[TOOL_CALLS]", "get_weather", "[ARGS]", `{"`, `city": "`, `Bon`, `n"}`},
		"qwen-coder":    {"<tool_call>\n", "<function=", "get_weather>\n", "<parameter=", "city>\n", "Bon", "n", "\n</parameter>\n", "</function>\n", "</tool_call>"},
	} {
		script := spellsAll(t, toolcalltest.Templates[family]+":", said...)
		h := act(t, script)
		for name, more := range map[string]fields{"free": nil, "beside a structure": {"response_format": structure}} {
			seen, text := map[string]bool{}, ""
			for most := 1; most < len(said); most++ {
				body := chatAfter("weather?", fields{"tools": []any{weather}, "max_tokens": most})
				maps.Copy(body, more)
				got := h.bothTold(t, body)
				if got.finish != "length" {
					break
				}
				text = got.content
				if len(got.calls) == 0 {
					continue
				}
				if got.content != "" || got.calls[0].name != "get_weather" || !strings.HasPrefix(`{"city": "Bonn"}`, got.calls[0].arguments) {
					t.Errorf("%s, %s, of %d tokens: %+v", family, name, most, got)
				}
				seen[got.calls[0].arguments] = true
			}
			if len(seen) < 2 {
				t.Errorf("%s, %s: cut off it is %v, or %q", family, name, seen, text)
			}
		}
	}
}

func TestToolsThatCannotBeOffered(t *testing.T) {
	h := babble(t, "hermes")
	function := func(inner string) string { return `{"type":"function","function":{` + inner + `}}` }
	asked := func(history, more string) string {
		return `{"model":"demo:base","max_tokens":1,"messages":[{"role":"user","content":"x"}` + history + `]` + more + `}`
	}
	for _, c := range []struct{ name, body, param, message string }{
		{"no list", asked("", `,"tools":{}`), "tools", "must be an array"},
		{"no object", asked("", `,"tools":[1]`), "tools[0]", "must be an object"},
		{"another kind", asked("", `,"tools":[{"type":"web_search"}]`), "tools[0].type", "calls functions"},
		{"no function", asked("", `,"tools":[{"type":"function"}]`), "tools[0].function", "missing"},
		{"no name", asked("", `,"tools":[`+function(``)+`]`), "tools[0].function.name", "missing"},
		{"a bad name", asked("", `,"tools":[`+function(`"name":"a b"`)+`]`), "tools[0].function.name", "letters, digits"},
		{"a long name", asked("", `,"tools":[`+function(`"name":"`+strings.Repeat("a", 65)+`"`)+`]`), "tools[0].function.name", "1 to 64"},
		{"another field", asked("", `,"tools":[`+nowTool+`,`+function(`"name":"x","cache":1`)+`]`), "tools[1].function.cache", "not supported"},
		{"a field beside", asked("", `,"tools":[{"type":"function","function":{"name":"x"},"x":1}]`), "tools[0].x", "not supported"},
		{"parameters that are no schema", asked("", `,"tools":[`+function(`"name":"x","parameters":[]`)+`]`), "tools[0].function.parameters", "must be an object"},
		{"parameters that are a text", asked("", `,"tools":[`+function(`"name":"x","parameters":{"type":"string"}`)+`]`), "tools[0].function.parameters", "are an object"},
		{"parameters too long", asked("", `,"tools":[`+function(`"name":"x","parameters":{"description":"`+strings.Repeat("x", 70_000)+`"}`)+`]`), "tools[0].function.parameters", "at most 65536"},
		{"a description too long", asked("", `,"tools":[`+function(`"name":"x","description":"`+strings.Repeat("x", 20_000)+`"`)+`]`), "tools[0].function.description", "at most 16384"},
		{"a name twice", asked("", `,"tools":[`+nowTool+`,`+nowTool+`]`), "tools", `both named "now"`},
		{"too many", asked("", `,"tools":[`+strings.TrimSuffix(numbered(129, `{"type":"function","function":{"name":"f%d"}},`), ",")+`]`), "tools", "at most 128"},
		{"too much", asked("", `,"tools":[`+strings.TrimSuffix(numbered(20, `{"type":"function","function":{"name":"f%d","description":"`+strings.Repeat("x", 16_000)+`"}},`), ",")+`]`), "tools", "at most 262144"},
		{"a strict schema that cannot be followed", asked("", `,"tools":[`+function(`"name":"x","strict":true,"parameters":{"type":"object","properties":{"a":{"not":{}}}}`)+`]`),
			"tools[0].function.parameters", "at /properties/a/not"},
		{"strict is no flag", asked("", `,"tools":[`+function(`"name":"x","strict":"yes"`)+`]`), "tools[0].function.strict", "true or false"},
		{"required of none", asked("", `,"tool_choice":"required"`), "tool_choice", "nothing to call"},
		{"an unknown choice", asked("", `,"tools":[`+nowTool+`],"tool_choice":"maybe"`), "tool_choice", "auto, none, required"},
		{"a choice of another kind", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"mcp"}`), "tool_choice.type", "must be function"},
		{"allowed tools of nothing", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"allowed_tools"}`), "tool_choice.allowed_tools", "missing"},
		{"allowed tools without a mode", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"allowed_tools","allowed_tools":{"tools":[`+nowTool+`]}}`), "tool_choice.allowed_tools.mode", "auto or required"},
		{"no allowed tools", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}}`), "tool_choice.allowed_tools.tools", "empty"},
		{"an allowed tool that is none", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[`+switchName+`]}}`), "tool_choice.allowed_tools.tools[0]", "none of tools"},
		{"an allowed tool of another kind", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"mcp"}]}}`), "tool_choice.allowed_tools.tools[0].type", "must be function"},
		{"a choice that names nothing", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"function"}`), "tool_choice", "names no function"},
		{"a choice of another", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"function","function":{"name":"then"}}`), "tool_choice", "none of tools"},
		{"parallel is no flag", asked("", `,"parallel_tool_calls":1`), "parallel_tool_calls", "true or false"},
		{"tools and a message to go on with", asked(`,{"role":"assistant","content":"y"}`, `,"continue_final_message":true,"tools":[`+nowTool+`]`), "continue_final_message", "tools exclude"},
		{"tools and no end", asked("", `,"ignore_eos":true,"tools":[`+nowTool+`]`), "ignore_eos", "tools exclude"},
		{"a call without id", asked(`,{"role":"assistant","tool_calls":[{"function":{"name":"now","arguments":"{}"}}]}`, ""), "messages[1].tool_calls[0].id", "1 to 256"},
		{"a call of another kind", asked(`,{"role":"assistant","tool_calls":[{"id":"1","type":"mcp"}]}`, ""), "messages[1].tool_calls[0].type", "calls functions"},
		{"a call of a custom tool that is none", asked(`,{"role":"assistant","tool_calls":[{"id":"1","type":"custom","function":{"name":"x"}}]}`, ""), "messages[1].tool_calls[0].custom", "missing"},
		{"a custom tool that is none", asked("", `,"tools":[{"type":"custom"}]`), "tools[0].custom", "missing"},
		{"a custom tool with a schema", asked("", `,"tools":[{"type":"custom","custom":{"name":"x","parameters":{}}}]`), "tools[0].custom.parameters", "not supported"},
		{"a grammar", asked("", `,"tools":[{"type":"custom","custom":{"name":"x","format":{"type":"grammar","grammar":{"syntax":"lark","definition":"x"}}}}]`), "tools[0].custom.format.type", "no grammars"},
		{"a custom tool by the name of a function", asked("", `,"tools":[`+nowTool+`],"tool_choice":{"type":"custom","custom":{"name":"now"}}`), "tool_choice", "none of tools"},
		{"a call of nothing", asked(`,{"role":"assistant","tool_calls":[{"id":"1","type":"function"}]}`, ""), "messages[1].tool_calls[0].function", "missing"},
		{"a call with a bad name", asked(`,{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"<|end|>","arguments":"{}"}}]}`, ""), "messages[1].tool_calls[0].function.name", "letters"},
		{"arguments that are no JSON", asked(`,{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"now","arguments":"{x}"}}]}`, ""), "messages[1].tool_calls[0].function.arguments", "no JSON object"},
		{"arguments that are no text", asked(`,{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"now","arguments":{}}}]}`, ""), "messages[1].tool_calls[0].function.arguments", "must be a string"},
		{"a result of no call", asked(`,{"role":"tool","tool_call_id":"1","content":"x"}`, ""), "messages[1].tool_call_id", "no tool_calls"},
		{"a result without content", asked(`,{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"now","arguments":""}}]},{"role":"tool","tool_call_id":"1"}`, ""), "messages[2].content", "missing"},
		{"the role before tools", asked(`,{"role":"function","name":"x","content":"x"}`, ""), "messages[1].role", "use tool_calls"},
		{"a user who calls", asked(`,{"role":"user","content":"x","tool_calls":[{"id":"1"}]}`, ""), "messages[1].tool_calls", "not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, resp := h.ask(t, contract.PathChatCompletions, c.body)
			if resp.StatusCode != http.StatusBadRequest || got.Error == nil {
				t.Fatalf("%s: %+v", resp.Status, got)
			}
			if got.Error.Param != c.param || !strings.Contains(got.Error.Message, c.message) || !strings.Contains(got.Error.Message, c.param) {
				t.Errorf("%+v, want the param %s and a message with %q", *got.Error, c.param, c.message)
			}
		})
	}
	for name, body := range map[string]string{
		"none":                         asked("", `,"tools":[`+ticketTool+`],"tool_choice":"none"`),
		"auto":                         asked("", `,"tools":[`+nowTool+`],"tool_choice":"auto","parallel_tool_calls":true`),
		"one call at most":             asked("", `,"tools":[`+nowTool+`],"parallel_tool_calls":false`),
		"nothing of nothing":           asked("", `,"tools":[],"tool_choice":"none","parallel_tool_calls":false`),
		"an empty list of calls":       asked(`,{"role":"assistant","content":"x","tool_calls":[]}`, ""),
		"nulls":                        asked(`,{"role":"assistant","content":"x","tool_calls":null}`, `,"tools":null,"tool_choice":null,"parallel_tool_calls":null`),
		"a history with an empty text": asked(`,{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","index":0,"function":{"name":"now","arguments":""}}]},{"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"x"}]}`, ""),
		"a schema that is not strict and cannot be followed, demanded": asked("", `,"tools":[`+function(`"name":"x","parameters":{"type":"object","properties":{"a":{"not":{}}}}`)+`],"tool_choice":"required"`),
	} {
		if got, resp := h.ask(t, contract.PathChatCompletions, body); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %+v", name, resp.Status, got.Error)
		}
	}
	// Of templates that know no tools, or show no calls, it is said.
	history := asked(`,{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"now","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"x"}`, "")
	if got, _ := babble(t, "json").ask(t, contract.PathChatCompletions, history); got.Error == nil || got.Error.Param != "messages[1].tool_calls" || !strings.Contains(got.Error.Message, "shows no calls") {
		t.Errorf("a template that shows no calls: %+v", got.Error)
	}
	simple := act(t, checkpointtest.Says(t, []string{":", "a"}, "▁", "x"))
	if got, _ := simple.ask(t, contract.PathChatCompletions, asked("", `,"tools":[`+nowTool+`]`)); got.Error == nil || got.Error.Param != "tools" || !strings.Contains(got.Error.Message, "template knows no tools") {
		t.Errorf("a template without tools: %+v", got.Error)
	}
	if got, resp := simple.ask(t, contract.PathChatCompletions, asked("", `,"tools":[`+nowTool+`],"tool_choice":"none"`)); resp.StatusCode != http.StatusOK {
		t.Errorf("a template without tools, and none: %+v", got.Error)
	}
}

func numbered(n int, format string) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, format, i)
	}
	return s.String()
}
