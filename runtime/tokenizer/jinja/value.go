package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// List is a list.
type List []any

// Tuple is a tuple: a list that prints with parentheses and may be a key.
type Tuple []any

// generator is what filters give that Jinja2 evaluates as somebody iterates: it is
// true, has no length and no items, and can be iterated over once.
type generator struct{ list List }

// group is one result of groupby: a pair whose parts have names.
type group struct {
	key  any
	list List
}

// sequence returns the elements of a list or tuple.
func sequence(v any) (list List, ok bool) {
	switch v := v.(type) {
	case List:
		return v, true
	case Tuple:
		return List(v), true
	case group:
		return List{v.key, v.list}, true
	}
	return nil, false
}

// Dict is a dictionary in the order of insertion. Its keys are strings, numbers,
// booleans, none and tuples of them.
type Dict struct {
	keys   []any
	values map[any]any // By hashable key.
}

// NewDict returns a dictionary of alternating keys and values. Keys that no
// dictionary can have are left out.
func NewDict(pairs ...any) *Dict {
	d := &Dict{values: make(map[any]any, len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		_ = d.put(pairs[i], pairs[i+1])
	}
	return d
}

func (d *Dict) put(key, value any) error {
	k, err := hashable(key)
	if err != nil {
		return err
	}
	if _, ok := d.values[k]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[k] = value
	return nil
}

func (d *Dict) set(key string, value any) {
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = value
}

// get returns the value of a key; d may be nil.
func (d *Dict) get(key any) (value any, ok bool) {
	if d == nil {
		return nil, false
	}
	k, err := hashable(key)
	if err != nil {
		return nil, false
	}
	value, ok = d.values[k]
	return value, ok
}

func (d *Dict) len() int {
	if d == nil {
		return 0
	}
	return len(d.keys)
}

// pairs lists keys and values as tuples.
func (d *Dict) pairs() List {
	list := make(List, len(d.keys))
	for i, k := range d.keys {
		v, _ := d.get(k)
		list[i] = Tuple{k, v}
	}
	return list
}

type (
	noneKey  struct{}
	tupleKey string
)

// maxKey bounds tuples that are keys, in elements and bytes.
const maxKey = 10_000

// hashable returns what stands for a key in a map: equal keys, of which 1, 1.0 and
// true are, have the same.
func hashable(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return noneKey{}, nil
	case string:
		return v, nil
	case bool, int:
		i, _ := integer(v)
		return i, nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v), nil
		}
		return v, nil
	case Tuple:
		if weigh(v, maxKey) > maxKey {
			return nil, errors.New("the tuple is too large to be a key")
		}
		parts := make([]string, len(v))
		for i, x := range v {
			k, err := hashable(x)
			if err != nil {
				return nil, err
			}
			parts[i] = fmt.Sprintf("%T %q", k, fmt.Sprint(k))
		}
		return tupleKey(strings.Join(parts, ",")), nil
	}
	return nil, fmt.Errorf("unhashable type: %q", typeName(v))
}

// Func is a function that a template may call.
type Func func(args []any, kwargs *Dict) (any, error)

// namespace is a dictionary whose attributes a template may set.
type namespace struct{ Dict }

// undefined is a variable, attribute or item that is not there. It is false,
// empty and prints as nothing; anything else done with it is an error.
type undefined struct{ name string }

func (u undefined) err() error { return fmt.Errorf("%s is undefined", u.name) }

// truth is Python's bool().
func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case List:
		return len(v) > 0
	case Tuple:
		return len(v) > 0
	case *Dict:
		return len(v.keys) > 0
	default:
		return true
	}
}

// weigh counts the elements and bytes of all that a value prints, up to where that
// is more than limit. Values share parts, so that a small program can make one whose
// text is astronomic; whoever walks through a value pays its weight first.
func weigh(v any, limit int) int {
	switch v := v.(type) {
	case string:
		return 1 + len(v)
	case *Dict:
		n := 1
		for _, k := range v.keys {
			if n += weigh(k, limit-n); n > limit {
				return n
			}
			value, _ := v.get(k)
			if n += weigh(value, limit-n); n > limit {
				return n
			}
		}
		return n
	}
	list, _ := sequence(v)
	n := 1
	for _, x := range list {
		if n += weigh(x, limit-n); n > limit {
			return n
		}
	}
	return n
}

// text is Python's str().
func text(v any) string {
	switch v := v.(type) {
	case undefined:
		return ""
	case string:
		return v
	default:
		return repr(v)
	}
}

// text is Python's str(), paid for.
func (r *run) text(v any) (string, error) {
	if err := r.walk(v); err != nil {
		return "", err
	}
	return text(v), nil
}

// walk pays for going through a value that has parts.
func (r *run) walk(v any) error {
	switch v.(type) {
	case List, Tuple, *Dict, group:
		return r.spend(weigh(v, r.budget))
	}
	return nil
}

// repr is Python's repr().
func repr(v any) string {
	var b strings.Builder
	writeRepr(&b, v)
	return b.String()
}

func writeRepr(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case undefined:
		b.WriteString("Undefined")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int:
		b.WriteString(strconv.Itoa(v))
	case float64:
		b.WriteString(floatText(v))
	case string:
		b.WriteString(quote(v))
	case List:
		writeList(b, v, "[", "]")
	case Tuple:
		if len(v) == 1 {
			writeList(b, List(v), "(", ",)")
		} else {
			writeList(b, List(v), "(", ")")
		}
	case group:
		writeList(b, List{v.key, v.list}, "(", ")")
	case *Dict:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRepr(b, k)
			b.WriteString(": ")
			value, _ := v.get(k)
			writeRepr(b, value)
		}
		b.WriteByte('}')
	default:
		b.WriteString("<" + typeName(v) + ">")
	}
}

func writeList(b *strings.Builder, list List, open, end string) {
	b.WriteString(open)
	for i, x := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		writeRepr(b, x)
	}
	b.WriteString(end)
}

func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
	case f == math.Trunc(f) && math.Abs(f) < 1e16:
		return strconv.FormatFloat(f, 'f', 1, 64)
	case math.Abs(f) >= 1e-4 && math.Abs(f) < 1e16:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// quote is Python's repr of a string.
func quote(s string) string {
	q := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteRune(q)
	for _, r := range s {
		switch {
		case r == q || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteRune(q)
	return b.String()
}

// typeName names a value's type as Python does.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case undefined:
		return "Undefined"
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case List:
		return "list"
	case Tuple, group:
		return "tuple"
	case *Dict:
		return "dict"
	case *namespace:
		return "namespace"
	case *generator:
		return "generator"
	default:
		return "function"
	}
}

// number returns a number as a float64; booleans are numbers to Python.
func number(v any) (f float64, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// integer returns an int or bool as an int.
func integer(v any) (int, bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// items lists what a value iterates over; a generator is then used up.
func items(v any) (List, error) {
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case *Dict:
		return List(v.keys), nil
	case *generator:
		list := v.list
		v.list = nil
		return list, nil
	case string:
		list := make(List, 0, len(v))
		for _, r := range v {
			list = append(list, string(r))
		}
		return list, nil
	}
	if list, ok := sequence(v); ok {
		return list, nil
	}
	return nil, fmt.Errorf("%s cannot be iterated over", typeName(v))
}

func stringList(parts []string) List {
	list := make(List, len(parts))
	for i, p := range parts {
		list[i] = p
	}
	return list
}

// length is Python's len().
func length(v any) (int, error) {
	switch v := v.(type) {
	case undefined:
		return 0, nil
	case string:
		return utf8.RuneCountInString(v), nil
	case *Dict:
		return len(v.keys), nil
	}
	if list, ok := sequence(v); ok {
		return len(list), nil
	}
	return 0, fmt.Errorf("%s has no length", typeName(v))
}
