package toolcall

import (
	"encoding/json"
	"strings"
)

// stage is what a scan looks for next.
type stage int

const (
	theMarker stage = iota
	theList         // The bracket that opens it.
	theObject
	theRest // What is behind an object.
)

// jsonScan looks for calls that are JSON objects: one, or a list of them.
type jsonScan struct {
	*family
	at      int // Bytes so far.
	stage   stage
	objects []*object
	open    *object // The last of objects, until it is complete.
}

// run takes what has come since it was last called: text begins with all that came before.
func (s *jsonScan) run(text string) status {
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
func (s *jsonScan) between(rest string) (state status, more bool) {
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

func (s *jsonScan) complete() bool { return s.stage == theRest && s.open == nil && !s.list }

func (s *jsonScan) length() int { return s.at }

func (s *jsonScan) count() int { return len(s.objects) }

func (s *jsonScan) head(text string, i int) (name, id string, ok bool) {
	o := s.objects[i]
	raw := text[o.start:]
	of, named := o.last("name")
	m, begun := s.member(o)
	if !named || of.end == 0 || !begun || m.begin == 0 || json.Unmarshal([]byte(raw[of.begin:of.end]), &name) != nil {
		return "", "", false
	}
	return name, "", raw[m.begin] == '{'
}

func (s *jsonScan) arguments(text string, i int) (string, bool) {
	o := s.objects[i]
	m, _ := s.member(o)
	if m.end > 0 {
		return text[o.start+m.begin : o.start+m.end], true
	}
	return text[o.start+m.begin : o.start+o.at], false
}

func (s *jsonScan) whole(text string, i int) (Call, bool) {
	o := s.objects[i]
	raw := text[o.start : o.start+o.at]
	if !json.Valid([]byte(raw)) {
		return Call{}, false
	}
	var got struct {
		Name string `json:"name"`
		ID   any    `json:"id"`
	}
	if json.Unmarshal([]byte(raw), &got) != nil {
		return Call{}, false
	}
	c := Call{Name: got.Name, Arguments: "{}"}
	c.ID, _ = got.ID.(string) // Mistral's models write ids.
	m, ok := s.member(o)
	if !ok {
		return c, true // Of a function without parameters.
	}
	c.Arguments = raw[m.begin:m.end]
	return c, c.Arguments[0] == '{'
}

// member is the one that has a call's arguments. Models mistake its name.
func (s *jsonScan) member(o *object) (member, bool) {
	if m, ok := o.last(s.family.arguments); ok {
		return m, true
	}
	for _, name := range []string{"arguments", "parameters"} {
		if m, ok := o.last(name); ok {
			return m, true
		}
	}
	return member{}, false
}
