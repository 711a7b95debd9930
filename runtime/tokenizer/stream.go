package tokenizer

import "strings"

// Decode returns the text of tokens. Ids that are not in the vocabulary are
// left out, and with skipSpecial special tokens too.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	p := t.decode.start(surroundings{})
	for _, id := range ids {
		t.push(p, id, skipSpecial)
	}
	p.flush()
	return p.take()
}

// DecodeAfter returns the text that tokens add to that of a prompt: a decoder
// that takes a blank off the beginning of a text does not take it off the
// beginning of what goes on with one. Special tokens are left out.
func (t *Tokenizer) DecodeAfter(prompt, ids []int32) string {
	s := t.NewStreamAfter(prompt)
	var text strings.Builder
	for _, id := range ids {
		text.WriteString(s.Push(id))
	}
	text.WriteString(s.Flush())
	return text.String()
}

// TokenBytes returns what a token adds to a text in the midst of others: with
// the blank that begins it, and, of a token that is part of a character only,
// just its bytes.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	p := t.decode.start(surroundings{inside: true, raw: true})
	t.push(p, id, false)
	p.flush()
	return []byte(p.take())
}

func (t *Tokenizer) push(p *pipeline, id int32, skipSpecial bool) {
	if token := t.TokenText(id); token != "" && (!skipSpecial || !t.special[id]) {
		p.push(token)
	}
}

// Stream decodes tokens one by one for streaming. It holds back what may still
// change, such as the bytes of an unfinished character; in the end it has given
// what Decode would, or DecodeAfter.
type Stream struct {
	t    *Tokenizer
	p    *pipeline
	skip string // What is still to come, and belongs to the prompt.
	show map[int32]bool
}

// NewStream returns a decoder that skips special tokens.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t, p: t.decode.start(surroundings{})} }

// contextTokens is how many tokens of a prompt are looked at: what a decoder
// knows of the text before is whether there is any, and a few characters.
const contextTokens = 64

// NewStreamAfter returns one for what follows these tokens.
func (t *Tokenizer) NewStreamAfter(prompt []int32) *Stream {
	s := t.NewStream()
	if end := prompt[max(0, len(prompt)-contextTokens):]; t.Decode(end, true) != "" {
		prompt = end
	}
	for _, id := range prompt {
		t.push(s.p, id, true)
	}
	known := len(s.p.take())
	// Where the decoder holds some of the prompt back, that comes with the answer.
	if whole := t.Decode(prompt, true); known < len(whole) {
		s.skip = whole[known:]
	}
	return s
}

// Showing lets these special tokens be part of the text, as they are spelled. It returns s.
func (s *Stream) Showing(tokens map[int32]bool) *Stream {
	s.show = tokens
	return s
}

// Push takes the next token and returns the text that it completes; often "".
func (s *Stream) Push(id int32) string {
	s.t.push(s.p, id, !s.show[id])
	return s.take()
}

// Flush returns what Push held back; unfinished characters become U+FFFD.
func (s *Stream) Flush() string {
	s.p.flush()
	return s.take()
}

func (s *Stream) take() string {
	text := s.p.take()
	switch {
	case s.skip == "" || text == "":
	case strings.HasPrefix(text, s.skip):
		text, s.skip = text[len(s.skip):], ""
	case strings.HasPrefix(s.skip, text):
		text, s.skip = "", s.skip[len(text):]
	default:
		s.skip = "" // The answer has changed it: it completes a character of the prompt.
	}
	return text
}
