package constrain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// builder makes rules of goals.
type builder struct {
	nfa
	*expander
	ctx    context.Context //nolint:containedctx // It bounds the compilation, which ends with the builder.
	open   bool
	goals  map[string]int32 // The rules of goals.
	queue  []queued
	ids    map[*node]int
	sets   map[string]int32 // The rules of characters.
	ranges map[string]int32 // The rules of numbers.
	texts  map[string]int32 // The rules of strings.
	plain  int32            // The rule of any string; noRule before it is needed.
	letter int32            // The rule of a character of a string, however it is spelled.
	kinds  map[Kinds]*node  // See only.
}

// queued is a rule that is still to be made.
type queued struct {
	rule int32
	goal goal
}

func newBuilder(ctx context.Context, open bool) *builder {
	return &builder{
		ctx: ctx, expander: newExpander(func() error { return context.Cause(ctx) }), open: open,
		goals: map[string]int32{}, ids: map[*node]int{}, sets: map[string]int32{}, ranges: map[string]int32{}, texts: map[string]int32{}, kinds: map[Kinds]*node{}, plain: noRule, letter: noRule,
	}
}

// build makes the rules of a goal and of all that it needs.
func (b *builder) build(g goal) error {
	b.root = b.rule(g)
	if err := b.makeRules(); err != nil {
		return err
	}
	return b.ends(g)
}

// ends finishes the rules of a goal, which some value must satisfy.
func (b *builder) ends(g goal) error {
	alive, err := b.finish()
	if err == nil && !alive {
		err = refuse(g.place(), noValue)
	}
	return err
}

const noValue = "no value satisfies it that could be written"

// makeRules makes the rules that have been asked for, and those that they need.
func (b *builder) makeRules() error {
	for len(b.queue) > 0 {
		q := b.queue[0]
		b.queue = b.queue[1:]
		if err := b.values(q); err != nil {
			return err
		}
		if err := b.checkOneOfs(); err != nil {
			return err
		}
		if err := b.check(q.goal.place()); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) check(place string) error {
	if b.full() {
		return refuse(place, "the schema needs more than %d states: make it smaller, or the counts and lengths in it", maxStates)
	}
	return context.Cause(b.ctx)
}

// place is where a goal's first schema is.
func (g goal) place() string {
	if len(g) == 0 {
		return ""
	}
	return g[0].place
}

// rule returns the rule of a goal. Goals of the same schemas have the same rule.
func (b *builder) rule(g goal) int32 {
	ids := make([]int, 0, len(g))
	for _, n := range g {
		if n.accepts() {
			continue
		}
		if b.ids[n] == 0 {
			b.ids[n] = len(b.ids) + 1
		}
		ids = append(ids, b.ids[n])
	}
	slices.Sort(ids)
	key := fmt.Sprint(slices.Compact(ids))
	r, ok := b.goals[key]
	if !ok {
		r = b.newRule()
		b.goals[key] = r
		b.queue = append(b.queue, queued{r, g})
	}
	return r
}

// accepts reports whether a schema takes every value, as true does.
func (n *node) accepts() bool {
	return !n.never && n.kinds == allKinds && n.enum == nil && n.low == nil && n.high == nil && n.multiples == nil &&
		n.minLength == 0 && n.maxLength < 0 && n.patterns == nil && n.properties == nil && n.required == nil && n.additional == nil &&
		n.prefix == nil && n.items == nil && n.minItems == 0 && n.maxItems < 0 && n.allOf == nil && n.anyOf == nil && n.oneOf == nil && n.ref == ""
}

// values makes a rule: the values that satisfy a goal.
func (b *builder) values(q queued) error {
	clauses, err := b.clauses(q.goal)
	if err != nil {
		return err
	}
	start, end := b.rules[q.rule].start, b.rules[q.rule].end
	for _, c := range clauses {
		if list := c.enum(); list != nil {
			err = b.enumerated(start, end, c, list)
		} else {
			err = b.kindsOf(start, end, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enumerated reads one of the values of a list that satisfy a clause.
func (b *builder) enumerated(start, end int32, c clause, list []*value) error {
	for _, v := range list {
		ok, err := b.holds(c, v)
		if err != nil {
			return err
		}
		if ok {
			b.skip(b.literal(start, v), end)
		}
		if err := b.check(goal(c).place()); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) kindsOf(start, end int32, c clause) error {
	kinds := c.kinds()
	if kinds&kindNull != 0 {
		b.skip(b.text(start, "null"), end)
	}
	if kinds&kindBool != 0 {
		b.skip(b.text(start, "true"), end)
		b.skip(b.text(start, "false"), end)
	}
	var errs []error
	if kinds&kindNumber != 0 {
		errs = append(errs, b.numbers(start, end, c, kinds&kindFraction != 0))
	}
	if kinds&kindString != 0 {
		errs = append(errs, b.strings(start, end, c))
	}
	if kinds&kindArray != 0 {
		errs = append(errs, b.arrays(start, end, c))
	}
	if kinds&kindObject != 0 {
		errs = append(errs, b.objects(start, end, c))
	}
	return cmp.Or(errs...)
}

// literal reads a value, and returns where that leads.
func (b *builder) literal(from int32, v *value) int32 {
	switch v.kind {
	case kindNull:
		return b.text(from, "null")
	case kindBool:
		if v.flag {
			return b.text(from, "true")
		}
		return b.text(from, "false")
	case kindString:
		return b.quoted(from, v.text)
	case kindArray:
		from = b.text(from, "[")
		for i, item := range v.items {
			if i > 0 {
				from = b.blank(b.text(from, ","))
			}
			from = b.literal(from, item)
		}
		return b.text(from, "]")
	case kindObject:
		from = b.text(from, "{")
		for i, m := range v.members {
			if i > 0 {
				from = b.blank(b.text(from, ","))
			}
			from = b.literal(b.blank(b.text(b.quoted(from, m.name), ":")), m.value)
		}
		return b.text(from, "}")
	default:
		return b.text(from, v.number.String())
	}
}

// arrays reads the arrays that satisfy a clause.
func (b *builder) arrays(start, end int32, c clause) error {
	least, most := c.counts()
	prefix := c.prefix()
	at := b.text(start, "[")
	closed := b.newState()
	b.read(closed, end, ']', ']')
	for i := 0; ; i++ {
		if i >= least {
			b.skip(at, closed)
		}
		if i == most {
			return nil
		}
		item := at
		if i > 0 {
			item = b.blank(b.text(at, ","))
		}
		r := b.rule(c.item(i))
		if most < 0 && i >= max(least, prefix, 1) {
			b.call(item, at, r) // Any number of these.
			return nil
		}
		at = b.newState()
		b.call(item, at, r)
		if err := b.check(goal(c).place()); err != nil {
			return err
		}
	}
}

// objects reads the objects that satisfy a clause. Of each property there are two states
// before it, by whether a property has been written, and so a comma is needed.
func (b *builder) objects(start, end int32, c clause) error {
	names, required := c.names()
	first := b.text(start, "{")
	next := b.newState()
	for _, name := range names {
		r := b.rule(c.property(name))
		key := b.newState()
		b.skip(first, key)
		b.skip(b.blank(b.text(next, ",")), key)
		written := b.newState()
		b.call(b.blank(b.text(b.quoted(key, name), ":")), written, r)
		without := b.newState()
		if !required[name] {
			b.skip(first, without)
			b.skip(next, written)
		}
		first, next = without, written
		if err := b.check(goal(c).place()); err != nil {
			return err
		}
	}
	g, said := c.additional()
	if said || b.open || len(names) == 0 {
		key, more := b.newState(), b.newState()
		b.skip(first, key)
		b.skip(next, more)
		b.skip(b.blank(b.text(more, ",")), key)
		name := b.newState()
		if err := b.dfa(b.text(key, `"`), name, notAmong(names)); err != nil {
			return err
		}
		b.call(b.blank(b.text(name, `":`)), more, b.rule(g))
		next = more
	}
	b.read(first, end, '}', '}')
	b.read(next, end, '}', '}')
	return b.check(goal(c).place())
}

// escaped spells a text as the inside of a JSON string, with as few escapes as may be.
func escaped(text string) string {
	var s strings.Builder
	for _, r := range text {
		if short, ok := shortEscapes[r]; ok {
			s.WriteByte('\\')
			s.WriteByte(short)
		} else if r < ' ' {
			fmt.Fprintf(&s, `\u%04x`, r)
		} else {
			s.WriteRune(r)
		}
	}
	return s.String()
}

// shortEscapes are the characters that have an escape of two characters and need one.
var shortEscapes = map[rune]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}
