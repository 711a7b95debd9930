package server

import (
	"context"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// meta is what all parts of one answer say of themselves.
type meta struct {
	id          string
	created     int64
	model       string
	fingerprint string
	// usageFollows says that the last chunk of a stream has the usage, which the
	// others then have as null.
	usageFollows bool
}

// format is how an endpoint words an answer.
type format interface {
	prefix() string
	// whole sends an answer when it is complete.
	whole(ctx context.Context, a *reply) error
	// teller words a stream.
	teller(a *reply, e *events) teller
}

// choiceFormat is how an endpoint words answers that have choices. Logprobs are in its own
// form.
type choiceFormat interface {
	whole(m meta, choices []part, out outcome) any
	first(m meta, choice int) any // nil if a stream begins with its first chunk.
	chunk(m meta, p part) any
	last(m meta, choice int, out outcome) any
	usage(m meta, out outcome) any
}

// choices is the format of an endpoint whose answers have choices.
type choices struct {
	idPrefix string
	choiceFormat
}

func (c choices) prefix() string { return c.idPrefix }

func (c choices) whole(ctx context.Context, a *reply) error { return a.whole(ctx, c.choiceFormat) }

func (c choices) teller(a *reply, e *events) teller { return &chunks{a, e, c.choiceFormat} }

// part is one choice, or a chunk of one: of its text or of its calls.
type part struct {
	index int
	text  string
	calls []toolcall.Call // Whole ones of a choice; of a chunk one at most, in pieces.
	probs *logprobs
}

// response is an answer, or a chunk of one, in either endpoint.
type response struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint,omitempty"`
	Choices     []any  `json:"choices"`
	// Usage is a *usage, which may be nil: null. Without one the field is missing.
	Usage any `json:"usage,omitempty"`
	// Adaptation is our extension: contract.AdaptationField.
	Adaptation *contract.Adaptation `json:"t2,omitempty"`
}

type usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	PromptDetails    promptDetails `json:"prompt_tokens_details"`
}

// promptDetails says how many tokens of the prompt were in the prefix cache and so were
// not read.
type promptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

func usageOf(out outcome) *usage {
	r := out.result
	return &usage{
		PromptTokens: r.PromptTokens, CompletionTokens: r.Tokens, TotalTokens: r.PromptTokens + r.Tokens,
		PromptDetails: promptDetails{CachedTokens: r.CachedTokens},
	}
}

func (m meta) response(object string, choices ...any) response {
	if choices == nil {
		choices = []any{}
	}
	r := response{ID: m.id, Object: object, Created: m.created, Model: m.model, Fingerprint: m.fingerprint, Choices: choices}
	if m.usageFollows {
		r.Usage = (*usage)(nil)
	}
	return r
}

// complete adds what only a complete answer has.
func (r response) complete(out outcome) response {
	r.Adaptation, r.Usage = &out.adaptation, usageOf(out)
	return r
}

// ended adds what a stream says at its end, with the last of its choices.
func (r response) ended(choice int, out outcome) response {
	if choice == len(out.finishes)-1 {
		r.Adaptation = &out.adaptation
	}
	return r
}

// chatFormat is contract.PathChatCompletions.
type chatFormat struct{}

const (
	chatObject = "chat.completion"
	chatChunk  = "chat.completion.chunk"
)

type chatChoice struct {
	Index    int          `json:"index"`
	Message  *chatMessage `json:"message,omitempty"`
	Delta    *chatDelta   `json:"delta,omitempty"`
	Logprobs any          `json:"logprobs"`
	Finish   *string      `json:"finish_reason"`
}

type chatMessage struct {
	Role    string     `json:"role"`
	Content *string    `json:"content"` // null if there are calls alone.
	Refusal *string    `json:"refusal"`
	Calls   []chatCall `json:"tool_calls,omitempty"`
}

type chatDelta struct {
	Role    string     `json:"role,omitempty"`
	Content *string    `json:"content,omitempty"`
	Calls   []chatCall `json:"tool_calls,omitempty"`
}

// chatCall is a call of a tool, or a piece of one: the first has its id, type and name.
type chatCall struct {
	Index    *int          `json:"index,omitempty"` // Of pieces.
	ID       string        `json:"id,omitempty"`
	Type     string        `json:"type,omitempty"`
	Function *chatFunction `json:"function,omitempty"` // Or Custom.
	Custom   *chatCustom   `json:"custom,omitempty"`
}

type chatCustom struct {
	Name  string `json:"name,omitempty"`
	Input string `json:"input"`
}

type chatFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func newChatCall(c toolcall.Call) chatCall {
	call, kind := chatCall{ID: c.ID}, toolFunction
	if c.Text {
		kind, call.Custom = toolCustom, &chatCustom{Name: c.Name, Input: c.Arguments}
	} else {
		call.Function = &chatFunction{Name: c.Name, Arguments: c.Arguments}
	}
	if c.ID != "" {
		call.Type = kind
	}
	return call
}

func (chatFormat) whole(m meta, choices []part, out outcome) any {
	list := make([]any, len(choices))
	for i, p := range choices {
		message := &chatMessage{Role: "assistant"}
		if p.text != "" || len(p.calls) == 0 {
			message.Content = &p.text
		}
		for _, c := range p.calls {
			message.Calls = append(message.Calls, newChatCall(c))
		}
		list[i] = chatChoice{Index: p.index, Message: message, Logprobs: p.probs.chat(), Finish: &out.finishes[p.index]}
	}
	return m.response(chatObject, list...).complete(out)
}

func (chatFormat) first(m meta, choice int) any {
	empty := ""
	return m.response(chatChunk, chatChoice{Index: choice, Delta: &chatDelta{Role: "assistant", Content: &empty}})
}

func (chatFormat) chunk(m meta, p part) any {
	delta := &chatDelta{}
	if len(p.calls) == 0 {
		delta.Content = &p.text
	}
	for _, c := range p.calls {
		call := newChatCall(c)
		call.Index = &c.Index
		delta.Calls = append(delta.Calls, call)
	}
	return m.response(chatChunk, chatChoice{Index: p.index, Delta: delta, Logprobs: p.probs.chat()})
}

func (chatFormat) last(m meta, choice int, out outcome) any {
	return m.response(chatChunk, chatChoice{Index: choice, Delta: &chatDelta{}, Finish: &out.finishes[choice]}).ended(choice, out)
}

func (chatFormat) usage(m meta, out outcome) any {
	r := m.response(chatChunk)
	r.Usage = usageOf(out)
	return r
}

// textFormat is contract.PathCompletions.
type textFormat struct{}

const textObject = "text_completion"

type textChoice struct {
	Index    int     `json:"index"`
	Text     string  `json:"text"`
	Logprobs any     `json:"logprobs"`
	Finish   *string `json:"finish_reason"`
}

func (textFormat) whole(m meta, choices []part, out outcome) any {
	list := make([]any, len(choices))
	for i, p := range choices {
		list[i] = textChoice{Index: p.index, Text: p.text, Logprobs: p.probs.text(), Finish: &out.finishes[p.index]}
	}
	return m.response(textObject, list...).complete(out)
}

func (textFormat) first(meta, int) any { return nil }

func (textFormat) chunk(m meta, p part) any {
	return m.response(textObject, textChoice{Index: p.index, Text: p.text, Logprobs: p.probs.text()})
}

func (textFormat) last(m meta, choice int, out outcome) any {
	return m.response(textObject, textChoice{Index: choice, Finish: &out.finishes[choice]}).ended(choice, out)
}

func (textFormat) usage(m meta, out outcome) any {
	r := m.response(textObject)
	r.Usage = usageOf(out)
	return r
}
