package constrain

import (
	"encoding/json"
	"strconv"
	"strings"
)

// pythonJSON returns the JSON of a list or dictionary as Python spells it, "" if the text is
// none. Chat templates that write values by str() show models these.
func pythonJSON(text string) string {
	p := python{text: text}
	if !p.value(MaxDepth) || p.next() != 0 {
		return ""
	}
	return p.json.String()
}

// python reads a literal of Python and writes it as JSON.
type python struct {
	text string
	at   int
	json strings.Builder
}

// next is the next byte that is no white space, 0 at the end.
func (p *python) next() byte {
	for p.at < len(p.text) && strings.IndexByte(whiteSpace, p.text[p.at]) >= 0 {
		p.at++
	}
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

// take takes a byte, if it is next.
func (p *python) take(c byte) bool {
	if p.next() != c {
		return false
	}
	p.at++
	return true
}

// value reads a value that is nested no deeper than some levels.
func (p *python) value(levels int) bool {
	switch c := p.next(); c {
	case '[':
		return levels > 0 && p.list(']', func() bool { return p.value(levels - 1) })
	case '{':
		return levels > 0 && p.list('}', func() bool {
			if p.next() != '"' && p.next() != '\'' || !p.string() || !p.take(':') {
				return false
			}
			p.json.WriteString(": ")
			return p.value(levels - 1)
		})
	case '"', '\'':
		return p.string()
	default:
		return p.word()
	}
}

// list reads entries up to a closing bracket. The last may have a comma behind it.
func (p *python) list(closing byte, entry func() bool) bool {
	p.json.WriteByte(p.text[p.at])
	p.at++
	for first := true; !p.take(closing); first = false {
		if !first {
			if !p.take(',') {
				return false
			}
			if p.take(closing) {
				break
			}
			p.json.WriteString(", ")
		}
		if !entry() {
			return false
		}
	}
	p.json.WriteByte(closing)
	return true
}

// string reads a string in either kind of quotes.
func (p *python) string() bool {
	quote := p.text[p.at]
	var text strings.Builder
	for rest := p.text[p.at+1:]; rest != ""; {
		if rest[0] == quote {
			p.at = len(p.text) - len(rest) + 1
			p.json.WriteString(Quote(text.String()))
			return true
		}
		c, _, tail, err := strconv.UnquoteChar(rest, quote)
		if err != nil { // An escape that Go does not know, such as \" within ': Python keeps it, but for the quotes.
			if len(rest) > 1 && rest[0] == '\\' && (rest[1] == '"' || rest[1] == '\'') {
				rest = rest[1:]
			}
			c, tail = rune(rest[0]), rest[1:]
		}
		text.WriteRune(c)
		rest = tail
	}
	return false
}

// word reads a number, or one of the words.
func (p *python) word() bool {
	end := strings.IndexAny(p.text[p.at:], whiteSpace+",]}:")
	if end < 0 {
		end = len(p.text) - p.at
	}
	word := p.text[p.at : p.at+end]
	p.at += end
	switch word {
	case "None":
		word = "null"
	case "True", "False":
		word = strings.ToLower(word)
	default:
		if !json.Valid([]byte(word)) {
			return false
		}
	}
	p.json.WriteString(word)
	return true
}
