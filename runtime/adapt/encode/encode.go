// Package encode is pass 1's view of a tokenizer (adapt.Encoder): whoever serves and
// whoever trains a classifier encode its question and its labels by it.
package encode

import (
	"errors"
	"strings"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// encoder is pass 1's view of the tokenizer.
type encoder struct{ tok *tokenizer.Tokenizer }

// New returns pass 1's view of a tokenizer. A model that chats sees a
// conversation of one message; one that only completes text sees the text.
func New(t *tokenizer.Tokenizer) adapt.Encoder { return encoder{t} }

// Prompt implements adapt.Encoder.
func (e encoder) Prompt(message string) ([]int32, error) {
	if e.tok.HasChatTemplate() {
		return e.tok.EncodeChat([]tokenizer.Message{{Role: "user", Content: message}})
	}
	ids, err := e.tok.EncodePlain(message)
	if bos, ok := e.tok.BOS(); ok && err == nil {
		ids = append([]int32{bos}, ids...)
	}
	return ids, err
}

// Excerpt implements adapt.Encoder.
func (e encoder) Excerpt(text string, tokens int) (string, error) {
	if len(text) <= tokens {
		return text, nil // A token is a byte at least.
	}
	ids, err := e.tok.EncodePlain(text)
	if err != nil || len(ids) <= tokens {
		return text, err
	}
	begin, end := e.tok.Decode(ids[:tokens-tokens/2], false), e.tok.Decode(ids[len(ids)-tokens/2:], false)
	return strings.TrimRight(begin, halfRune) + excerptGap + strings.TrimLeft(end, halfRune), nil
}

// halfRune is what a decoded text has where tokens were cut within a rune.
const halfRune = "\uFFFD"

// excerptGap stands for what an excerpt leaves out.
const excerptGap = "\n[…]\n"

// Answer implements adapt.Encoder. Where no token ends a turn, the end of the
// line does, and the label is the next word of the text.
func (e encoder) Answer(text string) ([]int32, error) {
	if e.tok.HasChatTemplate() {
		ids, err := e.tok.EncodePlain(text)
		if err != nil {
			return nil, err
		}
		eos := e.tok.EOS()
		if len(eos) == 0 {
			return nil, errors.New("the tokenizer names no token that ends a turn (eos_token)")
		}
		return append(ids, eos[0]), nil
	}
	before, err := e.tok.EncodePlain(":")
	if err != nil {
		return nil, err
	}
	ids, err := e.tok.EncodePlain(": " + text + "\n")
	if err != nil {
		return nil, err
	}
	for len(before) > 0 && len(ids) > 0 && before[0] == ids[0] {
		before, ids = before[1:], ids[1:]
	}
	return ids, nil
}
