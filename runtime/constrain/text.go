package constrain

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// quoted reads a text as a JSON string.
func (n *nfa) quoted(from int32, text string) int32 {
	return n.text(from, Quote(text))
}

// strings reads the strings that satisfy a clause. Clauses that say the same of strings share
// a rule.
func (b *builder) strings(start, end int32, c clause) error {
	least, most := c.lengths()
	var expressions []string
	for _, n := range c {
		for _, p := range n.patterns {
			expressions = append(expressions, p.expression)
		}
	}
	key := fmt.Sprintf("%d %d %q", least, most, expressions)
	r, ok := b.texts[key]
	if !ok {
		r = b.newRule()
		b.texts[key] = r
		if err := b.stringsOf(b.rules[r].start, b.rules[r].end, c, least, most); err != nil {
			return err
		}
	}
	b.call(start, end, r)
	return nil
}

// stringsOf reads strings of so many characters that have the clause's patterns.
func (b *builder) stringsOf(start, end int32, c clause, least, most int) error {
	var patterns *dfa
	for _, n := range c {
		for _, p := range n.patterns {
			d, err := b.pattern(p)
			if err != nil {
				return err
			}
			if patterns != nil {
				if d, err = patterns.and(d, p.place); err != nil {
					return err
				}
			}
			patterns = d
		}
	}
	if least == 0 && most < 0 && patterns == nil {
		b.call(start, end, b.anyString())
		return nil
	}
	at, closed := b.text(start, `"`), b.newState()
	b.read(closed, end, '"', '"')
	if patterns == nil {
		return b.counted(at, closed, c, least, most)
	}
	if least > 0 || most >= 0 {
		var err error
		if patterns, err = patterns.and(lengthDFA(least, most), goal(c).place()); err != nil {
			return err
		}
	}
	return b.dfa(at, closed, patterns)
}

// counted reads so many characters.
func (b *builder) counted(at, closed int32, c clause, least, most int) error {
	letter := b.anyCharacter()
	for i := 0; ; i++ {
		if i >= least {
			b.skip(at, closed)
		}
		if i == most {
			return nil
		}
		if most < 0 && i == least {
			b.call(at, at, letter)
			return nil
		}
		next := b.newState()
		b.call(at, next, letter)
		at = next
		if b.full() {
			return b.check(goal(c).place())
		}
	}
}

// anyString returns the rule of all strings.
func (b *builder) anyString() int32 {
	if b.plain == noRule {
		b.plain = b.newRule()
		r := b.rules[b.plain]
		inside := b.text(r.start, `"`)
		b.spelled(inside, inside)
		b.read(inside, r.end, '"', '"')
	}
	return b.plain
}

// anyCharacter returns the rule of a character of a string.
func (b *builder) anyCharacter() int32 {
	if b.letter == noRule {
		b.letter = b.newRule()
		r := b.rules[b.letter]
		b.spelled(r.start, r.end)
	}
	return b.letter
}

// spelled reads one character of a string in any of JSON's spellings. Halves of a surrogate
// pair are no characters.
func (n *nfa) spelled(from, to int32) {
	for _, s := range [...]span{{' ', '!'}, {'#', '['}, {']', utf8.MaxRune}} {
		n.characters(from, to, s)
	}
	escape := n.text(from, `\`)
	for _, c := range []byte(`"\/bfnrt`) {
		n.read(escape, to, c, c)
	}
	hex := n.text(escape, "u")
	rest3, rest2 := n.hexDigits(to, 3), n.hexDigits(to, 2)
	for _, r := range [...][2]byte{{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}} {
		n.read(hex, rest3, r[0], r[1])
	}
	d := n.newState()
	n.read(hex, d, 'd', 'd')
	n.read(hex, d, 'D', 'D')
	n.read(d, rest2, '0', '7')
	// A pair: \ud800 to \udbff, and \udc00 to \udfff.
	low := n.newState()
	high2 := n.hexDigits(low, 2)
	n.read(d, high2, '8', '9')
	n.read(d, high2, 'a', 'b')
	n.read(d, high2, 'A', 'B')
	second := n.text(low, `\u`)
	d2 := n.newState()
	n.read(second, d2, 'd', 'd')
	n.read(second, d2, 'D', 'D')
	n.read(d2, rest2, 'c', 'f')
	n.read(d2, rest2, 'C', 'F')
}

// hexDigits returns a state from which so many hexadecimal digits lead to another.
func (n *nfa) hexDigits(to int32, count int) int32 {
	for range count {
		from := n.newState()
		n.read(from, to, '0', '9')
		n.read(from, to, 'a', 'f')
		n.read(from, to, 'A', 'F')
		to = from
	}
	return to
}

// dfa reads a text that an automaton accepts, as the inside of a string.
func (b *builder) dfa(at, closed int32, d *dfa) error { return b.follow(at, closed, d, b.charset) }

// follow reads a text that an automaton accepts. set is the rule of one of some characters.
func (b *builder) follow(at, closed int32, d *dfa, set func([]span) int32) error {
	states := make([]int32, len(d.states))
	for i := range d.states {
		states[i] = b.newState()
	}
	b.skip(at, states[0])
	for i, s := range d.states {
		if s.accepts {
			b.skip(states[i], closed)
		}
		byTarget := map[int32][]span{}
		for _, m := range s.moves {
			byTarget[m.to] = append(byTarget[m.to], m.span)
		}
		for _, m := range s.moves { // In order, so that a schema always makes the same grammar.
			if spans := byTarget[m.to]; spans != nil {
				delete(byTarget, m.to)
				b.call(states[i], states[m.to], set(joined(spans)))
			}
		}
		if b.full() {
			return b.check("")
		}
	}
	return nil
}

// charset returns the rule of one of these characters, spelled with no needless escape.
func (b *builder) charset(spans []span) int32 {
	return b.set("spelled", spans, func(r rule) { b.spell(r, spans) })
}

// set returns the rule of some characters in a spelling; fill makes it.
func (b *builder) set(spelling string, spans []span, fill func(rule)) int32 {
	key := spelling + fmt.Sprint(spans)
	id, ok := b.sets[key]
	if !ok {
		id = b.newRule()
		b.sets[key] = id
		fill(b.rules[id])
	}
	return id
}

// spell reads one of these characters, spelled with no needless escape.
func (b *builder) spell(r rule, spans []span) {
	for _, s := range spans {
		for c := s.lo; c <= min(s.hi, '\\'); c++ {
			short, ok := shortEscapes[c]
			switch {
			case ok:
				b.skip(b.text(r.start, `\`+string(rune(short))), r.end)
			case c < ' ':
				b.skip(b.text(r.start, fmt.Sprintf(`\u%04x`, c)), r.end)
			}
		}
		for _, raw := range [...]span{{' ', '!'}, {'#', '['}, {']', utf8.MaxRune}} {
			if both := (span{max(s.lo, raw.lo), min(s.hi, raw.hi)}); both.lo <= both.hi {
				b.characters(r.start, r.end, both)
			}
		}
	}
}

// notAmong accepts all texts but these.
func notAmong(texts []string) *dfa {
	// A state for each beginning of one of them, and one for what is none.
	const other = 1
	d := &dfa{states: []dfaState{{accepts: true}, {accepts: true, moves: []move{{span{0, utf8.MaxRune}, other}}}}}
	known := map[string]int32{"": 0}
	for _, text := range texts {
		at := int32(0)
		for i, r := range text {
			prefix := text[:i+utf8.RuneLen(r)]
			next, ok := known[prefix]
			if !ok {
				next = int32(len(d.states))
				known[prefix] = next
				d.states = append(d.states, dfaState{accepts: true})
				d.states[at].moves = append(d.states[at].moves, move{span{r, r}, next})
			}
			at = next
		}
		d.states[at].accepts = false
	}
	for i := range d.states {
		if i != other {
			d.states[i].otherwise(other)
		}
	}
	return d
}

// otherwise leads all characters that lead nowhere to a state.
func (s *dfaState) otherwise(to int32) {
	slices.SortFunc(s.moves, func(a, b move) int { return int(a.lo - b.lo) })
	next := rune(0)
	for _, m := range slices.Clone(s.moves) {
		if m.lo > next {
			s.moves = append(s.moves, move{span{next, m.lo - 1}, to})
		}
		next = m.hi + 1
	}
	if next <= utf8.MaxRune {
		s.moves = append(s.moves, move{span{next, utf8.MaxRune}, to})
	}
	slices.SortFunc(s.moves, func(a, b move) int { return int(a.lo - b.lo) })
}

// buildText makes the grammar of plain texts in which a regular expression matches.
func (b *builder) buildText(expression string) error {
	d, err := b.pattern(pattern{"", expression})
	if err != nil {
		return err
	}
	if d.states[0].accepts {
		return refuse("", "the regular expression %q matches the empty text: an answer has at least one character", short(expression))
	}
	b.root = b.newRule()
	r := b.rules[b.root]
	if err := b.plainly(r.start, r.end, d); err != nil {
		return err
	}
	alive, err := b.finish()
	if err == nil && !alive {
		err = refuse("", "the regular expression %q matches nothing", short(expression))
	}
	return err
}
