package constrain

import (
	"slices"
	"strings"
)

// Elements is an object that is written as elements, one for each property: Begin, its name,
// Named, its value, and End. A string is written as it is, and all else as JSON, so that
// PropertiesOf has to tell which it is. No string has Barrier in it, and no name any byte
// of Reserved. Of properties that may be strings and something else, strings that could be
// taken for the latter are not written.
type Elements struct {
	Value
	Begin, Named, End string
	Barrier           string
	Reserved          string
}

func (e Elements) key(k []byte) []byte {
	for _, text := range []string{e.Begin, e.Named, e.End, e.Barrier, e.Reserved} {
		k = appendText(k, 'e', text)
	}
	return e.Value.key(k)
}

func (e Elements) build(b *builder, from int32) (int32, error) {
	properties := PropertiesOf(e.Schema)
	return e.part(b, from, func(own *builder, g goal) error {
		own.root = own.newRule()
		clauses, err := own.clauses(g)
		if err != nil {
			return err
		}
		for _, c := range clauses {
			if err := e.object(own, c, properties); err != nil {
				return err
			}
		}
		if err := own.checkOneOfs(); err != nil {
			return err
		}
		if err := own.makeRules(); err != nil {
			return err
		}
		return own.ends(g)
	})
}

// object reads the objects that satisfy a clause.
func (e Elements) object(b *builder, c clause, properties Properties) error {
	if c.enum() != nil {
		return refuse(goal(c).place(), "an object of a list (enum, const) cannot be written as elements: list the values of its properties instead")
	}
	names, required := c.names()
	at, end := b.newState(), b.rules[b.root].end
	b.skip(b.rules[b.root].start, at)
	for _, name := range names {
		next := b.newState()
		if !required[name] {
			b.skip(at, next)
		}
		if name == "" || strings.ContainsAny(name, e.Reserved) {
			if required[name] {
				return refuse(goal(c).place(), "the name of the property %q cannot be written: it must have none of %q", short(name), e.Reserved)
			}
			at = next
			continue
		}
		value, err := e.value(b, b.text(at, e.Begin+name+e.Named), c.property(name), properties.Of(name))
		if err != nil {
			return err
		}
		b.skip(b.text(value, e.End), next)
		at = next
		if err := b.check(goal(c).place()); err != nil {
			return err
		}
	}
	g, said := c.additional()
	if said || b.open || len(names) == 0 {
		name, err := notAmong(append(names, "")).and(without(e.Reserved), goal(c).place())
		if err != nil {
			return err
		}
		named := b.newState()
		if err := b.plainly(b.text(at, e.Begin), named, name); err != nil {
			return err
		}
		value, err := e.value(b, b.text(named, e.Named), g, properties.other)
		if err != nil {
			return err
		}
		b.skip(b.text(value, e.End), at)
	}
	b.skip(at, end)
	return b.check(goal(c).place())
}

// value reads a property's value, which is of one of these kinds, and returns where it leads.
func (e Elements) value(b *builder, from int32, g goal, kinds Kinds) (int32, error) {
	to := b.newState()
	if others := kinds &^ kindString; others != 0 {
		b.call(from, to, b.rule(append(slices.Clone(g), b.only(others))))
	}
	if kinds&kindString == 0 {
		return to, nil
	}
	clauses, err := b.clauses(append(slices.Clone(g), b.only(kindString)))
	if err != nil {
		return to, err
	}
	for _, c := range clauses {
		if err := e.text(b, from, to, c, kinds); err != nil {
			return to, err
		}
	}
	return to, nil
}

// text reads the strings that satisfy a clause, as they are.
func (e Elements) text(b *builder, from, to int32, c clause, kinds Kinds) error {
	texts := apart(kinds)
	if list := c.enum(); list != nil {
		for _, v := range list {
			ok, err := b.holds(c, v)
			if err != nil {
				return err
			}
			if ok && !strings.Contains(v.text, e.Barrier) && texts.matches(v.text) {
				b.skip(b.text(from, v.text), to)
			}
		}
		return b.check(goal(c).place())
	}
	place := goal(c).place()
	var err error
	if texts, err = texts.within(barred(e.Barrier), place, maxStates/2); err != nil {
		return err
	}
	for _, n := range c {
		for _, p := range n.patterns {
			d, err := b.pattern(p)
			if err != nil {
				return err
			}
			if texts, err = texts.within(d, p.place, maxStates/2); err != nil {
				return err
			}
		}
	}
	if least, most := c.lengths(); least > 0 || most >= 0 {
		if texts, err = texts.within(lengthDFA(least, most), place, maxStates/2); err != nil {
			return err
		}
	}
	return b.plainly(from, to, texts)
}

// plainly reads a text that an automaton accepts, as it is.
func (b *builder) plainly(from, to int32, d *dfa) error {
	return b.follow(from, to, d, b.plainSet)
}

// plainSet returns the rule of one of these characters, as it is.
func (b *builder) plainSet(spans []span) int32 {
	return b.set("plain", spans, func(r rule) {
		for _, s := range spans {
			b.characters(r.start, r.end, s)
		}
	})
}

// only is the schema of all values of some kinds.
func (b *builder) only(kinds Kinds) *node {
	n := b.kinds[kinds]
	if n == nil {
		n = &node{kinds: kinds, maxLength: -1, maxItems: -1}
		b.kinds[kinds] = n
	}
	return n
}

// apart accepts the strings that cannot be taken for a value of another of these kinds; see
// Kinds.Read.
func apart(kinds Kinds) *dfa {
	var words []string
	first := ""
	for _, o := range [...]struct {
		kinds Kinds
		words []string
		first string
	}{
		{kindNull, wordsOfNull, ""}, {kindBool, slices.Concat(wordsOfTrue, wordsOfFalse), ""},
		{kindNumber, nil, beginsNumber}, {kindArray, nil, "["}, {kindObject, nil, "{"},
	} {
		if kinds&o.kinds != 0 {
			words, first = append(words, o.words...), first+o.first
		}
	}
	d := notAmong(words)
	dead := int32(len(d.states))
	d.states = append(d.states, dfaState{})
	d.states[0].moves = slices.DeleteFunc(d.states[0].moves, func(m move) bool { return m.to == 1 })
	for _, r := range first { // No word begins with one of these.
		d.states[0].moves = append(d.states[0].moves, move{span{r, r}, dead})
	}
	d.states[0].otherwise(1)
	return d
}

// without accepts the texts that have none of these characters.
func without(characters string) *dfa {
	d := &dfa{states: []dfaState{{accepts: true}, {}}}
	for _, r := range characters {
		d.states[0].moves = append(d.states[0].moves, move{span{r, r}, 1})
	}
	d.states[0].otherwise(0)
	return d
}

// barred accepts the texts in which another one, of ASCII, does not occur. A state is how
// much of it the text so far ends in.
func barred(text string) *dfa {
	d := &dfa{states: make([]dfaState, len(text)+1)}
	for i := range len(text) {
		s := &d.states[i]
		s.accepts = true
		known := map[byte]bool{}
		for _, c := range []byte(text) {
			if known[c] {
				continue
			}
			known[c] = true
			to := int32(0)
			for n := i + 1; n > 0; n-- { // The longest beginning that is an end of what has been read.
				if strings.HasSuffix(text[:i]+string(c), text[:n]) {
					to = int32(n)
					break
				}
			}
			s.moves = append(s.moves, move{span{rune(c), rune(c)}, to})
		}
		s.otherwise(0)
	}
	return d.trimmed()
}

// Matching is a text in which a regular expression matches, as it is.
type Matching string

func (m Matching) key(k []byte) []byte { return appendText(k, 'm', string(m)) }

func (m Matching) build(b *builder, from int32) (int32, error) {
	d, err := b.pattern(pattern{"", string(m)})
	if err != nil {
		return from, err
	}
	to := b.newState()
	return to, b.plainly(from, to, d)
}
