package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// statement is a part of a template's body.
type statement interface {
	exec(r *run, s *scope, out *strings.Builder) error
}

// What break and continue do, found by the loop around them.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (r *run) execute(body []statement, s *scope, out *strings.Builder) error {
	for _, st := range body {
		if err := r.spend(1); err != nil {
			return err
		}
		if err := st.exec(r, s, out); err != nil {
			return err
		}
	}
	return nil
}

// write appends to the output within the budget.
func (r *run) write(out *strings.Builder, s string) error {
	if err := r.spend(len(s)); err != nil {
		return err
	}
	out.WriteString(s)
	return nil
}

// located adds a line to an error that has none.
func located(line int, err error) error {
	if _, known := errors.AsType[*lineError](err); err == nil || known || errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		return err
	}
	return &lineError{line, err}
}

type lineError struct {
	line int
	err  error
}

// Error says where.
func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }

// Unwrap returns what went wrong there.
func (e *lineError) Unwrap() error { return e.err }

type textStatement string

func (t textStatement) exec(r *run, _ *scope, out *strings.Builder) error {
	return r.write(out, string(t))
}

type outputStatement struct {
	expr expr
	line int
}

func (o *outputStatement) exec(r *run, s *scope, out *strings.Builder) error {
	v, err := o.expr.eval(r, s)
	if err != nil {
		return located(o.line, err)
	}
	return r.write(out, text(v))
}

type groupStatement []statement

func (g groupStatement) exec(r *run, s *scope, out *strings.Builder) error {
	return r.execute(g, s, out)
}

type flowStatement struct{ err error }

func (f flowStatement) exec(*run, *scope, *strings.Builder) error { return f.err }

type branch struct {
	condition expr
	body      []statement
}

type ifStatement struct {
	branches  []branch
	otherwise []statement
}

func (i *ifStatement) exec(r *run, s *scope, out *strings.Builder) error {
	for _, b := range i.branches {
		v, err := b.condition.eval(r, s)
		if err != nil {
			return err
		}
		if truth(v) {
			return r.execute(b.body, s, out)
		}
	}
	return r.execute(i.otherwise, s, out)
}

// iterationWork is what an iteration costs besides its body.
const iterationWork = 8

type forStatement struct {
	targets         []string
	over, filter    expr
	body, otherwise []statement
	line            int
}

func (f *forStatement) exec(r *run, s *scope, out *strings.Builder) error {
	list, err := f.selected(r, s)
	if err != nil {
		return located(f.line, err)
	}
	if len(list) == 0 {
		return r.execute(f.otherwise, s, out)
	}
	for i := range list {
		inner := s.inner()
		if err := bind(inner, f.targets, list[i]); err != nil {
			return located(f.line, err)
		}
		inner.vars["loop"] = &loop{list, i}
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
func (f *forStatement) selected(r *run, s *scope) (List, error) {
	v, err := f.over.eval(r, s)
	if err != nil {
		return nil, err
	}
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if err := r.spend(iterationWork * len(list)); err != nil || f.filter == nil {
		return list, err
	}
	var kept List
	for _, x := range list {
		inner := s.inner()
		if err := bind(inner, f.targets, x); err != nil {
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

// bind assigns a value to one name, or its parts to several.
func bind(s *scope, names []string, value any) error {
	if len(names) == 1 {
		s.vars[names[0]] = value
		return nil
	}
	parts, ok := value.(List)
	if !ok || len(parts) != len(names) {
		return fmt.Errorf("%s cannot be unpacked into %d names", repr(value), len(names))
	}
	for i, name := range names {
		s.vars[name] = parts[i]
	}
	return nil
}

// loop is the variable "loop" of iteration i.
type loop struct {
	list List
	i    int
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
	case "previtem":
		if l.i > 0 {
			return l.list[l.i-1], true
		}
	case "nextitem":
		if l.i < n-1 {
			return l.list[l.i+1], true
		}
	case "cycle":
		return Func(func(args []any, _ map[string]any) (any, error) {
			if len(args) == 0 {
				return nil, errors.New("cycle takes at least one value")
			}
			return args[l.i%len(args)], nil
		}), true
	}
	return nil, false
}

type setStatement struct {
	targets   []string
	attribute string
	value     expr
	body      []statement
	isBlock   bool
	line      int
}

func (st *setStatement) exec(r *run, s *scope, _ *strings.Builder) error {
	var value any
	var err error
	if st.isBlock {
		var inner strings.Builder
		err = r.execute(st.body, s.inner(), &inner)
		value = inner.String()
	} else {
		value, err = st.value.eval(r, s)
	}
	if err != nil {
		return located(st.line, err)
	}
	if st.attribute == "" {
		return located(st.line, bind(s, st.targets, value))
	}
	target, _ := s.get(st.targets[0])
	ns, ok := target.(*namespace)
	if !ok {
		return located(st.line, fmt.Errorf("attribute %s of %s cannot be set: it is no namespace", st.attribute, st.targets[0]))
	}
	ns.set(st.attribute, value)
	return nil
}

type param struct {
	name     string
	fallback expr
}

type macroStatement struct {
	name   string
	params []param
	body   []statement
}

func (m *macroStatement) exec(r *run, s *scope, _ *strings.Builder) error {
	s.vars[m.name] = Func(func(args []any, kwargs map[string]any) (any, error) {
		if err := r.enter(); err != nil {
			return nil, err
		}
		defer r.leave()
		inner := s.inner()
		if len(args) > len(m.params) {
			return nil, fmt.Errorf("macro %s takes %d arguments, not %d", m.name, len(m.params), len(args))
		}
		used := 0
		for i, p := range m.params {
			value, named := kwargs[p.name]
			switch {
			case i < len(args):
				value = args[i]
			case named:
				used++
			case p.fallback != nil:
				var err error
				if value, err = p.fallback.eval(r, inner); err != nil {
					return nil, err
				}
			default:
				value = undefined{name: "parameter " + p.name}
			}
			inner.vars[p.name] = value
		}
		if used != len(kwargs) {
			return nil, fmt.Errorf("macro %s is called with a parameter that it has not, or twice with one", m.name)
		}
		var out strings.Builder
		err := r.execute(m.body, inner, &out)
		return out.String(), err
	})
	return nil
}
