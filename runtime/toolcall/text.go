package toolcall

import (
	"encoding/json"
	"strings"
)

// textArgument is the argument that a function of a text has.
const textArgument = "input"

// textParameters are the parameters of a function of a text.
const textParameters = `{"type": "object", "properties": {"` + textArgument + `": {"type": "string"}}, "required": ["` + textArgument + `"], "additionalProperties": false}`

// TextFunction is a function that takes a text and nothing else, such as OpenAI's custom tools.
// No template shows these: to a model it is a function of one argument, which is a string, and
// always strict. The Arguments of its calls are the text itself.
func TextFunction(name, description string) Function {
	return Function{Name: name, Description: description, Parameters: json.RawMessage(textParameters), Strict: true, text: true}
}

// IsText reports whether it is a TextFunction.
func (f Function) IsText() bool { return f.text }

// TextArguments are the arguments of a call of a TextFunction, as templates expect them.
func TextArguments(text string) json.RawMessage {
	return json.RawMessage(`{"` + textArgument + `": ` + quote(text) + `}`)
}

// takesText reports whether a function of this name is one of a text.
func (o Offer) takesText(name string) bool {
	for _, f := range o.Functions {
		if f.Name == name {
			return f.text
		}
	}
	return false
}

// textReader reads the text of a call out of arguments that are still being written, as
// textParameters has them.
type textReader struct {
	at     int
	quotes int // Those before the text: three.
	ended  bool
}

// read returns what has become certain of the text. arguments begin with all that came
// before.
func (r *textReader) read(arguments string) string {
	var text strings.Builder
	for ; r.quotes < 3 && r.at < len(arguments); r.at++ { // Around the key, which has none, and behind it.
		if arguments[r.at] == '"' {
			r.quotes++
		}
	}
	for !r.ended && r.at < len(arguments) {
		rest := arguments[r.at:]
		n := strings.IndexAny(rest, `"\`)
		if n < 0 {
			n = len(rest)
		}
		text.WriteString(rest[:n])
		r.at += n
		if n == len(rest) {
			break
		}
		if rest[n] == '"' {
			r.ended = true
			break
		}
		length := escapeLength(rest[n:])
		if length == 0 {
			break
		}
		var character string
		if json.Unmarshal([]byte(`"`+rest[n:n+length]+`"`), &character) == nil {
			text.WriteString(character)
		}
		r.at += length
	}
	return text.String()
}

// escapeLength is the length of the escape that a text begins with, 0 if it may go on. Both
// halves of a surrogate pair are one.
func escapeLength(text string) int {
	const unicode, pair = len(`\u0000`), len(`\u0000\u0000`)
	switch {
	case len(text) < 2:
		return 0
	case text[1] != 'u':
		return 2
	case len(text) < unicode:
		return 0
	case !strings.ContainsRune("dD", rune(text[2])) || !strings.ContainsRune("89abAB", rune(text[3])):
		return unicode
	case len(text) < pair:
		return 0
	}
	return pair
}
