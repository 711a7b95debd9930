package server

import (
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// query is a request of either endpoint, understood but not yet answered.
type query struct {
	model string
	// messages of a chat; or text, or tokens, to be completed.
	messages []tokenizer.Message
	text     string
	tokens   []int32

	stream, includeUsage bool
	// choices is how many answers are wanted, each with draws of its own.
	choices int
	request engine.Request // Without prompt and weights.
}

// Bounds of what a request may ask for.
const (
	maxTemperature    = 2
	maxPenalty        = 2
	maxBias           = 100
	maxBiased         = 1024 // Tokens with a bias.
	maxStops          = 16
	maxChoices        = 16
	maxStopBytes      = 256
	defaultCompletion = 16 // OpenAI's default of max_tokens for completions.
)

// parseChat reads a request of contract.PathChatCompletions.
func parseChat(body []byte) (query, error) {
	f, err := parseFields(body)
	if err != nil {
		return query{}, err
	}
	q := parseCommon(f)
	q.messages = parseMessages(f)
	if n, ok := f.integer("max_completion_tokens", 1, math.MaxInt32); ok {
		q.request.MaxTokens = int(n)
	}
	if f.flag("logprobs") {
		n, _ := f.integer("top_logprobs", 0, engine.MaxLogprobs)
		q.request.Logprobs = int(n)
	} else if f.has("top_logprobs") {
		f.fail(invalid("top_logprobs", "invalid_value", "top_logprobs needs logprobs to be true"))
	}
	for _, name := range []string{"tools", "functions"} {
		f.unsupported(name, "[]")
	}
	f.unsupported("tool_choice", `"none"`, `"auto"`)
	f.unsupported("response_format", `{"type":"text"}`)
	f.unsupported("audio")
	if f.err != nil {
		return query{}, f.err
	}
	return q, nil
}

// parseCompletion reads a request of contract.PathCompletions.
func parseCompletion(body []byte) (query, error) {
	f, err := parseFields(body)
	if err != nil {
		return query{}, err
	}
	q := parseCommon(f)
	q.text, q.tokens = parsePrompt(f)
	if q.request.MaxTokens == 0 {
		q.request.MaxTokens = defaultCompletion
	}
	if n, ok := f.integer("logprobs", 0, engine.MaxLogprobs); ok {
		q.request.Logprobs = int(n)
	}
	f.unsupported("best_of", "1")
	f.unsupported("echo", "false")
	f.unsupported("suffix", `""`)
	if f.err != nil {
		return query{}, f.err
	}
	return q, nil
}

// parseCommon reads what both endpoints have.
func parseCommon(f *fields) query {
	q := query{model: f.text("model"), stream: f.flag("stream")}
	if q.model == "" {
		f.fail(invalid("model", "missing_required_parameter", "model is missing: name one of those that GET /v1/models lists"))
	}
	r := &q.request
	r.Logprobs = -1
	r.Sampling = sample.Params{
		Temperature: f.number("temperature", 0, maxTemperature, 1),
		TopP:        f.number("top_p", 0, 1, 1),

		FrequencyPenalty: f.number("frequency_penalty", -maxPenalty, maxPenalty, 0),
		PresencePenalty:  f.number("presence_penalty", -maxPenalty, maxPenalty, 0),
	}
	if k, ok := f.integer("top_k", -1, math.MaxInt32); ok {
		r.Sampling.TopK = int(max(k, 0)) // −1 means all to other servers.
	}
	if n, ok := f.integer("max_tokens", 1, math.MaxInt32); ok {
		r.MaxTokens = int(n)
	}
	r.Seed = rand.Uint64() //nolint:gosec // Sampling hides nothing.
	if seed, ok := f.integer("seed", math.MinInt64, math.MaxInt64); ok {
		r.Seed = uint64(seed)
	}
	r.Stop = parseStop(f)
	if o := f.object("stream_options"); o != nil {
		q.includeUsage = o.flag("include_usage")
		f.adopt(o)
		if !q.stream {
			f.fail(invalid("stream_options", "invalid_value", "stream_options needs stream to be true"))
		}
	}
	q.choices = 1
	if n, ok := f.integer("n", 1, maxChoices); ok {
		q.choices = int(n)
	}
	r.Sampling.Bias = parseBias(f)
	return q
}

// parseBias reads logit_bias: an object of token ids and what is added to their
// logits. Whether the model has the tokens is known later (checkBias).
func parseBias(f *fields) map[int32]float64 {
	o := f.object("logit_bias")
	if o == nil || len(o.raw) == 0 {
		return nil
	}
	if len(o.raw) > maxBiased {
		f.fail(invalid("logit_bias", "invalid_value", "logit_bias has %d tokens, at most %d are allowed", len(o.raw), maxBiased))
		return nil
	}
	bias := make(map[int32]float64, len(o.raw))
	// In order, so that of several mistakes the same one is always told.
	for _, key := range slices.Sorted(maps.Keys(o.raw)) {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || strconv.FormatInt(id, 10) != key {
			o.fail(invalid("logit_bias", "invalid_value", "logit_bias has the key %q: keys are token ids, such as \"42\"", clip(key)))
			break
		}
		bias[int32(id)] = o.number(key, -maxBias, maxBias, 0)
	}
	f.adopt(o)
	return bias
}

// parseMessages reads the conversation.
func parseMessages(f *fields) []tokenizer.Message {
	list := f.list("messages")
	if len(list) == 0 {
		f.fail(invalid("messages", "missing_required_parameter", "messages is missing or empty: a chat needs at least one message"))
		return nil
	}
	messages := make([]tokenizer.Message, 0, len(list))
	for i, raw := range list {
		o := f.element("messages", i, raw)
		if o == nil {
			return nil
		}
		m := tokenizer.Message{Role: o.text("role"), Content: parseContent(o)}
		switch m.Role {
		case "developer": // OpenAI's newer word for it.
			m.Role = "system"
		case "system", "user", "assistant":
		default:
			o.fail(invalid(o.prefix+"role", "invalid_value", "%srole is %q: it must be system, developer, user or assistant", o.prefix, clip(m.Role)))
		}
		o.unsupported("tool_calls", "[]")
		f.adopt(o)
		if f.err != nil {
			return nil
		}
		messages = append(messages, m)
	}
	return messages
}

// parseContent reads a message's content: text, or a list of text parts.
func parseContent(o *fields) string {
	switch kindOf(o.raw["content"]) {
	case "a string":
		return o.text("content")
	case "an array":
	case "nothing", "null":
		o.fail(invalid(o.prefix+"content", "missing_required_parameter", "%scontent is missing", o.prefix))
		return ""
	default:
		o.wrongType("content", "a string or an array of parts")
		return ""
	}
	var text strings.Builder
	for i, raw := range o.list("content") {
		part := o.element("content", i, raw)
		if part == nil {
			return ""
		}
		if kind := part.text("type"); kind != "text" {
			part.fail(invalid(part.prefix+"type", "invalid_value", "%stype is %q: this server reads text only", part.prefix, clip(kind)))
		}
		text.WriteString(part.text("text"))
		o.adopt(part)
	}
	return text.String()
}

// parsePrompt reads the text or tokens to complete: a string, an array of one
// string, or an array of token ids.
func parsePrompt(f *fields) (text string, tokens []int32) {
	const want = "a string, an array of one string or an array of token ids"
	switch kindOf(f.raw["prompt"]) {
	case "a string":
		return f.text("prompt"), nil
	case "an array":
	case "nothing", "null":
		f.fail(invalid("prompt", "missing_required_parameter", "prompt is missing"))
		return "", nil
	default:
		f.wrongType("prompt", want)
		return "", nil
	}
	var texts []string
	if json.Unmarshal(f.raw["prompt"], &texts) == nil && len(texts) > 0 {
		if len(texts) > 1 {
			f.fail(invalid("prompt", "unsupported_value", "prompt has %d texts: this server takes one a request", len(texts)))
		}
		return texts[0], nil
	}
	if json.Unmarshal(f.raw["prompt"], &tokens) != nil || len(tokens) == 0 {
		f.fail(invalid("prompt", "invalid_type", "prompt must be %s", want))
	}
	return "", tokens
}

// parseStop reads the stop texts: a string or an array of strings.
func parseStop(f *fields) []string {
	if !f.has("stop") {
		return nil
	}
	var stops []string
	if kindOf(f.raw["stop"]) == "a string" {
		stops = []string{f.text("stop")}
	} else if json.Unmarshal(f.raw["stop"], &stops) != nil {
		f.wrongType("stop", "a string or an array of strings")
		return nil
	}
	if len(stops) > maxStops {
		f.fail(invalid("stop", "invalid_value", "stop has %d texts, at most %d are allowed", len(stops), maxStops))
	}
	for _, s := range stops {
		if s == "" || len(s) > maxStopBytes {
			f.fail(invalid("stop", "invalid_value", "each text of stop must have 1 to %d bytes", maxStopBytes))
		}
	}
	return stops
}

// clip shortens what a client sent before it is repeated in an error.
func clip(s string) string {
	const most = 40
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}
