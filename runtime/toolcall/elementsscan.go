package toolcall

import (
	"strings"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/constrain"
)

// The elements of a call of Qwen3-Coder, between the markers of Hermes.
const (
	beginFunction  = "<function="
	endFunction    = "</function>"
	beginParameter = "<parameter="
	endParameter   = "</parameter>"
	endName        = ">"
)

// elementsScan looks for one call that is an element with one for each argument. What an
// argument's text says depends on its schema: see constrain.Kinds.Read. A model may leave out
// the markers around the call.
type elementsScan struct {
	*family
	offer Offer
	at    int
	// opened says that the marker is there, so that its end must be, too.
	opened  bool
	in      element
	name    string
	kinds   constrain.Properties
	written strings.Builder // The arguments as JSON, without the bracket that closes them.
	list    []argument
	open    argument
	from    int     // Where the open argument's text begins.
	search  int     // Up to where it has been looked for its end.
	value   *object // Of an open argument that is JSON; nil otherwise.
}

// argument is an argument that is complete: its name as JSON, and its value.
type argument struct {
	key, value string
	kinds      constrain.Kinds
	sent       int // Of a string: how much of its text has been written.
}

// element is where an elementsScan is.
type element int

const (
	beforeAll element = iota
	beforeFunction
	inFunctionName
	betweenArguments
	inArgumentName
	inArgument
	behindFunction
	behindAll
)

func (s *elementsScan) run(text string) status {
	for {
		state, more := s.step(text)
		if !more {
			return state
		}
	}
}

// step takes one part of the call, if it is there.
func (s *elementsScan) step(text string) (state status, more bool) {
	switch s.in {
	case beforeAll:
		if s.opened = strings.HasPrefix(text, s.begin); s.opened {
			s.at = len(s.begin)
		}
		s.in = beforeFunction
		return going, true
	case beforeFunction:
		return s.expect(text, part{beginFunction, inFunctionName})
	case inFunctionName:
		return s.functionName(text)
	case betweenArguments:
		return s.expect(text, part{beginParameter, inArgumentName}, part{endFunction, behindFunction})
	case inArgumentName:
		return s.argumentName(text)
	case inArgument:
		return s.argument(text)
	case behindFunction:
		return s.closing(text)
	default:
		return done, false
	}
}

// part is a text that may come next, and where it leads.
type part struct {
	text string
	next element
}

// expect takes one of some parts, and white space before it.
func (s *elementsScan) expect(text string, parts ...part) (state status, more bool) {
	at := s.at + blanks(text[s.at:])
	rest := text[at:]
	for _, p := range parts {
		if strings.HasPrefix(rest, p.text) {
			s.at, s.in = at+len(p.text), p.next
			return going, true
		}
		if strings.HasPrefix(p.text, rest) {
			return going, false
		}
	}
	return bad, false
}

// blanks is how much white space a text begins with.
func blanks(text string) int { return len(text) - len(strings.TrimLeft(text, whiteSpace)) }

func (s *elementsScan) functionName(text string) (status, bool) {
	name, _, ok := strings.Cut(text[s.at:], endName)
	if !isWord(strings.Trim(name, whiteSpace)) {
		return bad, false
	}
	if !ok {
		return going, false
	}
	s.at += len(name) + len(endName)
	s.name, s.in = strings.Trim(name, whiteSpace), betweenArguments
	for _, f := range s.offer.Functions {
		if f.Name == s.name {
			s.kinds = constrain.PropertiesOf(f.Parameters)
		}
	}
	s.written.WriteByte('{')
	return going, true
}

func (s *elementsScan) argumentName(text string) (status, bool) {
	name, _, ok := strings.Cut(text[s.at:], endName)
	if len(name) > maxWord || strings.Contains(name, "\n") || ok && name == "" {
		return bad, false
	}
	if !ok {
		return going, false
	}
	s.at += len(name) + len(endName)
	s.in, s.from, s.search, s.value = inArgument, s.at, s.at, nil
	s.open = argument{key: quote(name), kinds: s.kinds.Of(name)}
	if len(s.list) > 0 {
		s.written.WriteString(", ")
	}
	s.written.WriteString(s.open.key + ": ")
	return going, true
}

// argument looks for the end of an argument: the first that another argument, or the end of
// the function, follows, and that is not within its value where that is JSON.
func (s *elementsScan) argument(text string) (status, bool) {
	if state := s.skipJSON(text); state == going {
		return going, false
	}
	for {
		i := strings.Index(text[s.search:], endParameter)
		if i < 0 {
			s.search = max(s.search, len(text)-overlap(text, endParameter))
			s.writeText(text[:s.search])
			return going, false
		}
		s.search += i
		s.writeText(text[:s.search])
		behind := text[s.search+len(endParameter):]
		behind = behind[blanks(behind):]
		switch {
		case strings.HasPrefix(behind, beginParameter), strings.HasPrefix(behind, endFunction):
			s.closeArgument(text)
			return going, true
		case strings.HasPrefix(beginParameter, behind), strings.HasPrefix(endFunction, behind):
			return going, false
		}
		s.search += len(endParameter)
	}
}

// skipJSON moves on to the end of an array or object, where the argument may be one. It
// reports going as long as that is open.
func (s *elementsScan) skipJSON(text string) status {
	begin := s.from + blanks(text[s.from:])
	if s.open.kinds.IsString() || s.search > s.from {
		return done
	}
	if begin == len(text) {
		return going
	}
	if s.value == nil {
		if !s.open.kinds.Begins(text[begin]) {
			return done
		}
		s.value = &object{start: begin, anyBracket: true}
	}
	for s.value.start+s.value.at < len(text) {
		switch s.value.push(text[begin:]) {
		case done:
			s.search = s.value.start + s.value.at
			return done
		case bad: // It is text then.
			s.search, s.value.at = s.from+1, 0
			return done
		}
	}
	return going
}

// valueOf is what the template puts between the lines of an argument.
func (s *elementsScan) valueOf(text string) string {
	text = strings.TrimPrefix(text[s.from:], "\n")
	return strings.TrimSuffix(text, "\n")
}

// writeText writes as much of a string as cannot be anything else: the line's end before the
// argument's does not belong to it.
func (s *elementsScan) writeText(text string) {
	if !s.open.kinds.IsString() || len(text) <= s.from+1 {
		return
	}
	value := strings.TrimPrefix(text[s.from:], "\n")
	certain := len(strings.TrimSuffix(value, "\n"))
	for n := 1; n < utf8.UTFMax && n <= certain; n++ { // A part of a character waits for the rest.
		if c := value[certain-n]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(value[certain-n : certain]) {
				certain -= n
			}
			break
		}
	}
	if certain <= s.open.sent {
		return
	}
	if s.open.sent == 0 {
		s.written.WriteByte('"')
	}
	s.written.WriteString(inside(value[s.open.sent:certain]))
	s.open.sent = certain
}

// closeArgument writes the rest of an argument.
func (s *elementsScan) closeArgument(text string) {
	value := s.valueOf(text[:s.search])
	s.open.value = s.open.kinds.Read(value)
	if s.open.sent > 0 {
		s.written.WriteString(inside(value[s.open.sent:]) + `"`)
	} else {
		s.written.WriteString(s.open.value)
	}
	s.list = append(s.list, s.open)
	s.at, s.in = s.search+len(endParameter), betweenArguments
}

// closing takes the marker behind a call, which must be there if the one before it is.
func (s *elementsScan) closing(text string) (status, bool) {
	state, more := s.expect(text, part{s.end, behindAll})
	if state == bad && !s.opened {
		return done, false
	}
	return state, more
}

func (s *elementsScan) length() int { return s.at }

func (s *elementsScan) count() int {
	if s.in < betweenArguments {
		return 0
	}
	return 1
}

func (s *elementsScan) head(string, int) (name, id string, ok bool) { return s.name, "", true }

func (s *elementsScan) arguments(string, int) (string, bool) {
	if s.in >= behindFunction {
		return s.written.String() + "}", true
	}
	return s.written.String(), false
}

// whole leaves out arguments that are given again, as the reference parser does.
func (s *elementsScan) whole(string, int) (Call, bool) {
	places := map[string]int{}
	var list []argument
	for _, a := range s.list {
		if i, again := places[a.key]; again {
			list[i].value = a.value
			continue
		}
		places[a.key] = len(list)
		list = append(list, a)
	}
	var arguments strings.Builder
	arguments.WriteByte('{')
	for i, a := range list {
		if i > 0 {
			arguments.WriteString(", ")
		}
		arguments.WriteString(a.key + ": " + a.value)
	}
	arguments.WriteByte('}')
	return Call{Name: s.name, Arguments: arguments.String()}, true
}

func (s *elementsScan) complete() bool { return s.in >= behindFunction }

// inside is a text as within a JSON string.
func inside(text string) string {
	quoted := quote(text)
	return quoted[1 : len(quoted)-1]
}
