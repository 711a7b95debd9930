package server

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// logprobs are the log-probabilities of some tokens. Tokens are spelled as in the
// midst of a text, with the blank that begins them; the bytes of all tokens
// together are the text's.
type logprobs struct {
	tok    *tokenizer.Tokenizer
	tokens []engine.Logprob
	at     *position // Where the first of them begins.
}

// logprobs returns nil if none were asked for.
func (a *reply) logprobs(tokens []engine.Logprob, at *position) *logprobs {
	c := a.server.core.Load()
	if a.query.request.Logprobs < 0 || c == nil {
		return nil
	}
	return &logprobs{tok: c.tok, tokens: tokens, at: at}
}

// position is a place in a text, counted in characters.
type position struct {
	characters int
	begun      []byte // Of the next one.
}

// pass moves it behind a token, and returns where the token begins.
func (p *position) pass(token []byte) int {
	begin := p.characters
	p.begun = append(p.begun, token...)
	for len(p.begun) > 0 && utf8.FullRune(p.begun) {
		_, n := utf8.DecodeRune(p.begun)
		p.begun = p.begun[n:]
		p.characters++
	}
	return begin
}

// lowest stands for log-probabilities below it, as in OpenAI's API; JSON has no
// infinity.
const lowest = -9999

// topLogprob is one token in the chat's form.
type topLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

type chatLogprob struct {
	topLogprob

	Top []topLogprob `json:"top_logprobs"`
}

// chat is the chat's form.
func (l *logprobs) chat() any {
	if l == nil {
		return nil
	}
	return map[string]any{"content": l.spelled(), "refusal": nil}
}

// spelled are the tokens as texts and bytes.
func (l *logprobs) spelled() []chatLogprob {
	one := func(p engine.Logprob) topLogprob {
		b := l.tok.TokenBytes(p.Token)
		t := topLogprob{Token: spell(b), Logprob: max(p.Value, lowest), Bytes: make([]int, len(b))}
		for i, c := range b {
			t.Bytes[i] = int(c)
		}
		return t
	}
	content := []chatLogprob{}
	for _, p := range l.tokens {
		c := chatLogprob{topLogprob: one(p), Top: []topLogprob{}}
		for _, t := range p.Top {
			c.Top = append(c.Top, one(t))
		}
		content = append(content, c)
	}
	return content
}

// spell is a token as text. Part of a character is spelled byte by byte, as
// OpenAI's API does: a replacement character would be the same for all.
func spell(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var text strings.Builder
	for _, c := range b {
		fmt.Fprintf(&text, `\x%02x`, c)
	}
	return text.String()
}

// text is the older form, in which the text of a token is a key.
func (l *logprobs) text() any {
	if l == nil {
		return nil
	}
	tokens, values, tops, offsets := []string{}, []float64{}, []map[string]float64{}, []int{}
	for _, p := range l.tokens {
		b := l.tok.TokenBytes(p.Token)
		own := spellText(b)
		top := map[string]float64{own: max(p.Value, lowest)}
		for _, t := range p.Top {
			if t.Token == p.Token {
				continue
			}
			key := spellText(l.tok.TokenBytes(t.Token))
			if _, taken := top[key]; taken { // Another token with the same text: it is told by its number.
				key = "token_id:" + strconv.Itoa(int(t.Token))
			}
			top[key] = max(t.Value, lowest)
		}
		tokens, values, tops, offsets = append(tokens, own), append(values, max(p.Value, lowest)), append(tops, top), append(offsets, l.at.pass(b))
	}
	return map[string]any{"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
}

// spellText is spell in the older form, which marks parts of characters.
func spellText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return "bytes:" + spell(b)
}
