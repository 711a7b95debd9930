package server

import (
	"strings"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// meta is what all parts of one answer say of themselves.
type meta struct {
	id          string
	created     int64
	model       string
	fingerprint string
}

// format is how an endpoint words an answer. Logprobs are in its own form.
type format interface {
	prefix() string
	whole(m meta, choices []part, out outcome) any
	first(m meta, choice int) any // nil if a stream begins with its first piece.
	piece(m meta, p part) any
	last(m meta, choice int, out outcome) any
	usage(m meta, out outcome) any
}

// part is the text of one choice, or a piece of it.
type part struct {
	index int
	text  string
	probs *logprobs
}

// response is an answer, or a piece of one, in either endpoint.
type response struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Fingerprint string `json:"system_fingerprint,omitempty"`
	Choices     []any  `json:"choices"`
	Usage       *usage `json:"usage,omitempty"`
	// Adaptation is our extension: contract.AdaptationField.
	Adaptation *contract.Adaptation `json:"t2,omitempty"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func usageOf(out outcome) *usage {
	r := out.result
	return &usage{PromptTokens: r.PromptTokens, CompletionTokens: r.Tokens, TotalTokens: r.PromptTokens + r.Tokens}
}

func (m meta) response(object string, choices ...any) response {
	if choices == nil {
		choices = []any{}
	}
	return response{ID: m.id, Object: object, Created: m.created, Model: m.model, Fingerprint: m.fingerprint, Choices: choices}
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
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

func (chatFormat) prefix() string { return "chatcmpl-" }

func (chatFormat) whole(m meta, choices []part, out outcome) any {
	list := make([]any, len(choices))
	for i, p := range choices {
		list[i] = chatChoice{
			Index: p.index, Message: &chatMessage{Role: "assistant", Content: p.text},
			Logprobs: p.probs.chat(), Finish: &out.finishes[p.index],
		}
	}
	return m.response(chatObject, list...).complete(out)
}

func (chatFormat) first(m meta, choice int) any {
	empty := ""
	return m.response(chatChunk, chatChoice{Index: choice, Delta: &chatDelta{Role: "assistant", Content: &empty}})
}

func (chatFormat) piece(m meta, p part) any {
	return m.response(chatChunk, chatChoice{Index: p.index, Delta: &chatDelta{Content: &p.text}, Logprobs: p.probs.chat()})
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

func (textFormat) prefix() string { return "cmpl-" }

func (textFormat) whole(m meta, choices []part, out outcome) any {
	list := make([]any, len(choices))
	for i, p := range choices {
		list[i] = textChoice{Index: p.index, Text: p.text, Logprobs: p.probs.text(), Finish: &out.finishes[p.index]}
	}
	return m.response(textObject, list...).complete(out)
}

func (textFormat) first(meta, int) any { return nil }

func (textFormat) piece(m meta, p part) any {
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

// logprobs are the log-probabilities of some tokens, with the text that they
// begin at.
type logprobs struct {
	tok    *tokenizer.Tokenizer
	tokens []engine.Logprob
	offset int
}

// logprobs returns nil if none were asked for.
func (a *reply) logprobs(tokens []engine.Logprob, offset int) *logprobs {
	c := a.server.core.Load()
	if a.query.request.Logprobs < 0 || c == nil {
		return nil
	}
	return &logprobs{tok: c.tok, tokens: tokens, offset: offset}
}

func (l *logprobs) spell(id int32) string { return l.tok.Decode([]int32{id}, false) }

type chatLogprob struct {
	Token   string        `json:"token"`
	Logprob float64       `json:"logprob"`
	Bytes   []int         `json:"bytes"` // null where the token is part of a character.
	Top     []chatLogprob `json:"top_logprobs,omitempty"`
}

func (l *logprobs) chat() any {
	if l == nil {
		return nil
	}
	one := func(p engine.Logprob) chatLogprob {
		c := chatLogprob{Token: l.spell(p.Token), Logprob: p.Value}
		if !strings.ContainsRune(c.Token, utf8.RuneError) {
			c.Bytes = []int{}
			for _, b := range []byte(c.Token) {
				c.Bytes = append(c.Bytes, int(b))
			}
		}
		return c
	}
	content := []chatLogprob{}
	for _, p := range l.tokens {
		c := one(p)
		for _, t := range p.Top {
			c.Top = append(c.Top, one(t))
		}
		content = append(content, c)
	}
	return map[string]any{"content": content}
}

// text is the older form; where two tokens are spelled alike, the more likely
// one counts.
func (l *logprobs) text() any {
	if l == nil {
		return nil
	}
	tokens, values, tops, offsets := []string{}, []float64{}, []map[string]float64{}, []int{}
	offset := l.offset
	for _, p := range l.tokens {
		spelled := l.spell(p.Token)
		top := map[string]float64{}
		for _, t := range append(p.Top, p) {
			s := l.spell(t.Token)
			if value, ok := top[s]; !ok || t.Value > value {
				top[s] = t.Value
			}
		}
		tokens, values, tops, offsets = append(tokens, spelled), append(values, p.Value), append(tops, top), append(offsets, offset)
		offset += len(spelled)
	}
	return map[string]any{"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
}
