package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// chunk is text, a statement {% … %} or an expression {{ … }}.
type chunk struct {
	kind   chunkKind
	text   string  // of text
	tokens []token // of the others, ended by an end token
	line   int
}

type chunkKind int

const (
	textChunk chunkKind = iota
	blockChunk
	exprChunk
)

// token is a part of a statement or an expression.
type token struct {
	kind tokenKind
	text string // name, operator, or value of a string
	num  any    // int or float64
	line int
}

type tokenKind int

const (
	endToken tokenKind = iota
	nameToken
	stringToken
	numberToken
	opToken
)

// scanner cuts a source into chunks.
type scanner struct {
	src  string
	pos  int
	line int
	out  []chunk
	// lineStart says that the text before pos ends a line, or that there is none.
	lineStart bool
}

// scan cuts a template into chunks and applies whitespace control.
func scan(source string) ([]chunk, error) {
	source = strings.ReplaceAll(source, "\r\n", "\n")
	source = strings.TrimSuffix(source, "\n")
	s := &scanner{src: source, line: 1, lineStart: true}
	for s.pos < len(s.src) {
		if err := s.next(); err != nil {
			return nil, fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	return s.out, nil
}

// next scans text up to a tag, and the tag.
func (s *scanner) next() error {
	at := tagStart(s.src[s.pos:])
	if at < 0 {
		s.addText(s.src[s.pos:])
		s.pos = len(s.src)
		return nil
	}
	text := s.src[s.pos : s.pos+at]
	kind := s.src[s.pos+at+1]
	control := byte(0)
	if rest := s.src[s.pos+at+2:]; rest != "" && (rest[0] == '-' || rest[0] == '+') {
		control = rest[0]
	}
	s.addText(s.trimBefore(text, kind, control))
	s.line += strings.Count(text, "\n") - strings.Count(s.trimBefore(text, kind, control), "\n")
	s.pos += at + 2
	if control != 0 {
		s.pos++
	}
	switch kind {
	case '#':
		return s.comment()
	case '{':
		return s.tag(exprChunk, "}}")
	default:
		return s.tag(blockChunk, "%}")
	}
}

// tagStart finds the next opening of a tag.
func tagStart(s string) int {
	for i := 0; ; i++ {
		k := strings.IndexByte(s[i:], '{')
		if k < 0 || i+k+1 >= len(s) {
			return -1
		}
		if i += k; strings.IndexByte("{%#", s[i+1]) >= 0 {
			return i
		}
	}
}

// trimBefore strips the text before a tag: all white space at a "-", and the
// indentation of a statement or comment that begins its line.
func (s *scanner) trimBefore(text string, kind, control byte) string {
	if control == '-' {
		return strings.TrimRightFunc(text, unicode.IsSpace)
	}
	if kind == '{' || control == '+' {
		return text
	}
	line := strings.LastIndexByte(text, '\n') + 1
	if (line > 0 || s.lineStart) && strings.TrimSpace(text[line:]) == "" {
		return text[:line]
	}
	return text
}

func (s *scanner) addText(text string) {
	if text != "" {
		s.out = append(s.out, chunk{kind: textChunk, text: text, line: s.line})
		s.line += strings.Count(text, "\n")
	}
}

// after skips what follows a tag: all white space after a "-", one line end
// after a statement or comment.
func (s *scanner) after(trimAll, trimLine bool) {
	rest := s.src[s.pos:]
	skipped := 0
	if trimAll {
		skipped = len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	} else if trimLine && strings.HasPrefix(rest, "\n") {
		skipped = 1
	}
	s.lineStart = skipped > 0 && rest[skipped-1] == '\n'
	s.line += strings.Count(rest[:skipped], "\n")
	s.pos += skipped
}

func (s *scanner) comment() error {
	end := strings.Index(s.src[s.pos:], "#}")
	if end < 0 {
		return fmt.Errorf("comment has no end")
	}
	body := s.src[s.pos : s.pos+end]
	s.line += strings.Count(body, "\n")
	s.pos += end + 2
	s.after(strings.HasSuffix(body, "-"), !strings.HasSuffix(body, "+"))
	return nil
}

// tag scans the tokens of a tag that ends with end.
func (s *scanner) tag(kind chunkKind, end string) error {
	c := chunk{kind: kind, line: s.line}
	braces := 0
	for {
		s.skipSpace()
		rest := s.src[s.pos:]
		if rest == "" {
			return fmt.Errorf("tag has no %q", end)
		}
		if braces == 0 {
			if control, ok := closes(rest, end); ok {
				s.pos += len(end)
				if control != 0 {
					s.pos++
				}
				raw := kind == blockChunk && len(c.tokens) == 1 && c.tokens[0].text == "raw"
				s.after(control == '-', kind == blockChunk && control != '+' && !raw)
				if raw {
					return s.raw()
				}
				break
			}
		}
		t, err := s.token(rest)
		if err != nil {
			return err
		}
		switch {
		case t.kind == opToken && t.text == "{":
			braces++
		case t.kind == opToken && t.text == "}":
			braces--
		}
		c.tokens = append(c.tokens, t)
	}
	c.tokens = append(c.tokens, token{kind: endToken, line: s.line})
	s.out = append(s.out, c)
	return nil
}

// closes reports whether a tag ends here, and with which white space control.
func closes(rest, end string) (control byte, ok bool) {
	if strings.HasPrefix(rest, end) {
		return 0, true
	}
	if rest[0] == '-' || rest[0] == '+' {
		return rest[0], strings.HasPrefix(rest[1:], end)
	}
	return 0, false
}

// raw takes the text up to {% endraw %} as it is.
func (s *scanner) raw() error {
	for at := s.pos; ; {
		i := strings.Index(s.src[at:], "{%")
		if i < 0 {
			return fmt.Errorf("raw has no endraw")
		}
		inner := s.src[at+i+2:]
		end := strings.Index(inner, "%}")
		if end >= 0 && strings.TrimSpace(strings.Trim(strings.TrimSpace(inner[:end]), "-+")) == "endraw" {
			text := s.src[s.pos : at+i]
			if strings.HasPrefix(inner, "-") {
				text = strings.TrimRightFunc(text, unicode.IsSpace)
			}
			s.addText(text)
			s.pos = at + i + 2 + end + 2
			s.after(strings.HasSuffix(inner[:end], "-"), true)
			return nil
		}
		at += i + 2
	}
}

func (s *scanner) skipSpace() {
	for s.pos < len(s.src) {
		r, n := utf8.DecodeRuneInString(s.src[s.pos:])
		if !unicode.IsSpace(r) {
			return
		}
		if r == '\n' {
			s.line++
		}
		s.pos += n
	}
}

var operators = []string{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|"}

func (s *scanner) token(rest string) (token, error) {
	r, _ := utf8.DecodeRuneInString(rest)
	switch {
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if n < 0 {
			n = len(rest)
		}
		s.pos += n
		return token{kind: nameToken, text: rest[:n], line: s.line}, nil
	case r >= '0' && r <= '9':
		return s.number(rest)
	case r == '\'' || r == '"':
		return s.str(rest)
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			s.pos += len(op)
			return token{kind: opToken, text: op, line: s.line}, nil
		}
	}
	return token{}, fmt.Errorf("unexpected %q", r)
}

// numberPattern is a number as Jinja2 has them; a "." belongs to it only with digits
// behind it.
var numberPattern = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|` +
	`[0-9](?:_?[0-9])*(\.[0-9](?:_?[0-9])*)?([eE][+-]?[0-9](?:_?[0-9])*)?)`)

func (s *scanner) number(rest string) (token, error) {
	m := numberPattern.FindStringSubmatch(rest)
	if m == nil {
		return token{}, fmt.Errorf("%.10q is no number", rest)
	}
	s.pos += len(m[0])
	digits := strings.ReplaceAll(m[0], "_", "")
	t := token{kind: numberToken, line: s.line}
	var err error
	if m[1] != "" || m[2] != "" {
		t.num, err = strconv.ParseFloat(digits, 64)
		return t, err
	}
	base := 10
	if len(digits) > 1 && strings.ContainsRune("bBoOxX", rune(digits[1])) {
		base = 0
	}
	i, err := strconv.ParseInt(digits, base, 64)
	t.num = int(i)
	return t, err
}

// str scans a string literal with Python's escapes.
func (s *scanner) str(rest string) (token, error) {
	quote := rest[0]
	t := token{kind: stringToken, line: s.line}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			s.pos += i + 1
			t.text = b.String()
			return t, nil
		case c == '\\' && i+1 < len(rest):
			n, err := escape(&b, rest[i+1:])
			if err != nil {
				return t, err
			}
			i += n
		default:
			if c == '\n' {
				s.line++
			}
			b.WriteByte(c)
		}
	}
	return t, fmt.Errorf("string has no end")
}

var octalPattern = regexp.MustCompile(`^[0-7]{1,3}`)

// escape writes what a backslash and the beginning of rest stand for, and
// returns how much of rest that is.
func escape(b *strings.Builder, rest string) (int, error) {
	simple := map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', '\\': '\\', '\'': '\'', '"': '"', 'a': 7, 'b': 8, 'f': 12, 'v': 11}
	if c, ok := simple[rest[0]]; ok {
		b.WriteByte(c)
		return 1, nil
	}
	if octal := octalPattern.FindString(rest); octal != "" {
		code, err := strconv.ParseUint(octal, 8, 16)
		b.WriteRune(rune(code))
		return len(octal), err
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[rest[0]]
	if digits == 0 {
		if rest[0] != '\n' { // A backslash at the end of a line joins lines.
			b.WriteByte('\\')
			b.WriteByte(rest[0])
		}
		return 1, nil
	}
	if len(rest) < 1+digits {
		return 0, fmt.Errorf("escape \\%s is too short", rest)
	}
	code, err := strconv.ParseUint(rest[1:1+digits], 16, 32)
	if err != nil || code > unicode.MaxRune {
		return 0, fmt.Errorf("escape \\%s is no character", rest[:1+digits])
	}
	b.WriteRune(rune(code))
	return 1 + digits, nil
}
