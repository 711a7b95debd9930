package server_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/shared"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/transformersquared/operator/runtime/contract"
)

// ticket is a schema of which a model of random weights soon comes to an end.
const ticket = `{"type":"object","properties":{
	"title":{"type":"string","maxLength":8},
	"priority":{"enum":["low","high"]},
	"hours":{"type":"integer","minimum":1,"maximum":40},
	"tags":{"type":"array","items":{"$ref":"#/$defs/tag"},"maxItems":2},
	"due":{"type":["string","null"],"format":"date"}},
	"required":["title","priority","hours","tags","due"],"additionalProperties":false,
	"$defs":{"tag":{"type":"string","pattern":"^[a-z]{1,4}$"}}}`

func schemaOf(t *testing.T, text string) (value any, compiled *jsonschema.Schema) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schema.json", value); err != nil {
		t.Fatal(err)
	}
	if compiled, err = c.Compile("schema.json"); err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(text), compiled
}

func structured(schema any) openai.ChatCompletionNewParams {
	params := chatParams()
	params.MaxTokens, params.Temperature, params.TopP = openai.Int(200), openai.Float(1), openai.Float(1)
	params.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "ticket", Strict: openai.Bool(true), Schema: schema},
	}}
	return params
}

// validates checks an answer that has ended.
func validates(t *testing.T, s *jsonschema.Schema, text, finish string) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil || finish != "stop" {
		t.Errorf("the answer %q, which ended by %s: %v", text, finish, err)
	}
}

func TestOpenAIsClientGetsStructuredAnswers(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	schema, validate := schemaOf(t, ticket)
	params := structured(schema)
	params.N, params.Logprobs, params.TopLogprobs = openai.Int(4), openai.Bool(true), openai.Int(2)
	params.LogitBias = map[string]int64{"34": 5, "120": 5, "33": -100} // Quotes sooner, and x wherever it may be.
	whole, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{}
	for _, c := range whole.Choices {
		validates(t, validate, c.Message.Content, c.FinishReason)
		texts[c.Message.Content] = true
		if len(c.Logprobs.Content) != len(c.Message.Content) { // A token is a byte.
			t.Errorf("%d log-probabilities of %q", len(c.Logprobs.Content), c.Message.Content)
		}
	}
	if len(texts) == 1 {
		t.Errorf("four choices are %v", texts)
	}
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("the client cannot add %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	for i, c := range all.Choices {
		if c.Message.Content != whole.Choices[i].Message.Content || c.FinishReason != "stop" {
			t.Errorf("streamed %q (%s), whole %q", c.Message.Content, c.FinishReason, whole.Choices[i].Message.Content)
		}
	}
}

func TestStructuredAnswersEndAsOthersDo(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	schema, validate := schemaOf(t, ticket)
	params := structured(schema)
	params.Temperature = openai.Float(0)
	greedy, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	text := greedy.Choices[0].Message.Content
	validates(t, validate, text, greedy.Choices[0].FinishReason)

	// To the last token there is room for it is a complete answer, and one less is not.
	params.MaxTokens = openai.Int(greedy.Usage.CompletionTokens)
	exact, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	validates(t, validate, exact.Choices[0].Message.Content, exact.Choices[0].FinishReason)
	params.MaxTokens = openai.Int(greedy.Usage.CompletionTokens - 1)
	cut, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got := cut.Choices[0]; got.FinishReason != "length" || !strings.HasPrefix(text, got.Message.Content) || len(got.Message.Content) >= len(text) {
		t.Errorf("with one token less it is %q, %s", got.Message.Content, got.FinishReason)
	}
	params.MaxTokens = openai.Int(200)
	params.Stop = openai.ChatCompletionNewParamsStopUnion{OfString: openai.String(`"priority"`)}
	stopped, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if got := stopped.Choices[0]; got.FinishReason != "stop" || strings.Contains(got.Message.Content, "priority") || !strings.HasPrefix(text, got.Message.Content) {
		t.Errorf("with a stop text it is %q, %s", got.Message.Content, got.FinishReason)
	}
}

func TestJSONModeGivesObjects(t *testing.T) {
	h := open(t, nil)
	ended := 0
	for seed := range 12 {
		a, r := h.ask(t, contract.PathChatCompletions, chat("demo:base", "x", fields{
			"response_format": fields{"type": "json_object"}, "max_tokens": 150, "seed": seed, "logit_bias": fields{"34": 8, "125": 8, "93": 8},
		}))
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %+v", r.Status, a.Error)
		}
		c := a.Choices[0]
		if !strings.HasPrefix(c.Message.Content, "{") {
			t.Errorf("the answer is %q", c.Message.Content)
		}
		var object map[string]any
		if *c.Finish == "stop" {
			ended++
			if err := json.Unmarshal([]byte(c.Message.Content), &object); err != nil {
				t.Errorf("the answer %q: %v", c.Message.Content, err)
			}
		}
	}
	if ended == 0 {
		t.Error("none has ended")
	}
}

func TestStructuresThatCannotBeAreRefused(t *testing.T) {
	h := open(t, nil)
	client := h.client()
	params := structured(json.RawMessage(`{"type":"object","properties":{"a":{"type":"string","pattern":"\\bx"}}}`))
	_, err := client.Chat.Completions.New(t.Context(), params)
	var apiErr *openai.Error
	if !errors.As(err, &apiErr) || apiErr.StatusCode != http.StatusBadRequest || apiErr.Param != "response_format" ||
		apiErr.Code != "invalid_json_schema" || !strings.Contains(apiErr.Message, "response_format.json_schema.schema at /properties/a/pattern") {
		t.Errorf("got %v", err)
	}
	named := func(schema any) fields {
		return fields{"type": "json_schema", "json_schema": fields{"name": "x", "schema": schema}}
	}
	for _, c := range []struct {
		name    string
		format  any
		more    fields
		param   string
		message string
	}{
		{"an unknown type", fields{"type": "xml"}, nil, "response_format", `"xml"`},
		{"no type", fields{}, nil, "response_format", "response_format.type"},
		{"no schema", fields{"type": "json_schema"}, nil, "response_format", "json_schema is missing"},
		{"a schema without a name", fields{"type": "json_schema", "json_schema": fields{"schema": true}}, nil, "response_format", "name is missing"},
		{"a name without a schema", fields{"type": "json_schema", "json_schema": fields{"name": "x"}}, nil, "response_format", "schema is missing"},
		{"a field that is not known", fields{"type": "json_object", "depth": 3}, nil, "response_format.depth", "depth"},
		{"a keyword that is not supported", named(fields{"type": "object", "patternProperties": fields{}}), nil, "response_format", "/patternProperties"},
		{"a schema that nothing satisfies", named(false), nil, "response_format", "no value"},
		{"a schema that is a text", named("x"), nil, "response_format", "an object"},
		{"an answer that goes on behind its end", fields{"type": "json_object"}, fields{"ignore_eos": true}, "ignore_eos", "response_format"},
		{"an answer that goes on with a text", fields{"type": "json_object"}, fields{"continue_final_message": true}, "continue_final_message", "response_format"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := chat("demo:base", "x", c.more)
			body["response_format"] = c.format
			a, r := h.ask(t, contract.PathChatCompletions, body)
			if r.StatusCode != http.StatusBadRequest || a.Error == nil || a.Error.Param != c.param || !strings.Contains(a.Error.Message, c.message) {
				t.Errorf("%s: %+v", r.Status, a.Error)
			}
		})
	}
}
