package toolcall

import (
	"encoding/json"
	"strings"
)

// Marks between the parts of a call of Mistral's models since v11.
const (
	markID        = "[CALL_ID]"
	markArguments = "[ARGS]"
)

// namedScan looks for one call that is a name, perhaps an id, and a JSON object. What is
// between them are marks; a model may leave out the last.
type namedScan struct {
	*family
	at     int
	name   string
	id     string
	named  bool // The name is complete.
	object *object
	done   bool
}

func (s *namedScan) run(text string) status {
	s.at = max(s.at, len(s.begin))
	for s.object == nil {
		state, more := s.next(text)
		if !more {
			return state
		}
	}
	for s.at < len(text) {
		state := s.object.push(text[s.object.start:])
		s.at++
		if state != going {
			s.done = state == done
			return state
		}
	}
	return going
}

// next takes the name or the id, which ends where a mark begins.
func (s *namedScan) next(text string) (state status, more bool) {
	rest := text[s.at:]
	i := strings.IndexAny(rest, "[{")
	if i < 0 {
		if !isWord(strings.Trim(rest, whiteSpace)) {
			return bad, false
		}
		return going, false
	}
	word, mark := strings.Trim(rest[:i], whiteSpace), rest[i:]
	switch {
	case !isWord(word), word == "" && !s.named:
		return bad, false
	case strings.HasPrefix(mark, markArguments):
		i += len(markArguments)
		if blank := len(rest[i:]) - len(strings.TrimLeft(rest[i:], whiteSpace)); i+blank < len(rest) {
			i += blank
		} else {
			return going, false
		}
		if rest[i] != '{' {
			return bad, false
		}
	case mark[0] == '{':
	case strings.HasPrefix(mark, markID) && !s.named:
		s.name, s.named = word, true
		s.at += i + len(markID)
		return going, true
	case strings.HasPrefix(markArguments, mark), strings.HasPrefix(markID, mark) && !s.named:
		return going, false
	default:
		return bad, false
	}
	if s.named {
		s.id = word
	} else {
		s.name, s.named = word, true
	}
	s.at += i
	s.object = &object{start: s.at}
	return going, true
}

// maxWord bounds names and ids of calls.
const maxWord = 256

// isWord reports whether a text can be a name or an id, or the beginning of one.
func isWord(text string) bool {
	if len(text) > maxWord {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if !strings.ContainsRune(letters, rune(c)) && strings.IndexByte("_-.:", c) < 0 {
			return false
		}
	}
	return true
}

func (s *namedScan) length() int { return s.at }

func (s *namedScan) count() int {
	if s.object == nil {
		return 0
	}
	return 1
}

func (s *namedScan) head(string, int) (name, id string, ok bool) { return s.name, s.id, true }

func (s *namedScan) arguments(text string, _ int) (string, bool) {
	return text[s.object.start:s.at], s.done
}

func (s *namedScan) whole(text string, _ int) (Call, bool) {
	c := Call{Name: s.name, ID: s.id, Arguments: text[s.object.start:s.at]}
	return c, json.Valid([]byte(c.Arguments))
}

func (s *namedScan) complete() bool { return s.done }
