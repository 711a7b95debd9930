package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// equal is Python's ==, paid for.
func (r *run) equal(a, b any) (bool, error) {
	if err := r.walk(a); err != nil {
		return false, err
	}
	return equal(a, b), nil
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
	case *namespace, *generator, *cycler:
		return a == b
	case List:
		y, ok := b.(List)
		return ok && slices.EqualFunc(x, y, equal)
	case Tuple, group:
		if typeName(b) != "tuple" {
			return false
		}
		mine, _ := sequence(x)
		theirs, _ := sequence(b)
		return slices.EqualFunc(mine, theirs, equal)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for _, k := range x.keys {
			mine, _ := x.get(k)
			theirs, ok := y.get(k)
			if !ok || !equal(mine, theirs) {
				return false
			}
		}
		return true
	}
	return false
}

// same is Python's "is".
func same(a, b any) bool {
	switch x := a.(type) {
	case nil, bool, int, float64, string:
		return typeName(a) == typeName(b) && equal(a, b)
	case *Dict:
		return x == b
	case List:
		y, ok := b.(List)
		return ok && len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0])
	}
	return false
}

// compare orders numbers, strings, lists and tuples, paid for.
func (r *run) compare(a, b any) (int, error) {
	if err := r.walk(a); err != nil {
		return 0, err
	}
	return compare(a, b)
}

// compare goes through both values once: the first elements that are not equal decide,
// and only they must have an order.
func compare(a, b any) (int, error) {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		return cmp.Compare(x, y), nil
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	}
	mine, okMine := sequence(a)
	theirs, okTheirs := sequence(b)
	if okMine && okTheirs && typeName(a) == typeName(b) {
		for i := range min(len(mine), len(theirs)) {
			if c, err := compare(mine[i], theirs[i]); c != 0 || err != nil && !isEqual(err) {
				return c, err
			}
		}
		return len(mine) - len(theirs), nil
	}
	if _, isDict := a.(*Dict); !okMine && (isDict || a == nil) && equal(a, b) {
		return 0, errEqual
	}
	return 0, fmt.Errorf("%s and %s cannot be ordered", typeName(a), typeName(b))
}

// errEqual is what compare says of values that have no order, but are equal.
var errEqual = errors.New("values without an order cannot be compared")

func isEqual(err error) bool { return errors.Is(err, errEqual) }

// contains is Python's "in".
func (r *run) contains(container, item any) (bool, error) {
	switch c := container.(type) {
	case undefined:
		return false, nil
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("%s cannot be in a string", typeName(item))
		}
		return strings.Contains(c, s), r.spend(1 + len(c)/16)
	case *Dict:
		if _, err := hashable(item); err != nil {
			return false, err
		}
		_, there := c.get(item)
		return there, nil
	}
	if _, function := container.(*generator); !function {
		if _, ok := sequence(container); !ok {
			return false, fmt.Errorf("nothing can be in %s", typeName(container))
		}
	}
	list, err := items(container)
	if err != nil {
		return false, err
	}
	at, err := r.index(list, item)
	return at >= 0, err
}

// index returns the place of an element that is equal to item, -1 if none is.
func (r *run) index(list List, item any) (int, error) {
	if err := r.spend(len(list)); err != nil {
		return -1, err
	}
	for i, x := range list {
		if same, err := r.equal(x, item); same || err != nil {
			return i, err
		}
	}
	return -1, nil
}

// holds applies a comparison.
func (r *run) holds(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return r.equal(a, b)
	case "!=":
		same, err := r.equal(a, b)
		return !same, err
	case "in":
		return r.contains(b, a)
	case "not in":
		in, err := r.contains(b, a)
		return !in, err
	}
	c, err := r.compare(a, b)
	switch op {
	case "<":
		return c < 0, err
	case "<=":
		return c <= 0, err
	case ">":
		return c > 0, err
	default:
		return c >= 0, err
	}
}
