package constrain

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
)

// Layout is a text that has values in it: fixed words around them, alternatives, repetitions
// and free text. Each part is one of Literal, Value, Sequence, Choice, Repeat and Free.
type Layout interface {
	// build adds what the layout reads from a state, and returns where that leads.
	build(b *builder, from int32) (to int32, err error)
	// key appends what tells this layout from others.
	key(k []byte) []byte
}

// Literal is a fixed text. It may have bytes that are no UTF-8, for tokens that nothing else
// allows: see NewVocabulary.
type Literal string

// Value is a JSON value.
type Value struct {
	// Name is what a SchemaError calls the schema.
	Name string
	// Schema is the JSON Schema that the value satisfies; without one it may be any.
	Schema []byte
	// Object lets it be nothing but an object.
	Object bool
	// Loose lets it be any object if its schema is one that cannot be followed.
	Loose bool
}

// Sequence is its parts, one behind the other.
type Sequence []Layout

// Choice is one of its alternatives.
type Choice []Layout

// Repeat is one or more of Item, with Between between two.
type Repeat struct {
	Item    Layout
	Between Layout
}

// Free is any text, the empty one included, in which none of Without occurs and whose first
// byte that is no white space is none of NotFirst.
type Free struct {
	Without  []string
	NotFirst string
}

func appendText(k []byte, kind byte, text string) []byte {
	k = binary.LittleEndian.AppendUint64(append(k, kind), uint64(len(text)))
	return append(k, text...)
}

func appendParts(k []byte, kind byte, parts []Layout) []byte {
	k = binary.LittleEndian.AppendUint64(append(k, kind), uint64(len(parts)))
	for _, p := range parts {
		k = p.key(k)
	}
	return k
}

func (l Literal) key(k []byte) []byte  { return appendText(k, 'l', string(l)) }
func (s Sequence) key(k []byte) []byte { return appendParts(k, 's', s) }
func (c Choice) key(k []byte) []byte   { return appendParts(k, 'c', c) }
func (r Repeat) key(k []byte) []byte   { return r.Between.key(r.Item.key(append(k, 'r'))) }

func (v Value) key(k []byte) []byte {
	kind := byte('0')
	if v.Object {
		kind |= 1
	}
	if v.Loose {
		kind |= 2
	}
	return appendText(appendText(k, kind, v.Name), kind, string(v.Schema))
}

func (f Free) key(k []byte) []byte {
	k = appendText(k, 'f', f.NotFirst)
	k = binary.LittleEndian.AppendUint64(k, uint64(len(f.Without)))
	for _, text := range f.Without {
		k = appendText(k, 't', text)
	}
	return k
}

// buildLayout makes the grammar of a layout. What is around its values is in the root rule,
// which nobody calls, so that it may read nothing.
func (b *builder) buildLayout(l Layout) error {
	b.root = b.newRule()
	r := b.rules[b.root]
	to, err := l.build(b, r.start)
	if err != nil {
		return err
	}
	b.skip(to, r.end)
	alive, err := b.finish()
	if err == nil && !alive {
		err = refuse("", "no text satisfies it that could be written")
	}
	return err
}

func (l Literal) build(b *builder, from int32) (int32, error) {
	return b.text(from, string(l)), b.check("")
}

func (s Sequence) build(b *builder, from int32) (to int32, err error) {
	for _, part := range s {
		if from, err = part.build(b, from); err != nil {
			return from, err
		}
	}
	return from, nil
}

func (c Choice) build(b *builder, from int32) (int32, error) {
	to := b.newState()
	for _, alternative := range c {
		// A state of its own, since a repetition leads back to where it began.
		own := b.newState()
		b.skip(from, own)
		end, err := alternative.build(b, own)
		if err != nil {
			return to, err
		}
		b.skip(end, to)
	}
	return to, b.check("")
}

func (r Repeat) build(b *builder, from int32) (int32, error) {
	begin := b.newState()
	b.skip(from, begin)
	end, err := r.Item.build(b, begin)
	if err != nil {
		return end, err
	}
	again, err := r.Between.build(b, end)
	if err != nil {
		return end, err
	}
	b.skip(again, begin)
	to := b.newState()
	b.skip(end, to)
	return to, nil
}

func (v Value) build(b *builder, from int32) (int32, error) {
	return v.part(b, from, (*builder).build)
}

// part builds the value with a builder of its own, and takes its rules over. By itself it is
// known whether the schema can be followed: in the layout a value that nothing satisfies would
// be an alternative that is silently never chosen. And of a schema that cannot be, nothing
// stays behind.
func (v Value) part(b *builder, from int32, build func(*builder, goal) error) (int32, error) {
	var g goal
	if v.Object || v.Loose {
		g = goal{anyObject()}
	}
	own := newBuilder(b.ctx, b.open)
	err := func() error {
		if v.Schema == nil {
			return build(own, g)
		}
		n, err := parse(v.Schema)
		if err != nil {
			return err
		}
		return build(own, append(goal{n}, g...))
	}()
	if _, bad := errors.AsType[*SchemaError](err); bad && v.Loose && context.Cause(b.ctx) == nil {
		own = newBuilder(b.ctx, b.open)
		err = build(own, g)
	}
	if err != nil {
		return from, v.named(err)
	}
	to := b.newState()
	b.call(from, to, b.adopt(&own.nfa))
	return to, b.check("")
}

// named says in which schema an error is.
func (v Value) named(err error) error {
	if bad, ok := errors.AsType[*SchemaError](err); ok {
		return &SchemaError{Schema: v.Name, Place: bad.Place, Reason: bad.Reason}
	}
	return err
}

// maxTextByte is the highest byte that may occur in UTF-8.
const maxTextByte = 0xf4

// build makes a state for each beginning of a forbidden text: the longest that the text so
// far ends in.
func (f Free) build(b *builder, from int32) (int32, error) {
	to := b.newState()
	states := map[string]int32{"": b.newState()}
	prefixes := []string{""}
	for _, text := range f.Without {
		for i := 1; i < len(text); i++ {
			if _, known := states[text[:i]]; !known {
				states[text[:i]] = b.newState()
				prefixes = append(prefixes, text[:i])
			}
		}
	}
	for _, prefix := range prefixes {
		b.skip(states[prefix], to)
		f.moves(b, states[prefix], prefix, states, "")
	}
	if f.NotFirst == "" {
		b.skip(from, states[""])
		return to, b.check("")
	}
	blank := b.newState()
	b.skip(from, blank)
	b.skip(blank, to)
	for _, c := range []byte(whiteSpace) {
		b.read(blank, blank, c, c)
	}
	f.moves(b, blank, "", states, whiteSpace+f.NotFirst)
	return to, b.check("")
}

const whiteSpace = " \t\n\r"

// moves adds the edges of a state, by the text that it stands for: but for those of excluded
// bytes, and of those that complete a forbidden text.
func (f Free) moves(b *builder, at int32, prefix string, states map[string]int32, excluded string) {
	begun, target := -1, int32(0)
	for c := 0; c <= maxTextByte+1; c++ {
		next := int32(-1)
		if c <= maxTextByte && strings.IndexByte(excluded, byte(c)) < 0 {
			next = f.after(prefix+string([]byte{byte(c)}), states)
		}
		if begun >= 0 && next != target {
			b.read(at, target, byte(begun), byte(c-1))
			begun = -1
		}
		if begun < 0 && next >= 0 {
			begun, target = c, next
		}
	}
}

// after is the state of a text, −1 if a forbidden one is complete.
func (f Free) after(text string, states map[string]int32) int32 {
	for _, forbidden := range f.Without {
		if strings.HasSuffix(text, forbidden) {
			return -1
		}
	}
	for i := range len(text) + 1 {
		if s, ok := states[text[i:]]; ok {
			return s
		}
	}
	return states[""]
}
