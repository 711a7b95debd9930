package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/toolcall/toolcalltest"
)

// response is what a client reads of contract.PathResponses.
type response struct {
	ID         string
	Object     string
	Status     string
	Store      bool
	Model      string
	Metadata   map[string]string
	Output     []item
	Incomplete *struct{ Reason string } `json:"incomplete_details"`
	Failure    *struct{ Code, Message string }
	Usage      *struct {
		Input   int `json:"input_tokens"`
		Output  int `json:"output_tokens"`
		Total   int `json:"total_tokens"`
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"input_tokens_details"`
	}
	Adaptation *contract.Adaptation `json:"t2"`
	Error      *apiError            `json:"error"`
}

type item struct {
	ID, Type, Status, Role, Name, Arguments, Input string

	CallID  string `json:"call_id"`
	Content []struct {
		Type, Text string
		Logprobs   []struct{ Token string }
	}
}

// told is an item without its ids.
func (i item) told() string {
	if i.Type == "custom_tool_call" {
		return fmt.Sprintf("%s: %s takes %s", i.Status, i.Name, i.Input)
	}
	if i.Type == "function_call" {
		return fmt.Sprintf("%s: %s(%s)", i.Status, i.Name, i.Arguments)
	}
	return fmt.Sprintf("%s: %s", i.Status, i.Content[0].Text)
}

func toldItems(items []item) (told []string) {
	for _, i := range items {
		told = append(told, i.told())
	}
	return told
}

// responses posts a request and decodes the answer.
func (h *house) responses(t testing.TB, body fields) (response, int) {
	t.Helper()
	r, err := post(t.Context(), h.api.URL+contract.PathResponses, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var got response
	if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	return got, r.StatusCode
}

// event is one of a stream's.
type event struct {
	Type     string
	Sequence *int `json:"sequence_number"`
	Response *response
	Item     *item
	ItemID   string `json:"item_id"`
	Index    *int   `json:"output_index"`
	Content  *int   `json:"content_index"`
	Delta    string
	Text     *string
	Args     *string `json:"arguments"`
	Input    *string
	Part     *struct{ Type, Text string }
}

// events posts a request and decodes the events of its stream.
func (h *house) events(t testing.TB, body fields) []event {
	t.Helper()
	body = maps.Clone(body)
	body["stream"] = true
	r, err := post(t.Context(), h.api.URL+contract.PathResponses, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var list []event
	name := ""
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			name = n
			continue
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("event %s: %v", data, err)
		}
		if e.Type != name || e.Sequence == nil || *e.Sequence != len(list) {
			t.Errorf("event %d is called %q: %s", len(list), name, data)
		}
		list = append(list, e)
	}
	return list
}

// replay puts a stream's events together, and checks their order on the way.
func replay(t testing.TB, list []event) response {
	t.Helper()
	var output []item
	text := ""
	for i, e := range list {
		if e.Index != nil && e.Type != "response.output_item.added" && *e.Index != len(output)-1 {
			t.Fatalf("event %d, %s, is of item %d of %d", i, e.Type, *e.Index, len(output))
		}
		if e.ItemID != "" && e.ItemID != output[len(output)-1].ID {
			t.Fatalf("event %d, %s, is of item %s", i, e.Type, e.ItemID)
		}
		switch e.Type {
		case "response.created", "response.in_progress":
			if e.Response.Status != "in_progress" || len(e.Response.Output) != 0 || i > 1 {
				t.Errorf("event %d: %+v", i, e)
			}
		case "response.output_item.added":
			if *e.Index != len(output) || e.Item.Status != "in_progress" {
				t.Errorf("event %d: %+v", i, e)
			}
			output, text = append(output, *e.Item), ""
		case "response.content_part.added":
			if e.Part.Type != "output_text" || e.Part.Text != "" || *e.Content != 0 {
				t.Errorf("event %d: %+v", i, e)
			}
		case "response.output_text.delta", "response.function_call_arguments.delta", "response.custom_tool_call_input.delta":
			text += e.Delta
		case "response.output_text.done":
			if *e.Text != text {
				t.Errorf("event %d: %q after %q", i, *e.Text, text)
			}
		case "response.content_part.done":
			if e.Part.Text != text {
				t.Errorf("event %d: %q after %q", i, e.Part.Text, text)
			}
		case "response.function_call_arguments.done":
			if *e.Args != text {
				t.Errorf("event %d: %q after %q", i, *e.Args, text)
			}
		case "response.custom_tool_call_input.done":
			if *e.Input != text {
				t.Errorf("event %d: %q after %q", i, *e.Input, text)
			}
		case "response.output_item.done":
			output[*e.Index] = *e.Item
		case "response.completed", "response.incomplete":
			if i != len(list)-1 || !slices.Equal(toldItems(output), toldItems(e.Response.Output)) {
				t.Errorf("event %d: %+v after %+v", i, e.Response.Output, output)
			}
			return *e.Response
		default:
			t.Errorf("event %d is %s", i, e.Type)
		}
	}
	t.Fatalf("the stream ends with %+v", list[len(list)-1])
	return response{}
}

// bothResponses asks whole and streamed; but for ids both must be the same.
func (h *house) bothResponses(t testing.TB, body fields) response {
	t.Helper()
	whole, code := h.responses(t, body)
	if code != http.StatusOK {
		t.Fatalf("status %d: %+v", code, whole.Error)
	}
	streamed := replay(t, h.events(t, body))
	if whole.Status != streamed.Status || !slices.Equal(toldItems(whole.Output), toldItems(streamed.Output)) {
		t.Errorf("whole %s %q, streamed %s %q", whole.Status, toldItems(whole.Output), streamed.Status, toldItems(streamed.Output))
	}
	if whole.Usage.Total != streamed.Usage.Total || whole.Usage.Total != whole.Usage.Input+whole.Usage.Output {
		t.Errorf("usage whole %+v, streamed %+v", whole.Usage, streamed.Usage)
	}
	return whole
}

func respond(input any, more fields) fields {
	f := fields{"model": "demo:base", "input": input, "temperature": 0}
	maps.Copy(f, more)
	return f
}

func TestResponsesAreAnsweredWholeAndStreamed(t *testing.T) {
	h := act(t, spellsAll(t, "", "▁Hello", ",", "▁world", "!"))
	got := h.bothResponses(t, respond("hi", fields{"metadata": fields{"a": "b"}, "store": false}))
	if !strings.HasPrefix(got.ID, "resp_") || got.Object != "response" || got.Status != "completed" || got.Store || got.Model != "demo:base" ||
		!slices.Equal(toldItems(got.Output), []string{"completed: Hello, world!"}) || got.Metadata["a"] != "b" || got.Adaptation == nil || got.Error != nil {
		t.Errorf("%+v", got)
	}
	if got.Usage.Output != 5 || got.Incomplete != nil {
		t.Errorf("usage %+v", got.Usage)
	}
	// One that is cut short says so, of itself and of its item.
	got = h.bothResponses(t, respond("hi", fields{"max_output_tokens": 2}))
	if got.Status != "incomplete" || got.Incomplete == nil || got.Incomplete.Reason != "max_output_tokens" ||
		!slices.Equal(toldItems(got.Output), []string{"incomplete: Hello,"}) {
		t.Errorf("%+v", got)
	}
	// What has been read is found again, and says so.
	h.responses(t, respond(strings.Repeat("long ", 20), nil))
	again, _ := h.responses(t, respond(strings.Repeat("long ", 20), nil))
	if again.Usage.Details.Cached < 64 {
		t.Errorf("usage %+v", again.Usage)
	}
}

func TestResponsesMayBeEmpty(t *testing.T) {
	h := act(t, checkpointtest.Says(t, []string{":"}, "▁", "x"))
	if got := h.bothResponses(t, respond("x", nil)); !slices.Equal(toldItems(got.Output), []string{"completed: "}) {
		t.Errorf("%+v", got)
	}
}

func TestResponsesTellLogprobs(t *testing.T) {
	h := act(t, spellsAll(t, "", "▁I", "<0xE2>", "<0x9D>", "<0xA4>", "▁you"))
	got := h.bothResponses(t, respond("hi", fields{"include": []string{"message.output_text.logprobs"}, "top_logprobs": 2}))
	var tokens []string
	for _, p := range got.Output[0].Content[0].Logprobs {
		tokens = append(tokens, p.Token)
	}
	if want := []string{" I", `\xe2`, `\x9d`, `\xa4`, " you"}; !slices.Equal(tokens, want) {
		t.Errorf("tokens %q, want %q", tokens, want)
	}
}

// TestResponsesReadConversations compares prompts: a template shows all that it was given.
func TestResponsesReadConversations(t *testing.T) {
	h := act(t, spellsAll(t, toolcalltest.Templates["hermes"]+":", "▁yes"))
	items := []fields{
		{"role": "user", "content": "weather?"},
		{"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": []fields{
			{"type": "output_text", "text": "Let me ", "annotations": []any{}, "logprobs": []any{}}, {"type": "output_text", "text": "see."}}},
		{"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get_weather", "arguments": `{"city": "Bonn"}`, "status": "completed"},
		{"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": `{"city": "Rome"}`},
		{"type": "function_call_output", "call_id": "c1", "output": "rain"},
		{"type": "function_call_output", "call_id": "c2", "output": []fields{{"type": "input_text", "text": "sun"}}},
		{"role": "user", "content": []fields{{"type": "input_text", "text": "so?"}}},
	}
	messages := []fields{
		{"role": "system", "content": "Be brief."},
		{"role": "user", "content": "weather?"},
		{"role": "assistant", "content": "Let me see.", "tool_calls": []fields{
			{"id": "c1", "type": "function", "function": fields{"name": "get_weather", "arguments": `{"city": "Bonn"}`}},
			{"id": "c2", "type": "function", "function": fields{"name": "get_weather", "arguments": `{"city": "Rome"}`}},
		}},
		{"role": "tool", "tool_call_id": "c1", "content": "rain"},
		{"role": "tool", "tool_call_id": "c2", "content": "sun"},
		{"role": "user", "content": "so?"},
	}
	chat, resp := h.ask(t, contract.PathChatCompletions, fields{"model": "demo:base", "temperature": 0, "messages": messages, "tools": []any{weather}})
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("chat: %+v", chat.Error)
	}
	got := h.bothResponses(t, respond(items, fields{"instructions": "Be brief.", "tools": []any{flat(weather)}}))
	// All but the last token of the same prompt are found: it is the same.
	if got.Usage.Input != chat.Usage.Prompt || got.Usage.Details.Cached != got.Usage.Input-1 {
		t.Errorf("usage %+v, of the same chat %+v", got.Usage, chat.Usage)
	}
}

// flat is a tool as this endpoint has it.
func flat(tool fields) fields {
	f := fields{"type": "function"}
	maps.Copy(f, tool["function"].(fields)) //nolint:forcetypeassert // It is one of the tests' own.
	return f
}

func TestResponsesCallTools(t *testing.T) {
	h := act(t, spellsAll(t, toolcalltest.Templates["hermes"]+":", "▁Let", "▁me", "▁see.", "<0x0A>", "<tool_", "call>", `{"name": "get`, `_weather", "argu`, `ments": {"city": "Bon`, `n"}}`, "</tool_call>"))
	for name, more := range map[string]fields{"free": nil, "strict": {"tools": []any{with(flat(weather), "strict", true)}}, "with logprobs": {"include": []string{"message.output_text.logprobs"}}} {
		t.Run(name, func(t *testing.T) {
			body := respond("weather?", fields{"tools": []any{flat(weather)}})
			maps.Copy(body, more)
			got := h.bothResponses(t, body)
			if want := []string{"completed: Let me see.", `completed: get_weather({"city": "Bonn"})`}; !slices.Equal(toldItems(got.Output), want) {
				t.Errorf("%q, want %q", toldItems(got.Output), want)
			}
			if got.Output[1].CallID == "" || got.Output[1].ID == "" {
				t.Errorf("%+v", got.Output[1])
			}
		})
	}
	// Cut in the midst of the arguments, where they are told as they come.
	got := h.bothResponses(t, respond("weather?", fields{"tools": []any{with(flat(weather), "strict", true)}, "max_output_tokens": 10}))
	if got.Status != "incomplete" {
		t.Errorf("%+v", got)
	}
	// A text of stop completes the answer, but not the call.
	got = h.bothResponses(t, respond("weather?", fields{"tools": []any{with(flat(weather), "strict", true)}, "stop": "Bon"}))
	if want := []string{"completed: Let me see.", `incomplete: get_weather({"city": ")`}; got.Status != "completed" || !slices.Equal(toldItems(got.Output), want) {
		t.Errorf("%s, %q, want %q", got.Status, toldItems(got.Output), want)
	}
}

// TestFunctionsOfResponsesAreStrictUnlessTheySayOtherwise has a model write what a schema does
// not allow: OpenAI's default of strict is true here, if the schema can be followed.
func TestFunctionsOfResponsesAreStrictUnlessTheySayOtherwise(t *testing.T) {
	h := act(t, spellsAll(t, toolcalltest.Templates["hermes"]+":", "<tool_", "call>", "<0x0A>", `{"name": "get`, `_weather", "argu`, `ments": {"`, `town": "Bon`, `n"}}`, "</tool_call>"))
	ask := func(tool fields) response {
		t.Helper()
		return h.bothResponses(t, respond("weather?", fields{"tools": []any{tool}, "max_output_tokens": 60}))
	}
	const free = `completed: get_weather({"town": "Bonn"})`
	if got := toldItems(ask(with(flat(weather), "strict", false)).Output); !slices.Equal(got, []string{free}) {
		t.Errorf("not strict: %q", got)
	}
	for name, tool := range map[string]fields{"nothing said": flat(weather), "null": with(flat(weather), "strict", nil), "strict": with(flat(weather), "strict", true)} {
		got := ask(tool)
		if calls := toldItems(got.Output); len(calls) == 1 && !strings.Contains(calls[0], `{"city"`) || slices.Contains(calls, free) {
			t.Errorf("%s: %q", name, calls)
		}
	}
	hard := with(flat(weather), "parameters", fields{"type": "object", "properties": fields{"town": fields{"not": fields{}}}})
	if got := ask(hard); len(got.Output) != 1 {
		t.Errorf("a schema that cannot be followed: %q", toldItems(got.Output))
	}
	if got, code := h.responses(t, respond("x", fields{"tools": []any{with(hard, "strict", true)}})); code != http.StatusBadRequest || got.Error.Param != "tools[0].parameters" {
		t.Errorf("the same, strict: %d, %+v", code, got.Error)
	}
	// Some of the functions.
	some := fields{"type": "allowed_tools", "mode": "required", "tools": []fields{{"type": "function", "name": "now"}}}
	got := h.bothResponses(t, respond("x", fields{"tools": []any{flat(weather), fields{"type": "function", "name": "now"}}, "tool_choice": some, "parallel_tool_calls": false}))
	if calls := toldItems(got.Output); !slices.Equal(calls, []string{"completed: now({})"}) {
		t.Errorf("allowed tools: %q", calls)
	}
}

// TestResponsesCallCustomTools has a text for one, and goes on from there.
func TestResponsesCallCustomTools(t *testing.T) {
	h := act(t, spellsAll(t, toolcalltest.Templates["hermes"]+":", "<tool_call>", "<0x0A>", `{"name": "`, `patch`, `", "arguments": `, `{"`, `input": "`, `a\n`, `\"`, `b\`, `"▁\u007a"}}`, "</tool_call>"))
	tool := fields{"type": "custom", "name": "patch", "description": "Patches."}
	body := respond("x", fields{"tools": []any{tool}, "max_output_tokens": 40})
	got := h.bothResponses(t, body)
	if want := []string{"completed: patch takes a\n\"b\" z"}; !slices.Equal(toldItems(got.Output), want) || !strings.HasPrefix(got.Output[0].ID, "ctc_") || got.Output[0].CallID == "" {
		t.Fatalf("%+v", got.Output)
	}
	call := got.Output[0]
	body["tool_choice"] = fields{"type": "custom", "name": "patch"}
	body["input"] = []fields{
		{"role": "user", "content": "x"}, {"type": "custom_tool_call", "id": call.ID, "call_id": call.CallID, "name": call.Name, "input": call.Input},
		{"type": "custom_tool_call_output", "call_id": call.CallID, "output": "done"},
	}
	if next := h.bothResponses(t, body); next.Usage.Input <= got.Usage.Input || len(next.Output) != 1 || next.Output[0].Type != "custom_tool_call" {
		t.Errorf("%+v", next.Output)
	}
	body["tools"] = []any{with(tool, "format", fields{"type": "grammar", "syntax": "regex", "definition": "x"})}
	if refused, code := h.responses(t, body); code != http.StatusBadRequest || refused.Error.Param != "tools[0].format.type" {
		t.Errorf("a grammar: %d, %+v", code, refused.Error)
	}
}

func with(f fields, name string, value any) fields {
	f = maps.Clone(f)
	f[name] = value
	return f
}

func TestResponsesFollowStructures(t *testing.T) {
	h := open(t, nil)
	schema := fields{"type": "object", "properties": fields{"sum": fields{"type": "integer", "maximum": 99, "minimum": 0}}, "required": []string{"sum"}, "additionalProperties": false}
	for seed := range 20 {
		body := fields{"model": "demo:base", "input": "3 + 4?", "seed": seed, "text": fields{"format": fields{"type": "json_schema", "name": "answer", "strict": true, "schema": schema}}}
		got := h.bothResponses(t, body)
		var answer struct{ Sum *int }
		if err := json.Unmarshal([]byte(got.Output[0].Content[0].Text), &answer); err != nil || answer.Sum == nil || got.Status != "completed" {
			t.Errorf("%+v: %v", got.Output, err)
		}
	}
	got := h.bothResponses(t, fields{"model": "demo:base", "input": "x", "text": fields{"format": fields{"type": "json_object"}}, "seed": 1, "max_output_tokens": 300})
	if !strings.HasPrefix(got.Output[0].Content[0].Text, "{") {
		t.Errorf("%+v", got.Output)
	}
}

func TestResponsesAdapt(t *testing.T) {
	h := open(t, nil)
	got, _ := h.responses(t, fields{"model": "demo", "input": "What is 3 + 4?", "max_output_tokens": 4})
	if got.Adaptation == nil || got.Adaptation.Strategy != contract.StrategyPrompt || got.Adaptation.Pass1Seconds == 0 {
		t.Errorf("%+v", got.Adaptation)
	}
	var e contract.Explanation
	r, err := post(t.Context(), h.api.URL+contract.PathExplain, fields{"model": "demo", "input": "What is 3 + 4?"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil || e.Expert != got.Adaptation.Expert {
		t.Errorf("explained as %+v (%v)", e, err)
	}
}

func TestResponsesRefuseByName(t *testing.T) {
	h := open(t, nil)
	call := fields{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
	for name, c := range map[string]struct {
		more           fields
		param, message string
	}{
		"what is to be kept":        {fields{"store": true}, "store", "keeps no answers: send false"},
		"what was kept":             {fields{"previous_response_id": "resp_1"}, "previous_response_id", "items of input"},
		"a conversation":            {fields{"conversation": "conv_1"}, "conversation", "items of input"},
		"a kept prompt":             {fields{"prompt": fields{"id": "p"}}, "prompt", "instructions"},
		"the background":            {fields{"background": true}, "background", "stream"},
		"no input":                  {fields{"input": nil}, "input", "missing"},
		"an empty input":            {fields{"input": []any{}}, "input", "empty"},
		"a number":                  {fields{"input": 3}, "input", "a string or an array of items"},
		"a reference":               {fields{"input": []fields{{"type": "item_reference", "id": "msg_1"}}}, "input[0].type", "store is false"},
		"reasoning items":           {fields{"input": []fields{{"type": "reasoning", "summary": []any{}}}}, "input[0].type", "message, function_call"},
		"an image":                  {fields{"input": []fields{{"role": "user", "content": []fields{{"type": "input_image", "image_url": "x"}}}}}, "input[0].content[0].type", "text only"},
		"a role":                    {fields{"input": []fields{{"role": "tool", "content": "x"}}}, "input[0].role", "must be system"},
		"no content":                {fields{"input": []fields{{"role": "user"}}}, "input[0].content", "missing"},
		"an output of no call":      {fields{"input": []fields{{"type": "function_call_output", "call_id": "1", "output": "x"}}}, "input[0].call_id", "no function_call before"},
		"no output":                 {fields{"input": []fields{call, {"type": "function_call_output", "call_id": "1"}}}, "input[1].output", "missing"},
		"calls without a template":  {fields{"input": []fields{{"role": "user", "content": "x"}, call}}, "input[1]", "cannot call tools"},
		"tools without a template":  {fields{"tools": []any{flat(weather)}}, "tools", "cannot call tools"},
		"built-in tools":            {fields{"tools": []fields{{"type": "web_search"}}}, "tools[0].type", "calls functions"},
		"nothing to call":           {fields{"tool_choice": "required"}, "tool_choice", "nothing to call"},
		"max_tokens":                {fields{"max_tokens": 3}, "max_tokens", "not supported"},
		"too much":                  {fields{"max_output_tokens": 100000}, "max_output_tokens", "can be at most"},
		"top_logprobs alone":        {fields{"top_logprobs": 2}, "top_logprobs", "include"},
		"what cannot be included":   {fields{"include": []string{"file_search_call.results"}}, "include", "can include"},
		"reasoning":                 {fields{"reasoning": fields{"effort": "high"}}, "reasoning.effort", "leave it out"},
		"truncation":                {fields{"truncation": "auto"}, "truncation", `"disabled"`},
		"metadata that is no text":  {fields{"metadata": fields{"a": 1}}, "metadata", "strings"},
		"a format":                  {fields{"text": fields{"format": fields{"type": "grammar"}}}, "text.format", "json_schema"},
		"a schema without a name":   {fields{"text": fields{"format": fields{"type": "json_schema", "schema": fields{}}}}, "text.format", "name is missing"},
		"a schema":                  {fields{"text": fields{"format": fields{"type": "json_schema", "name": "x", "schema": fields{"not": fields{}}}}}, "text.format.schema", "text.format.schema at "},
		"verbosity":                 {fields{"text": fields{"verbosity": "low"}}, "text.verbosity", `"medium"`},
		"ignore_eos in a structure": {fields{"ignore_eos": true, "text": fields{"format": fields{"type": "json_object"}}}, "ignore_eos", "text.format"},
		"what nobody knows":         {fields{"temperatur": 1}, "temperatur", "not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			got, code := h.responses(t, respond("hi", c.more))
			if code != http.StatusBadRequest || got.Error == nil || got.Error.Param != c.param || !strings.Contains(got.Error.Message, c.message) {
				t.Errorf("status %d, %+v; want param %s and %q", code, got.Error, c.param, c.message)
			}
		})
	}
	text, code := get(t, h.api.URL+contract.PathResponses+"/resp_1")
	if code != http.StatusNotFound || !strings.Contains(text, "keeps no answers") {
		t.Errorf("status %d: %s", code, text)
	}
}

func TestWhatFailsInTheMidstOfAResponseIsTold(t *testing.T) {
	v, allow := endless(t)
	h := openOn(t, v, allow)
	body := respond("a long story", fields{"stream": true, "ignore_eos": true, "max_output_tokens": endlessTokens})
	r, err := post(t.Context(), h.api.URL+contract.PathResponses, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	begun := false
	for !begun && lines.Scan() {
		begun = strings.Contains(lines.Text(), "output_text.delta")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			last = data
		}
	}
	if !strings.Contains(last, `"type":"response.failed"`) || !strings.Contains(last, `"status":"failed"`) || !strings.Contains(last, "shutting down") {
		t.Errorf("the stream ends with %s", last)
	}
}
