package jinja

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// List is a list or a tuple; unlike Python's, a tuple prints as a list.
type List []any

// Dict is a dictionary with string keys in the order of their insertion.
type Dict struct {
	keys   []string
	values map[string]any
}

// NewDict returns a dictionary of alternating keys and values.
func NewDict(pairs ...any) *Dict {
	d := &Dict{values: map[string]any{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		if key, ok := pairs[i].(string); ok {
			d.set(key, pairs[i+1])
		}
	}
	return d
}

func (d *Dict) set(key string, value any) {
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = value
}

// Func is a function that a template may call.
type Func func(args []any, kwargs map[string]any) (any, error)

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
	case *Dict:
		return len(v.keys) > 0
	default:
		return true
	}
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

// repr is Python's repr().
func repr(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case undefined:
		return "Undefined"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int:
		return strconv.Itoa(v)
	case float64:
		return floatText(v)
	case string:
		return quote(v)
	case List:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = repr(x)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case *Dict:
		parts := make([]string, len(v.keys))
		for i, k := range v.keys {
			parts[i] = quote(k) + ": " + repr(v.values[k])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	default:
		return "<" + typeName(v) + ">"
	}
}

func floatText(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e16 {
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// quote is Python's repr of a string.
func quote(s string) string {
	q := "'"
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = `"`
	}
	return q + strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`, q, `\`+q).Replace(s) + q
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
	case *Dict:
		return "dict"
	case *namespace:
		return "namespace"
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

// equal is Python's ==.
func equal(a, b any) bool {
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case undefined:
		_, ok := b.(undefined)
		return ok
	case string:
		y, ok := b.(string)
		return ok && x == y
	case List:
		y, ok := b.(List)
		return ok && slices.EqualFunc(x, y, equal)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for _, k := range x.keys {
			other, ok := y.values[k]
			if !ok || !equal(x.values[k], other) {
				return false
			}
		}
		return true
	}
	return false
}

// compare orders numbers, strings and lists.
func compare(a, b any) (int, error) {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		switch {
		case x < y:
			return -1, nil
		case x > y:
			return 1, nil
		}
		return 0, nil
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	case List:
		if y, ok := b.(List); ok {
			for i := range min(len(x), len(y)) {
				if c, err := compare(x[i], y[i]); c != 0 || err != nil {
					return c, err
				}
			}
			return len(x) - len(y), nil
		}
	}
	return 0, fmt.Errorf("%s and %s cannot be ordered", typeName(a), typeName(b))
}

// contains is Python's "in".
func contains(container, item any) (bool, error) {
	switch c := container.(type) {
	case undefined:
		return false, nil
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("%s cannot be in a string", typeName(item))
		}
		return strings.Contains(c, s), nil
	case List:
		return slices.ContainsFunc(c, func(x any) bool { return equal(x, item) }), nil
	case *Dict:
		key, ok := item.(string)
		_, there := c.values[key]
		return ok && there, nil
	default:
		return false, fmt.Errorf("nothing can be in %s", typeName(container))
	}
}

// items lists what a value iterates over.
func items(v any) (List, error) {
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case List:
		return v, nil
	case *Dict:
		return stringList(v.keys), nil
	case string:
		list := make(List, 0, len(v))
		for _, r := range v {
			list = append(list, string(r))
		}
		return list, nil
	default:
		return nil, fmt.Errorf("%s cannot be iterated over", typeName(v))
	}
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
	case List:
		return len(v), nil
	case *Dict:
		return len(v.keys), nil
	default:
		return 0, fmt.Errorf("%s has no length", typeName(v))
	}
}

// item is container[key].
func item(container, key any, what string) (any, error) {
	switch c := container.(type) {
	case undefined:
		return nil, c.err()
	case *Dict:
		if k, ok := key.(string); ok {
			if v, ok := c.values[k]; ok {
				return v, nil
			}
		}
	case *namespace:
		return item(&c.Dict, key, what)
	case *loop:
		if name, ok := key.(string); ok {
			if v, ok := c.attribute(name); ok {
				return v, nil
			}
		}
	case List:
		if i, ok := integer(key); ok {
			if i < 0 {
				i += len(c)
			}
			if i >= 0 && i < len(c) {
				return c[i], nil
			}
		}
	case string:
		if i, ok := integer(key); ok {
			runes := []rune(c)
			if i < 0 {
				i += len(runes)
			}
			if i >= 0 && i < len(runes) {
				return string(runes[i]), nil
			}
		}
	}
	return undefined{name: what}, nil
}

// slice is container[start:stop:step]; nil bounds are absent.
func slice(container any, start, stop, step any) (any, error) {
	var list List
	s, isString := container.(string)
	switch c := container.(type) {
	case undefined:
		return nil, c.err()
	case string:
		list, _ = items(s)
	case List:
		list = c
	default:
		return nil, fmt.Errorf("%s cannot be sliced", typeName(container))
	}
	by := 1
	if step != nil {
		var ok bool
		if by, ok = integer(step); !ok || by == 0 {
			return nil, fmt.Errorf("a slice cannot step by %s", repr(step))
		}
	}
	from, to := 0, len(list)
	if by < 0 {
		from, to = len(list)-1, -1
	}
	bound := func(v any, into *int) error {
		if v == nil {
			return nil
		}
		i, ok := integer(v)
		if !ok {
			return fmt.Errorf("a slice is bounded by integers, not by %s", typeName(v))
		}
		if i < 0 {
			i += len(list)
		}
		if by < 0 {
			*into = min(max(i, -1), len(list)-1)
		} else {
			*into = min(max(i, 0), len(list))
		}
		return nil
	}
	if err := bound(start, &from); err != nil {
		return nil, err
	}
	if err := bound(stop, &to); err != nil {
		return nil, err
	}
	part := List{}
	for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
		part = append(part, list[i])
	}
	if !isString {
		return part, nil
	}
	var b strings.Builder
	for _, r := range part {
		b.WriteString(text(r))
	}
	return b.String(), nil
}
