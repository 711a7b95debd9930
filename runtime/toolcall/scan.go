package toolcall

import "strings"

// status is how far a scanner is.
type status int

const (
	going status = iota
	done         // What it looks for is complete.
	bad          // It cannot become what it looks for.
)

// member is a member of the object that is scanned: where it is in the text.
type member struct {
	key        string // As it is spelled, without quotes.
	begin, end int    // Of the value; end is 0 until it is complete.
}

// stage is what a scan looks for next.
type stage int

const (
	theMarker stage = iota
	theList         // The bracket that opens it.
	theObject
	theRest // What is behind an object.
)

// scan looks for a call, or a list of calls, from its marker on.
type scan struct {
	*family
	at      int // Bytes so far.
	stage   stage
	objects []*object
	open    *object // The last of objects, until it is complete.
}

// run takes what has come since it was last called: text begins with all that came before.
func (s *scan) run(text string) status {
	if s.stage == theMarker {
		s.at, s.stage = len(s.begin), theObject
		if s.list {
			s.stage = theList
		}
	}
	for s.at < len(text) {
		switch {
		case s.open != nil:
			state := s.open.push(text[s.open.start:])
			s.at++
			if state == bad {
				return bad
			}
			if state == done {
				s.open, s.stage = nil, theRest
			}
		case isSpace(text[s.at]):
			s.at++
		default:
			if state, more := s.between(text[s.at:]); !more {
				return state
			}
		}
	}
	return going
}

// between takes what is not within an object. more says that there is more to be seen.
func (s *scan) between(rest string) (state status, more bool) {
	expect := func(c byte, next stage) (status, bool) {
		if rest[0] != c {
			return bad, false
		}
		s.at, s.stage = s.at+1, next
		return going, true
	}
	switch {
	case s.stage == theList:
		return expect('[', theObject)
	case s.stage == theObject && rest[0] == '{':
		s.open = &object{start: s.at}
		s.objects = append(s.objects, s.open)
		return going, true
	case s.stage == theObject:
		return bad, false
	case s.list && rest[0] == ']':
		s.at++
		return done, false
	case s.list:
		return expect(',', theObject)
	case s.end == "":
		return expect(';', theObject)
	case strings.HasPrefix(rest, s.end):
		s.at += len(s.end)
		return done, false
	case strings.HasPrefix(s.end, rest):
		return going, false // The marker is not complete.
	}
	return bad, false
}

// complete reports whether nothing of the calls is missing, at the answer's end. Models may
// leave out the last marker.
func (s *scan) complete() bool { return s.stage == theRest && s.open == nil && !s.list }

// object scans a JSON object byte by byte: where it ends, and where its members' values are.
// It tells what cannot be JSON early, but not all of it: numbers, words and escapes are for
// json.Valid.
type object struct {
	start   int    // Where it begins in what is scanned; all else counts from there.
	at      int    // Bytes so far.
	stack   []byte // Open brackets.
	want    want
	escaped bool
	scalar  bool // Within a number or a word.
	begun   int  // Where the string of a key begins.
	members []member
}

// want is what may come next.
type want int

const (
	wantValue want = iota
	wantFirst      // A value, or the end of the array.
	wantKey
	wantFirstKey // A key, or the end of the object.
	wantColon
	wantNext // A comma, or the end of what is open.
	inKey
	inString
)

// maxDepth bounds the nesting of a call.
const maxDepth = 128

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// push takes the next byte, which is the one of text at o.at.
func (o *object) push(text string) status {
	c := text[o.at]
	o.at++
	if o.want == inKey || o.want == inString {
		return o.inside(c, text)
	}
	if o.scalar {
		switch {
		case isSpace(c) || c == ',' || c == '}' || c == ']':
			o.scalar = false
			o.valueEnds(o.at - 1)
		case c == '{' || c == '[' || c == '"' || c == ':' || c < ' ':
			return bad
		default:
			return going
		}
	}
	if isSpace(c) {
		return going
	}
	switch o.want {
	case wantColon:
		if c != ':' {
			return bad
		}
		o.want = wantValue
		return going
	case wantNext:
		return o.next(c)
	case wantKey, wantFirstKey:
		if c == '}' && o.want == wantFirstKey {
			return o.closes(c)
		}
		if c != '"' {
			return bad
		}
		o.want, o.begun = inKey, o.at
		return going
	default:
		return o.value(c)
	}
}

// inside takes a byte of a string.
func (o *object) inside(c byte, text string) status {
	switch {
	case c < ' ':
		return bad
	case o.escaped:
		o.escaped = false
	case c == '\\':
		o.escaped = true
	case c != '"':
	case o.want == inKey:
		if len(o.stack) == 1 {
			o.members = append(o.members, member{key: text[o.begun : o.at-1]})
		}
		o.want = wantColon
	default:
		o.valueEnds(o.at)
	}
	return going
}

// value takes the first byte of a value.
func (o *object) value(c byte) status {
	if c == ']' && o.want == wantFirst {
		return o.closes(c)
	}
	if len(o.stack) == 0 && c != '{' {
		return bad
	}
	if len(o.stack) == 1 {
		o.members[len(o.members)-1].begin = o.at - 1
	}
	switch c {
	case '{', '[':
		if len(o.stack) == maxDepth {
			return bad
		}
		o.stack = append(o.stack, c)
		if o.want = wantFirstKey; c == '[' {
			o.want = wantFirst
		}
	case '"':
		o.want = inString
	case ']', '}', ',', ':':
		return bad
	default:
		o.scalar = true
	}
	return going
}

// next takes what comes behind a value.
func (o *object) next(c byte) status {
	switch {
	case c != ',':
		return o.closes(c)
	case o.stack[len(o.stack)-1] == '{':
		o.want = wantKey
	default:
		o.want = wantValue
	}
	return going
}

// closes takes a closing bracket.
func (o *object) closes(c byte) status {
	top := len(o.stack) - 1
	if opened := o.stack[top]; opened == '{' && c != '}' || opened == '[' && c != ']' {
		return bad
	}
	o.stack = o.stack[:top]
	if top == 0 {
		return done
	}
	o.valueEnds(o.at)
	return going
}

func (o *object) valueEnds(at int) {
	if o.want = wantNext; len(o.stack) == 1 {
		o.members[len(o.members)-1].end = at
	}
}

// last returns the member of this key; of several the last, as in JSON.
func (o *object) last(key string) (m member, ok bool) {
	for _, have := range o.members {
		if have.key == key {
			m, ok = have, true
		}
	}
	return m, ok
}
