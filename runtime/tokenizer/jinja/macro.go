package jinja

import (
	"errors"
	"fmt"
	"strings"
)

type setStatement struct {
	target target
	value  expr
	line   int
}

func (st *setStatement) exec(r *run, s *scope, _ *strings.Builder) error {
	value, err := st.value.eval(r, s)
	if err != nil {
		return located(st.line, err)
	}
	return located(st.line, r.bind(s, st.target, value))
}

// captureExpr is what a body renders.
type captureExpr struct{ body []statement }

func (c *captureExpr) eval(r *run, s *scope) (any, error) {
	var inner strings.Builder
	err := r.execute(c.body, s.inner(), &inner)
	return inner.String(), err
}

// unknownStatement is one that is not supported.
type unknownStatement struct {
	name string
	line int
}

func (u *unknownStatement) exec(*run, *scope, *strings.Builder) error {
	return located(u.line, fmt.Errorf("statement %q is not supported", u.name))
}

type withStatement struct {
	targets []target
	values  []expr
	body    []statement
	line    int
}

func (w *withStatement) exec(r *run, s *scope, out *strings.Builder) error {
	inner := s.inner()
	for i, t := range w.targets {
		v, err := w.values[i].eval(r, s) // They do not see each other.
		if err == nil {
			err = r.bind(inner, t, v)
		}
		if err != nil {
			return located(w.line, err)
		}
	}
	return r.execute(w.body, inner, out)
}

type blockStatement struct {
	body   []statement
	scoped bool
}

func (b *blockStatement) exec(r *run, s *scope, out *strings.Builder) error {
	from := s
	for !b.scoped && from.parent != nil && from.parent.parent != nil {
		from = from.parent
	}
	return r.execute(b.body, from.inner(), out)
}

type autoescapeStatement struct {
	on   expr
	body []statement
	line int
}

func (a *autoescapeStatement) exec(r *run, s *scope, out *strings.Builder) error {
	on, err := a.on.eval(r, s)
	if err == nil && truth(on) {
		err = errors.New("autoescape is not supported: chat templates are text")
	}
	if err != nil {
		return located(a.line, err)
	}
	return r.execute(a.body, s.inner(), out)
}

type param struct {
	name     string
	fallback expr
}

// macro is a function that renders a body: of a macro, or of a call, whose body is
// the macro "caller".
type macro struct {
	name     string
	params   []param
	body     []statement
	mentions map[string]bool // Which of caller, varargs and kwargs the body mentions.
}

type macroStatement struct{ macro }

func (m *macroStatement) exec(r *run, s *scope, _ *strings.Builder) error {
	s.vars[m.name] = m.in(r, s)
	return nil
}

// callStatement calls a macro with a body.
type callStatement struct {
	caller macro
	call   *callExpr
	line   int
}

func (c *callStatement) exec(r *run, s *scope, out *strings.Builder) error {
	v, err := c.call.with(r, s, c.caller.in(r, s))
	if err != nil {
		return located(c.line, err)
	}
	printed, err := r.text(v)
	if err != nil {
		return located(c.line, err)
	}
	return r.write(out, printed)
}

// in returns the macro as a function that sees the variables of a scope.
func (m *macro) in(r *run, s *scope) Func {
	return func(args []any, kwargs *Dict) (any, error) {
		if err := r.enter(); err != nil {
			return nil, err
		}
		defer r.leave()
		inner := s.inner()
		if err := m.bind(r, inner, args, kwargs); err != nil {
			return nil, fmt.Errorf("macro %s: %w", m.name, err)
		}
		var out strings.Builder
		err := r.execute(m.body, inner, &out)
		return out.String(), err
	}
}

// bind gives the parameters their values. What is left over goes to varargs and
// kwargs, where the body asks for them.
func (m *macro) bind(r *run, s *scope, args []any, kwargs *Dict) error {
	used := map[any]bool{}
	for i, p := range m.params {
		value, named := kwargs.get(p.name)
		switch {
		case named && i < len(args):
			return fmt.Errorf("parameter %s is given twice", p.name)
		case i < len(args):
			value = args[i]
		case named:
			used[p.name] = true
		case p.fallback != nil:
			var err error
			if value, err = p.fallback.eval(r, s); err != nil {
				return err
			}
		default:
			value = undefined{name: "parameter " + p.name}
		}
		s.vars[p.name] = value
	}
	rest := NewDict()
	for i := range kwargs.len() {
		name, _ := kwargs.keys[i].(string)
		if !used[name] {
			v, _ := kwargs.get(name)
			rest.set(name, v)
		}
	}
	if m.mentions["caller"] {
		if caller, ok := rest.get("caller"); ok {
			s.vars["caller"] = caller
			rest = rest.without("caller")
		} else if _, param := s.vars["caller"]; !param {
			s.vars["caller"] = undefined{name: "caller"}
		}
	}
	switch {
	case m.mentions["kwargs"]:
		s.vars["kwargs"] = rest
	case rest.len() > 0:
		return fmt.Errorf("takes no argument called %s", text(rest.keys[0]))
	}
	var more Tuple
	if len(args) > len(m.params) {
		more = Tuple(args[len(m.params):])
	}
	switch {
	case m.mentions["varargs"]:
		s.vars["varargs"] = more
	case len(more) > 0:
		return fmt.Errorf("takes %d arguments, not %d", len(m.params), len(args))
	}
	return nil
}

// without returns the dictionary without a key.
func (d *Dict) without(key string) *Dict {
	rest := NewDict()
	for _, k := range d.keys {
		if k != key {
			v, _ := d.get(k)
			rest.set(text(k), v)
		}
	}
	return rest
}
