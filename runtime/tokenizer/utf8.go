package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// characters makes text of bytes as they come. It holds back those of an
// unfinished character.
type characters struct {
	// each puts a replacement character for every bad byte, as SentencePiece does.
	// Otherwise there is one for all the bytes of a character that breaks off, as
	// Unicode recommends and byte-level decoders do.
	each bool
	// raw hands bad bytes on as they are, and holds nothing back.
	raw     bool
	pending []byte
}

// push returns the characters that these bytes complete.
func (c *characters) push(b ...byte) string {
	if c.raw {
		return string(b)
	}
	c.pending = append(c.pending, b...)
	if utf8.Valid(c.pending) {
		text := string(c.pending)
		c.pending = c.pending[:0]
		return text
	}
	return c.advance(false)
}

// rest returns what is left when no more bytes come.
func (c *characters) rest() string { return c.advance(true) }

func (c *characters) advance(all bool) string {
	var text strings.Builder
	b := c.pending
	for len(b) > 0 {
		if !all && !utf8.FullRune(b) {
			break
		}
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 && !c.each {
			n = brokenOff(b)
		}
		text.WriteRune(r)
		b = b[n:]
	}
	c.pending = append(c.pending[:0], b...)
	return text.String()
}

// brokenOff returns how many bytes at the beginning of b begin a character that
// does not go on as it should; 1 if they begin none.
func brokenOff(b []byte) int {
	n := min(len(b), utf8.UTFMax-1)
	for n > 1 && utf8.FullRune(b[:n]) {
		n--
	}
	return n
}

// byteToken parses "<0xNN>".
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || !strings.HasPrefix(t, "<0x") || t[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(t[3:5], 16, 8)
	return byte(b), err == nil
}
