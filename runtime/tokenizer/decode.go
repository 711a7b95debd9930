package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decoder turns the spellings of tokens into parts of a text; the parts are
// joined in the end.
type decoder func([]string) ([]string, error)

func parseDecoder(raw json.RawMessage) (decoder, error) {
	components, err := flatten(raw, func(c component) []json.RawMessage { return c.Decoders })
	if err != nil {
		return nil, err
	}
	if len(components) == 0 {
		// Without a decoder tokens are words.
		return func(tokens []string) ([]string, error) { return []string{strings.Join(tokens, " ")}, nil }, nil
	}
	var steps []decoder
	for _, c := range components {
		step, err := decoderOf(c)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return func(tokens []string) ([]string, error) {
		var err error
		before := totalLen(tokens)
		for _, step := range steps {
			if tokens, err = step(tokens); err == nil {
				err = checkGrowth(before, totalLen(tokens))
			}
			if err != nil {
				return nil, err
			}
		}
		return tokens, nil
	}, nil
}

func totalLen(tokens []string) int {
	n := 0
	for _, t := range tokens {
		n += len(t)
	}
	return n
}

func decoderOf(c component) (decoder, error) {
	switch c.Type {
	case "ByteLevel":
		return func(tokens []string) ([]string, error) {
			var b []byte
			for _, t := range tokens {
				b = appendSpelled(b, t)
			}
			return []string{validUTF8(b)}, nil
		}, nil
	case "ByteFallback":
		return byteFallback, nil
	case "Fuse":
		return func(tokens []string) ([]string, error) { return []string{strings.Join(tokens, "")}, nil }, nil
	case "Replace":
		replace, err := replacer(c)
		if err != nil {
			return nil, err
		}
		return each(func(_ int, t string) (string, error) { return replace(t) }), nil
	case "Strip":
		if utf8.RuneCountInString(c.Content) != 1 || c.Start < 0 || c.Stop < 0 {
			return nil, fmt.Errorf("strip decoder of %q, %d and %d makes no sense", c.Content, c.Start, c.Stop)
		}
		return each(func(_ int, t string) (string, error) {
			for range c.Start {
				t = strings.TrimPrefix(t, c.Content)
			}
			for range c.Stop {
				t = strings.TrimSuffix(t, c.Content)
			}
			return t, nil
		}), nil
	case "Metaspace":
		return metaspaceDecoder(c), nil
	default:
		return nil, fmt.Errorf("decoder %q is not supported", c.Type)
	}
}

// each applies f to every token.
func each(f func(i int, token string) (string, error)) decoder {
	return func(tokens []string) ([]string, error) {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			var err error
			if out[i], err = f(i, t); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

func metaspaceDecoder(c component) decoder {
	replacement := c.Replacement
	if replacement == "" {
		replacement = sentencePieceSpace
	}
	prepended := c.PrependScheme != "never" && (c.AddPrefixSpace == nil || *c.AddPrefixSpace)
	return each(func(i int, t string) (string, error) {
		if i == 0 && prepended {
			t = strings.TrimPrefix(t, replacement)
		}
		return strings.ReplaceAll(t, replacement, " "), nil
	})
}

// byteFallback joins runs of tokens "<0xNN>" to characters; bytes of a run that
// is no UTF-8 become one replacement character each.
func byteFallback(tokens []string) ([]string, error) {
	var out []string
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			out = append(out, strings.Repeat(string(utf8.RuneError), len(run)))
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out, nil
}

// byteToken parses "<0xNN>".
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || !strings.HasPrefix(t, "<0x") || t[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(t[3:5], 16, 8)
	return byte(b), err == nil
}

// validUTF8 replaces each byte that is no part of a character.
func validUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

// Stream decodes tokens one by one for streaming. It holds back what may still
// change: the bytes of an unfinished character.
type Stream struct {
	t *Tokenizer
	// ids[context:] are decoded together; those before emitted are only there
	// for the sake of decoders that look at neighbours.
	ids              []int32
	context, emitted int
}

// NewStream returns a decoder that skips special tokens.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t} }

// Push takes the next token and returns the text that it completes; often "".
func (s *Stream) Push(id int32) string {
	s.ids = append(s.ids, id)
	return s.advance(false)
}

// Flush returns what Push held back; unfinished characters become U+FFFD.
func (s *Stream) Flush() string { return s.advance(true) }

func (s *Stream) advance(all bool) string {
	before := s.t.Decode(s.ids[s.context:s.emitted], true)
	now := s.t.Decode(s.ids[s.context:], true)
	if !strings.HasPrefix(now, before) || len(now) == len(before) && !all {
		return ""
	}
	if !all && strings.HasSuffix(now, string(utf8.RuneError)) {
		return ""
	}
	s.context, s.emitted = s.emitted, len(s.ids)
	if s.context > 64 { // Forget what is decoded, so that a long answer costs no more than a short one.
		s.ids = append(s.ids[:0], s.ids[s.context:]...)
		s.emitted -= s.context
		s.context = 0
	}
	return now[len(before):]
}
