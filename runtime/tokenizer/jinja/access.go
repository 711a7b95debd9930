package jinja

import (
	"fmt"
	"strings"
)

// item is container[key].
func item(container, key any, what string) (any, error) {
	switch c := container.(type) {
	case undefined:
		return nil, c.err()
	case *Dict:
		if v, ok := c.get(key); ok {
			return v, nil
		}
	case *namespace:
		return item(&c.Dict, key, what)
	case interface{ attribute(string) (any, bool) }:
		if name, ok := key.(string); ok {
			if v, ok := c.attribute(name); ok {
				return v, nil
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
	list, ok := sequence(container)
	if i, isInt := integer(key); ok && isInt {
		if i < 0 {
			i += len(list)
		}
		if i >= 0 && i < len(list) {
			return list[i], nil
		}
	}
	return undefined{name: what}, nil
}

// attribute returns the parts of a group by their names.
func (g group) attribute(name string) (any, bool) {
	switch name {
	case "grouper":
		return g.key, true
	case "list":
		return g.list, true
	}
	return nil, false
}

// attribute is object.name: a method before an item of that name, as in Python.
func (r *run) attribute(object any, name string) (any, error) {
	if hasMethod(object, name) {
		return Func(func(args []any, kwargs *Dict) (any, error) {
			result, _, err := r.method(object, name, args, kwargs)
			return result, err
		}), nil
	}
	if changes(object, name) {
		return undefined{name: "method " + name + ", which would change a " + typeName(object) + ","}, nil
	}
	return item(object, name, "attribute "+name)
}

// slice is container[start:stop:step]; nil bounds are absent.
func slice(container any, start, stop, step any) (any, error) {
	list, ok := sequence(container)
	s, isString := container.(string)
	switch c := container.(type) {
	case undefined:
		return nil, c.err()
	case string:
		list, _ = items(s)
	default:
		if !ok {
			return nil, fmt.Errorf("%s cannot be sliced", typeName(container))
		}
	}
	by := 1
	if step != nil {
		var ok bool
		if by, ok = integer(step); !ok || by == 0 {
			return nil, fmt.Errorf("a slice cannot step by %s", text(step))
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
	for i := from; by > 0 && i < to || by < 0 && i > to; {
		part = append(part, list[i])
		if by > len(list) || by < -len(list) { // The next one is outside, and the sum may overflow.
			break
		}
		i += by
	}
	if _, isTuple := container.(Tuple); isTuple {
		return Tuple(part), nil
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
