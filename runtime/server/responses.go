package server

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// asked is what an answer of contract.PathResponses repeats of its request.
type asked struct {
	instructions    *string
	maxOutputTokens *int
	temperature     float64
	topP            float64
	topLogprobs     int
	logprobs        bool
	parallel        bool
	metadata        map[string]string
	// text, tools and toolChoice are as they came.
	text, toolChoice json.RawMessage
	tools            []json.RawMessage
	user             *string
}

// Bounds of metadata, which are OpenAI's.
const (
	maxMetadata      = 16
	maxMetadataKey   = 64
	maxMetadataValue = 512
)

const (
	paramTextFormat = "text.format"
	// includeLogprobs and includeReasoning are values of include.
	includeLogprobs  = "message.output_text.logprobs"
	includeReasoning = "reasoning.encrypted_content"
)

// unkept are the fields of a request that need a server that keeps something, and what to
// do instead.
var unkept = []struct {
	name, advice string
	mayBeFalse   bool
}{
	{"store", "send false, or leave it out, which means the same here", true},
	{"background", "send false, and let the answer stream if it takes long", true},
	{"previous_response_id", "send the conversation as items of input, the output of answers among them", false},
	{"conversation", "send the conversation as items of input", false},
	{"prompt", "send the prompt's text as instructions and input", false},
}

// parseResponses reads a request of contract.PathResponses.
func parseResponses(body []byte) (query, error) {
	f, err := parseFields(body)
	if err != nil {
		return query{}, err
	}
	refuseState(f)
	q := parseSampling(f)
	q.asked = &asked{temperature: q.request.Sampling.Temperature, topP: q.request.Sampling.TopP, metadata: parseMetadata(f)}
	parseStreamOptions(f, &q)
	if n, ok := f.integer("max_output_tokens", 1, math.MaxInt32); ok {
		q.request.MaxTokens, q.longest = int(n), "max_output_tokens"
		q.asked.maxOutputTokens = &q.request.MaxTokens
	}
	parseInclude(f, &q)
	if f.has("instructions") {
		text := f.text("instructions")
		q.asked.instructions = &text
		q.messages, q.places = append(q.messages, tokenizer.Message{Role: roleSystem, Content: text}), append(q.places, "instructions")
	}
	if f.has("user") {
		user := f.text("user")
		q.asked.user = &user
	}
	parseInput(f, &q)
	parseTextFormat(f, &q)
	parseResponseTools(f, &q)
	parseChatOptions(f, &q.chat)
	if q.chat.ContinueFinal {
		f.fail(invalid("continue_final_message", "unsupported_parameter", "continue_final_message is not supported here: it goes with messages"))
	}
	q.refuseFreedom(f)
	parseReasoning(f)
	f.refuseOthers(harmlessOfResponses)
	if f.err != nil {
		return query{}, f.err
	}
	return q, nil
}

// refuseState refuses what needs a server that keeps answers.
func refuseState(f *fields) {
	for _, u := range unkept {
		isFalse := string(bytes.TrimSpace(f.raw[u.name])) == "false"
		if f.has(u.name) && (!u.mayBeFalse || !isFalse) {
			f.fail(invalid(u.name, "unsupported_parameter", "%s is not supported by this server, which keeps no answers: %s", u.name, u.advice))
		}
	}
}

// parseMetadata reads what the answer repeats.
func parseMetadata(f *fields) map[string]string {
	pairs := map[string]string{}
	if !f.has("metadata") {
		return pairs
	}
	if json.Unmarshal(f.raw["metadata"], &pairs) != nil {
		f.wrongType("metadata", "an object of strings")
		return nil
	}
	if len(pairs) > maxMetadata {
		f.fail(invalid("metadata", "invalid_value", "metadata has %d keys, at most %d are allowed", len(pairs), maxMetadata))
	}
	for key, value := range pairs {
		if len(key) > maxMetadataKey || len(value) > maxMetadataValue {
			f.fail(invalid("metadata", "invalid_value", "metadata has a key of more than %d bytes, or a value of more than %d", maxMetadataKey, maxMetadataValue))
			break
		}
	}
	return pairs
}

// parseInclude reads include and top_logprobs.
func parseInclude(f *fields, q *query) {
	var include []string
	if f.has("include") && json.Unmarshal(f.raw["include"], &include) != nil {
		f.wrongType("include", "an array of strings")
	}
	for i, what := range include {
		// There is no reasoning that could be included.
		if what != includeLogprobs && what != includeReasoning {
			f.fail(invalid("include", "unsupported_value", "include[%d] is %q: this server can include %s", i, clip(what), includeLogprobs))
		}
	}
	q.asked.logprobs = slices.Contains(include, includeLogprobs)
	n, ok := f.integer("top_logprobs", 0, engine.MaxLogprobs)
	switch {
	case q.asked.logprobs:
		q.request.Logprobs = int(n)
	case ok && n > 0:
		f.fail(invalid("top_logprobs", "invalid_value", "top_logprobs needs include to have %q", includeLogprobs))
	}
	q.asked.topLogprobs = int(n)
}

// parseTextFormat reads text: what the answer has to look like.
func parseTextFormat(f *fields, q *query) {
	text := f.object("text")
	if text == nil {
		return
	}
	q.asked.text = f.raw["text"]
	if o := text.object("format"); o != nil {
		switch kind := o.text("type"); kind {
		case "text":
		case kindObject:
			q.structure = structure{kind: kindObject, place: paramTextFormat}
		case kindSchema:
			q.structure = structure{kind: kindSchema, schema: parseNamedSchema(o, paramTextFormat), place: paramTextFormat + ".schema"}
		default:
			o.fail(invalid(paramTextFormat, "invalid_value", "%s.type is %q: it must be text, json_object or json_schema", paramTextFormat, clip(kind)))
		}
		o.refuseOthers(harmlessOfStructures)
		text.adopt(o)
	}
	text.refuseOthers(harmlessOfTexts)
	f.adopt(text)
}

// parseResponseTools reads the tools, which have no object function around them here.
func parseResponseTools(f *fields, q *query) {
	q.asked.tools, q.asked.parallel = f.list("tools"), true
	for i, raw := range q.asked.tools {
		tool := f.element("tools", i, raw)
		if tool == nil {
			return
		}
		kind := parseToolKind(tool)
		function := parseTool(tool, kind)
		if kind == toolFunction && !tool.has("strict") { // OpenAI's default here, and only here.
			function.Strict, function.Lenient = true, true
		}
		q.offer.Functions = append(q.offer.Functions, function)
		tool.refuseOthers(harmlessOfTools)
		f.adopt(tool)
	}
	checkTools(f, q.offer.Functions)
	parseToolChoice(f, &q.offer, false)
	q.asked.parallel = !q.offer.Single
	if f.has("tool_choice") {
		q.asked.toolChoice = f.raw["tool_choice"]
	}
}

// parseReasoning refuses to reason: what a model thinks is a matter of its template.
func parseReasoning(f *fields) {
	o := f.object("reasoning")
	if o == nil {
		return
	}
	o.refuseOthers(nil)
	f.adopt(o)
}
