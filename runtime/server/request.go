package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// query is a request of either endpoint, understood but not yet answered.
type query struct {
	model string
	// messages of a chat; or text, or tokens, to be completed.
	messages []tokenizer.Message
	// places are where the messages are in the request, if it has them elsewhere than in
	// messages.
	places []string
	chat   tokenizer.ChatOptions
	text   string
	tokens []int32
	// addSpecial adds the tokens that begin and end a text.
	addSpecial bool

	stream, includeUsage bool
	// choices is how many answers are wanted, each with draws of its own.
	choices int
	// longest is the parameter that says how long an answer may be; "" if none does.
	longest string
	// structure is what the answer has to look like, and offer what the model may call
	// instead.
	structure structure
	offer     toolcall.Offer
	request   engine.Request // Without prompt and weights.
	// names are what the client calls the conversation, or who has it: user and
	// prompt_cache_key, as they came.
	names string
	// asked is what an answer of contract.PathResponses repeats of its request, nil for
	// other endpoints.
	asked *asked
}

// param is the parameter that has the prompt.
func (q query) param() string {
	switch {
	case q.asked != nil:
		return "input"
	case q.messages != nil:
		return "messages"
	default:
		return "prompt"
	}
}

// placeOfCalls is where message i, which has calls or a result, has them in the request.
func (q query) placeOfCalls(i int) string {
	if q.places != nil {
		return q.places[i]
	}
	return fmt.Sprintf("messages[%d].tool_calls", i)
}

// goesOn reports whether the answer goes on with a text that the client has.
func (q query) goesOn() bool { return q.messages == nil || q.chat.ContinueFinal }

// Bounds of what a request may ask for.
const (
	maxTemperature    = 2
	maxPenalty        = 2
	maxBias           = 100
	maxBiased         = 1024 // Tokens with a bias.
	maxStops          = 16
	maxChoices        = 16
	maxStopBytes      = 256
	maxSaltBytes      = 256
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
	parseChatOptions(f, &q.chat)
	if n, ok := f.integer("max_completion_tokens", 1, math.MaxInt32); ok {
		q.request.MaxTokens, q.longest = int(n), "max_completion_tokens"
	}
	if f.flag("logprobs") {
		n, _ := f.integer("top_logprobs", 0, engine.MaxLogprobs)
		q.request.Logprobs = int(n)
	} else if n, ok := f.integer("top_logprobs", 0, engine.MaxLogprobs); ok && n > 0 {
		f.fail(invalid("top_logprobs", "invalid_value", "top_logprobs needs logprobs to be true"))
	}
	q.structure = parseStructure(f)
	q.offer = parseTools(f)
	q.refuseFreedom(f)
	f.refuseOthers(with(harmless, harmlessOfChats))
	if f.err != nil {
		return query{}, f.err
	}
	return q, nil
}

// refuseFreedom refuses what does not go with an answer that has a structure, or may be a
// call.
func (q query) refuseFreedom(f *fields) {
	asks := q.structure.param()
	switch {
	case len(q.offer.Functions) > 0:
		asks = "tools"
	case q.structure.kind == "":
		return
	}
	if q.request.IgnoreStopTokens {
		f.fail(invalid("ignore_eos", "invalid_value", "ignore_eos and %s exclude each other: an answer of a structure ends where that does", asks))
	}
	if q.chat.ContinueFinal {
		f.fail(invalid("continue_final_message", "invalid_value",
			"continue_final_message and %s exclude each other: an answer of a structure is one from its beginning", asks))
	}
}

// with returns both tables in one.
func with(table, more map[string][]any) map[string][]any {
	both := maps.Clone(table)
	maps.Copy(both, more)
	return both
}

// parseChatOptions reads how the conversation is put into the model's template.
func parseChatOptions(f *fields, o *tokenizer.ChatOptions) {
	prompts, given := f.flag("add_generation_prompt"), f.has("add_generation_prompt")
	o.NoGenerationPrompt = given && !prompts
	if o.ContinueFinal = f.flag("continue_final_message"); o.ContinueFinal && given && prompts {
		f.fail(invalid("continue_final_message", "invalid_value",
			"continue_final_message and add_generation_prompt exclude each other: an answer goes on with the last message, or begins"))
	}
	if !f.has("chat_template_kwargs") {
		return
	}
	d := json.NewDecoder(bytes.NewReader(f.raw["chat_template_kwargs"]))
	d.UseNumber() // Templates tell 1 from 1.0.
	if d.Decode(&o.Variables) != nil {
		f.wrongType("chat_template_kwargs", "an object")
	}
}

// parseCompletion reads a request of contract.PathCompletions.
func parseCompletion(body []byte) (query, error) {
	f, err := parseFields(body)
	if err != nil {
		return query{}, err
	}
	q := parseCommon(f)
	q.text, q.tokens = parsePrompt(f)
	q.addSpecial = !f.has("add_special_tokens") || f.flag("add_special_tokens")
	if n, ok := f.integer("logprobs", 0, engine.MaxLogprobs); ok {
		q.request.Logprobs = int(n)
	}
	if n, ok := f.integer("best_of", 1, maxChoices); ok && int(n) != q.choices {
		f.fail(invalid("best_of", "unsupported_value", "best_of is %d: this server returns all the answers that it makes, which are n, %d", n, q.choices))
	}
	f.refuseOthers(harmless)
	if f.err != nil {
		return query{}, f.err
	}
	return q, nil
}

// parseCommon reads what chats and completions have.
func parseCommon(f *fields) query {
	q := parseSampling(f)
	if n, ok := f.integer("max_tokens", 1, math.MaxInt32); ok {
		q.request.MaxTokens, q.longest = int(n), "max_tokens"
	}
	parseStreamOptions(f, &q)
	if n, ok := f.integer("n", 1, maxChoices); ok {
		q.choices = int(n)
	}
	return q
}

// parseStreamOptions reads stream_options.
func parseStreamOptions(f *fields, q *query) {
	o := f.object("stream_options")
	if o == nil {
		return
	}
	if q.asked == nil {
		q.includeUsage = o.flag("include_usage")
	}
	o.refuseOthers(harmlessOfStreams)
	f.adopt(o)
	if !q.stream {
		f.fail(invalid("stream_options", "invalid_value", "stream_options needs stream to be true"))
	}
}

// parseSampling reads what all endpoints have: the model, and how it draws one answer.
func parseSampling(f *fields) query {
	q := query{model: f.text("model"), stream: f.flag("stream"), choices: 1}
	if q.model == "" {
		f.fail(invalid("model", "missing_required_parameter", "model is missing: name one of those that GET /v1/models lists"))
	}
	q.names = string(f.raw["user"]) + string(f.raw["prompt_cache_key"])
	r := &q.request
	r.Logprobs = -1
	r.Sampling = sample.Params{
		Temperature: f.number("temperature", 0, maxTemperature, 1),
		TopP:        f.number("top_p", 0, 1, 1),
		MinP:        f.number("min_p", 0, 1, 0),

		RepetitionPenalty: f.number("repetition_penalty", sample.MinRepetition, sample.MaxRepetition, 1),

		FrequencyPenalty: f.number("frequency_penalty", -maxPenalty, maxPenalty, 0),
		PresencePenalty:  f.number("presence_penalty", -maxPenalty, maxPenalty, 0),
	}
	if k, ok := f.integer("top_k", -1, math.MaxInt32); ok {
		r.Sampling.TopK = int(max(k, 0)) // −1 means all to other servers.
	}
	r.IgnoreStopTokens = f.flag("ignore_eos")
	r.Salt = parseSalt(f)
	r.Seed = rand.Uint64() //nolint:gosec // Sampling hides nothing.
	if seed, ok := f.integer("seed", math.MinInt64, math.MaxInt64); ok {
		r.Seed = uint64(seed)
	}
	r.Stop = parseStop(f)
	r.Sampling.Bias = parseBias(f)
	return q
}

// parseSalt reads cache_salt, as vLLM has it: what a request has in the prefix cache is
// found by requests with the same salt only.
func parseSalt(f *fields) string {
	salt := f.text("cache_salt")
	if f.has("cache_salt") && (salt == "" || len(salt) > maxSaltBytes) {
		f.fail(invalid("cache_salt", "invalid_value", "cache_salt has %d bytes: give 1 to %d, or leave it out", len(salt), maxSaltBytes))
	}
	return salt
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

// parsePrompt reads the text or tokens to complete: a string, an array of token
// ids, or an array of one of these.
func parsePrompt(f *fields) (text string, tokens []int32) {
	const want = "a string, an array of token ids, or an array of one string or one array of token ids"
	f.has("prompt")
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
	var lists [][]*int32
	if json.Unmarshal(f.raw["prompt"], &lists) != nil || len(lists) == 0 {
		lists = make([][]*int32, 1)
		if json.Unmarshal(f.raw["prompt"], &lists[0]) != nil {
			lists[0] = nil
		}
	}
	if len(lists) > 1 {
		f.fail(invalid("prompt", "unsupported_value", "prompt has %d lists of tokens: this server takes one a request", len(lists)))
	}
	for _, id := range lists[0] {
		if id == nil { // A null would be token 0.
			tokens = nil
			break
		}
		tokens = append(tokens, *id)
	}
	if len(tokens) == 0 {
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
