package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedSet matches added tokens in a text, leftmost first and the longest
// where several begin at one place.
type addedSet struct {
	// byFirst holds the tokens that begin with a byte, longest first.
	byFirst [256][]matchToken
}

// matchToken is an added token as it looks in the text that is searched.
type matchToken struct {
	addedToken
	text string
}

func newAddedSet(tokens []matchToken) *addedSet {
	s := &addedSet{}
	for _, t := range tokens {
		if t.text != "" {
			s.byFirst[t.text[0]] = append(s.byFirst[t.text[0]], t)
		}
	}
	for i := range s.byFirst {
		slices.SortStableFunc(s.byFirst[i], func(a, b matchToken) int { return cmp.Compare(len(b.text), len(a.text)) })
	}
	return s
}

// fragment is a part of a text: an added token, or text between them.
type fragment struct {
	text string
	id   int32 // -1 for text
}

// split cuts a text at its added tokens; specials that are not wanted stay
// text.
func (s *addedSet) split(text string, wantSpecial bool) []fragment {
	var out []fragment
	at := 0 // what is before is in out
	for i := 0; i < len(text); {
		t := s.at(text, i, wantSpecial)
		if t == nil {
			i++
			continue
		}
		begin, end := i, i+len(t.text)
		if t.LStrip {
			begin = at + len(strings.TrimRightFunc(text[at:begin], unicode.IsSpace))
		}
		if t.RStrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if begin > at {
			out = append(out, fragment{text: text[at:begin], id: -1})
		}
		out = append(out, fragment{id: t.ID})
		at, i = end, end
	}
	if at < len(text) {
		out = append(out, fragment{text: text[at:], id: -1})
	}
	return out
}

// at returns the token that begins at byte i, or nil.
func (s *addedSet) at(text string, i int, wantSpecial bool) *matchToken {
	list := s.byFirst[text[i]]
	for k := range list {
		t := &list[k]
		if t.Special && !wantSpecial || !strings.HasPrefix(text[i:], t.text) {
			continue
		}
		if t.SingleWord && !standsAlone(text, i, i+len(t.text)) {
			continue
		}
		return t
	}
	return nil
}

// standsAlone reports whether text[begin:end] touches no word character.
func standsAlone(text string, begin, end int) bool {
	word := func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }
	before, n := utf8.DecodeLastRuneInString(text[:begin])
	if n > 0 && word(before) {
		return false
	}
	after, n := utf8.DecodeRuneInString(text[end:])
	return n == 0 || !word(after)
}
