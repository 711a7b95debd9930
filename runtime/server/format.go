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
	whole(m meta, text string, probs *logprobs, out outcome) any
	first(m meta) any // nil if a stream begins with its first piece.
	piece(m meta, text string, probs *logprobs) any
	last(m meta, out outcome) any
	usage(m meta, out outcome) any
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

// finished adds what only a complete answer has.
func (r response) finished(out outcome, withUsage bool) response {
	r.Adaptation = &out.adaptation
	if withUsage {
		r.Usage = usageOf(out)
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

func (chatFormat) whole(m meta, text string, probs *logprobs, out outcome) any {
	return m.response(chatObject, chatChoice{
		Message:  &chatMessage{Role: "assistant", Content: text},
		Logprobs: probs.chat(), Finish: &out.result.Finish,
	}).finished(out, true)
}

func (chatFormat) first(m meta) any {
	empty := ""
	return m.response(chatChunk, chatChoice{Delta: &chatDelta{Role: "assistant", Content: &empty}})
}

func (chatFormat) piece(m meta, text string, probs *logprobs) any {
	return m.response(chatChunk, chatChoice{Delta: &chatDelta{Content: &text}, Logprobs: probs.chat()})
}

func (chatFormat) last(m meta, out outcome) any {
	return m.response(chatChunk, chatChoice{Delta: &chatDelta{}, Finish: &out.result.Finish}).finished(out, false)
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

func (textFormat) whole(m meta, text string, probs *logprobs, out outcome) any {
	return m.response(textObject, textChoice{Text: text, Logprobs: probs.text(), Finish: &out.result.Finish}).finished(out, true)
}

func (textFormat) first(meta) any { return nil }

func (textFormat) piece(m meta, text string, probs *logprobs) any {
	return m.response(textObject, textChoice{Text: text, Logprobs: probs.text()})
}

func (textFormat) last(m meta, out outcome) any {
	return m.response(textObject, textChoice{Finish: &out.result.Finish}).finished(out, false)
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
