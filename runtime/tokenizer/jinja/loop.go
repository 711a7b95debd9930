package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// iterationWork is what an iteration costs besides its body.
const iterationWork = 8

type forStatement struct {
	target          target
	over, filter    expr
	body, otherwise []statement
	recursive       bool
	line            int
}

func (f *forStatement) exec(r *run, s *scope, out *strings.Builder) error {
	v, err := f.over.eval(r, s)
	if err != nil {
		return located(f.line, err)
	}
	return f.loop(r, s, v, out, 1)
}

// loop runs over a value; depth counts the loops that called themselves.
func (f *forStatement) loop(r *run, s *scope, over any, out *strings.Builder, depth int) error {
	list, err := f.selected(r, s, over)
	if err != nil {
		return located(f.line, err)
	}
	if len(list) == 0 {
		return r.execute(f.otherwise, s, out)
	}
	state := &loopState{list: list, depth: depth}
	if f.recursive {
		state.again = func(over any) (string, error) {
			if err := r.enter(); err != nil {
				return "", err
			}
			defer r.leave()
			var inner strings.Builder
			err := f.loop(r, s, over, &inner, depth+1)
			return inner.String(), err
		}
	}
	for i := range list {
		inner := s.inner()
		if err := r.bind(inner, f.target, list[i]); err != nil {
			return located(f.line, err)
		}
		inner.vars["loop"] = &loop{state, i}
		err := r.execute(f.body, inner, out)
		if errors.Is(err, errBreak) {
			return nil
		}
		if err != nil && !errors.Is(err, errContinue) {
			return located(f.line, err)
		}
	}
	return nil
}

// selected lists what the loop runs over.
func (f *forStatement) selected(r *run, s *scope, over any) (List, error) {
	list, err := items(over)
	if err != nil {
		return nil, err
	}
	if err := r.spend(iterationWork * len(list)); err != nil || f.filter == nil {
		return list, err
	}
	var kept List
	for _, x := range list {
		inner := s.inner()
		if err := r.bind(inner, f.target, x); err != nil {
			return nil, err
		}
		wanted, err := f.filter.eval(r, inner)
		if err != nil {
			return nil, err
		}
		if truth(wanted) {
			kept = append(kept, x)
		}
	}
	return kept, nil
}

// bind assigns a value to a target, or its parts to several.
func (r *run) bind(s *scope, t target, value any) error {
	switch {
	case t.attribute != "":
		object, _ := s.get(t.name)
		ns, ok := object.(*namespace)
		if !ok {
			return fmt.Errorf("attribute %s of %s cannot be set: it is no namespace", t.attribute, t.name)
		}
		ns.set(t.attribute, value)
		return nil
	case t.parts == nil:
		s.vars[t.name] = value
		return nil
	}
	if _, missing := value.(undefined); missing {
		return fmt.Errorf("%s cannot be unpacked into %d names", typeName(value), len(t.parts))
	}
	parts, err := items(value)
	if err != nil || len(parts) != len(t.parts) {
		return fmt.Errorf("%s of %d parts cannot be unpacked into %d names", typeName(value), len(parts), len(t.parts))
	}
	for i, part := range t.parts {
		if err := r.bind(s, part, parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// loopState is what the iterations of a loop share.
type loopState struct {
	list    List
	depth   int
	again   func(over any) (string, error) // nil unless the loop is recursive.
	changed List                           // What changed() was called with last.
	asked   bool
}

// loop is the variable "loop" of iteration i.
type loop struct {
	*loopState
	i int
}

// recurse is loop(children).
func (l *loop) recurse(_ *run, args []any) (any, error) {
	if l.again == nil {
		return nil, errors.New("the loop is not recursive")
	}
	if len(args) != 1 {
		return nil, errors.New("a loop is called with what it runs over")
	}
	return l.again(args[0])
}

// attribute returns loop.name; ok is false if there is no such attribute.
func (l *loop) attribute(name string) (value any, ok bool) {
	n := len(l.list)
	switch name {
	case "index":
		return l.i + 1, true
	case "index0":
		return l.i, true
	case "revindex":
		return n - l.i, true
	case "revindex0":
		return n - l.i - 1, true
	case "first":
		return l.i == 0, true
	case "last":
		return l.i == n-1, true
	case "length":
		return n, true
	case "depth":
		return l.depth, true
	case "depth0":
		return l.depth - 1, true
	case "previtem":
		if l.i > 0 {
			return l.list[l.i-1], true
		}
	case "nextitem":
		if l.i < n-1 {
			return l.list[l.i+1], true
		}
	case "changed":
		return Func(l.hasChanged), true
	case "cycle":
		return Func(func(args []any, _ *Dict) (any, error) {
			if len(args) == 0 {
				return nil, errors.New("cycle takes at least one value")
			}
			return args[l.i%len(args)], nil
		}), true
	}
	return nil, false
}

// maxChanged bounds what loop.changed compares.
const maxChanged = 10_000

func (l *loop) hasChanged(args []any, _ *Dict) (any, error) {
	if weigh(List(args), maxChanged) > maxChanged {
		return nil, errors.New("what loop.changed is asked about is too large")
	}
	if l.asked && slices.EqualFunc(l.changed, args, equal) {
		return false, nil
	}
	l.changed, l.asked = args, true
	return true, nil
}
