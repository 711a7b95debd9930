package jinja

import (
	"fmt"
	"strings"
)

// literal is a constant.
type literal struct{ value any }

func (l literal) eval(r *run, _ *scope) (any, error) { return l.value, r.spend(1) }

// listExpr is a list or tuple.
type listExpr []expr

func (l listExpr) eval(r *run, s *scope) (any, error) {
	if err := r.spend(1 + len(l)); err != nil {
		return nil, err
	}
	list := make(List, len(l))
	for i, e := range l {
		var err error
		if list[i], err = e.eval(r, s); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// tupleExpr is a tuple.
type tupleExpr []expr

func (t tupleExpr) eval(r *run, s *scope) (any, error) {
	v, err := listExpr(t).eval(r, s)
	list, _ := v.(List)
	return Tuple(list), err
}

// variable is a name.
type variable string

func (v variable) eval(r *run, s *scope) (any, error) {
	if value, ok := s.get(string(v)); ok {
		return value, r.spend(1)
	}
	return undefined{name: string(v)}, r.spend(1)
}

// postfix parses a primary expression with its attributes, items and calls.
func (p *parser) postfix() (expr, error) {
	e, err := p.primary()
	for err == nil {
		switch {
		case p.accept("."):
			e, err = p.attribute(e)
		case p.accept("["):
			e, err = p.subscript(e)
		case p.is("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
	}
	return nil, err
}

// filtered parses the filters and tests of an expression.
func (p *parser) filtered(e expr) (expr, error) {
	var err error
	for err == nil {
		switch {
		case p.accept("|"):
			e, err = p.filter(e)
		case p.peek().kind == nameToken && p.accept("is"):
			e, err = p.test(e)
		case p.is("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
	}
	return nil, err
}

func (p *parser) primary() (expr, error) {
	t := p.peek()
	switch t.kind {
	case stringToken:
		var value strings.Builder
		for p.peek().kind == stringToken { // Neighbouring strings are one.
			value.WriteString(p.take().text)
		}
		return literal{value.String()}, nil
	case numberToken:
		return literal{p.take().num}, nil
	case nameToken:
		p.take()
		switch t.text {
		case "true", "True":
			return literal{true}, nil
		case "false", "False":
			return literal{false}, nil
		case "none", "None":
			return literal{nil}, nil
		case "and", "or", "not", "in", "is", "if", "else":
			return nil, p.fail("%q where a value should be", t.text)
		}
		p.mention(t.text)
		return variable(t.text), nil
	case opToken:
		switch {
		case p.accept("("):
			return p.parenthesis()
		case p.accept("["):
			list, err := p.list("]")
			return listExpr(list), err
		case p.accept("{"):
			return p.dict()
		}
	}
	return nil, p.fail("%q where a value should be", p.describe())
}

func (p *parser) parenthesis() (expr, error) {
	if p.accept(")") {
		return tupleExpr(nil), nil
	}
	e, err := p.tuple()
	if err != nil {
		return nil, err
	}
	return e, p.expect(")")
}

// list parses expressions up to a closing token.
func (p *parser) list(end string) ([]expr, error) {
	var list []expr
	for !p.accept(end) {
		if len(list) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.accept(end) {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (p *parser) dict() (expr, error) {
	var keys, values []expr
	for !p.accept("}") {
		if len(keys) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.accept("}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		keys, values = append(keys, k), append(values, v)
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		d := NewDict()
		for i := range keys {
			k, err := keys[i].eval(r, s)
			if err != nil {
				return nil, err
			}
			v, err := values[i].eval(r, s)
			if err != nil {
				return nil, err
			}
			if err := r.spend(1); err != nil {
				return nil, err
			}
			if err := d.put(k, v); err != nil {
				return nil, err
			}
		}
		return d, nil
	}), nil
}

// attributeExpr is object.name; a call of it is a method call.
type attributeExpr struct {
	object expr
	name   string
}

func (a *attributeExpr) eval(r *run, s *scope) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	object, err := a.object.eval(r, s)
	if err != nil {
		return nil, err
	}
	return r.attribute(object, a.name)
}

func (p *parser) attribute(object expr) (expr, error) {
	if t := p.peek(); t.kind == numberToken { // list.0
		p.take()
		return itemOf(object, literal{t.num}), nil
	}
	name, err := p.name()
	return &attributeExpr{object, name}, err
}

func itemOf(object, key expr) expr {
	return exprFunc(func(r *run, s *scope) (any, error) {
		container, err := object.eval(r, s)
		if err != nil {
			return nil, err
		}
		k, err := key.eval(r, s)
		if err != nil {
			return nil, err
		}
		return item(container, k, "item "+itemName(k))
	})
}

// itemName names an item in errors.
func itemName(key any) string {
	switch key.(type) {
	case string, int, bool, float64:
		return repr(key)
	}
	return "of a " + typeName(key)
}

// subscript parses what is in brackets: an item or a slice.
func (p *parser) subscript(object expr) (expr, error) {
	var bounds [3]expr
	n := 0
	for !p.is("]") {
		if p.accept(":") {
			if n++; n == len(bounds) {
				return nil, p.fail("a slice has at most three parts")
			}
			continue
		}
		if bounds[n] != nil {
			return nil, p.fail("%q where ] should be", p.describe())
		}
		var err error
		if bounds[n], err = p.expression(); err != nil {
			return nil, err
		}
	}
	p.take()
	if n == 0 {
		if bounds[0] == nil {
			return nil, p.fail("brackets are empty")
		}
		return itemOf(object, bounds[0]), nil
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		container, err := object.eval(r, s)
		if err != nil {
			return nil, err
		}
		var values [3]any
		for i, b := range bounds {
			if b == nil {
				continue
			}
			if values[i], err = b.eval(r, s); err != nil {
				return nil, err
			}
		}
		size, err := length(container)
		if err == nil {
			err = r.spend(size)
		}
		if err != nil {
			return nil, err
		}
		return slice(container, values[0], values[1], values[2])
	}), nil
}

// arguments are those of a call, a filter or a test.
type arguments struct {
	positional []expr
	named      []namedExpr
	list, dict expr // *list and **dict; nil if there is none.
}

type namedExpr struct {
	name  string
	value expr
}

func (p *parser) arguments() (arguments, error) {
	a := arguments{}
	if err := p.expect("("); err != nil {
		return a, err
	}
	for first := true; !p.accept(")"); first = false {
		if !first {
			if err := p.expect(","); err != nil {
				return a, err
			}
			if p.accept(")") {
				break
			}
		}
		if err := p.argument(&a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// argument parses one argument of any of the four kinds, which come in an order.
func (p *parser) argument(a *arguments) error {
	var err error
	switch {
	case p.is("*") && a.list == nil && a.dict == nil:
		p.take()
		a.list, err = p.expression()
		return err
	case p.is("**") && a.dict == nil:
		p.take()
		a.dict, err = p.expression()
		return err
	case p.peek().kind == nameToken && len(p.tokens) > 1 && p.tokens[1].kind == opToken && p.tokens[1].text == "=" && a.dict == nil:
		name := p.take().text
		p.take()
		e, err := p.expression()
		a.named = append(a.named, namedExpr{name, e})
		return err
	case len(a.named) > 0 || a.list != nil || a.dict != nil:
		return p.fail("%q cannot stand behind the arguments before it", p.describe())
	}
	e, err := p.expression()
	a.positional = append(a.positional, e)
	return err
}

func (a arguments) eval(r *run, s *scope) (args []any, kwargs *Dict, err error) {
	args = make([]any, len(a.positional))
	for i, e := range a.positional {
		if args[i], err = e.eval(r, s); err != nil {
			return nil, nil, err
		}
	}
	if len(a.named) > 0 || a.dict != nil {
		kwargs = NewDict()
	}
	for _, n := range a.named {
		v, err := n.value.eval(r, s)
		if err == nil {
			err = addNamed(kwargs, n.name, v)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if a.list != nil {
		v, err := a.list.eval(r, s)
		if err != nil {
			return nil, nil, err
		}
		more, err := items(v)
		if err == nil {
			err = r.spend(len(more))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("arguments after *: %w", err)
		}
		args = append(args, more...)
	}
	if a.dict != nil {
		v, err := a.dict.eval(r, s)
		if err != nil {
			return nil, nil, err
		}
		d, ok := v.(*Dict)
		if !ok {
			return nil, nil, fmt.Errorf("arguments after ** are a dictionary, not %s", typeName(v))
		}
		if err := r.spend(d.len()); err != nil {
			return nil, nil, err
		}
		for _, k := range d.keys {
			name, ok := k.(string)
			if !ok {
				return nil, nil, fmt.Errorf("names of arguments are strings, not %s", typeName(k))
			}
			value, _ := d.get(k)
			if err := addNamed(kwargs, name, value); err != nil {
				return nil, nil, err
			}
		}
	}
	return args, kwargs, nil
}

func addNamed(kwargs *Dict, name string, v any) error {
	if _, twice := kwargs.get(name); twice {
		return fmt.Errorf("the argument %s is given twice", name)
	}
	kwargs.set(name, v)
	return nil
}

// callExpr is callee(arguments).
type callExpr struct {
	callee expr
	arguments
}

func (p *parser) call(callee expr) (expr, error) {
	a, err := p.arguments()
	return &callExpr{callee, a}, err
}

func (c *callExpr) eval(r *run, s *scope) (any, error) { return c.with(r, s, nil) }

// with calls, with the body of a call statement as a further argument if there is
// one.
func (c *callExpr) with(r *run, s *scope, caller any) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	args, kwargs, err := c.arguments.eval(r, s)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		if kwargs == nil {
			kwargs = NewDict()
		}
		if err := addNamed(kwargs, "caller", caller); err != nil {
			return nil, err
		}
	}
	if method, ok := c.callee.(*attributeExpr); ok {
		object, err := method.object.eval(r, s)
		if err != nil {
			return nil, err
		}
		if result, ok, err := r.method(object, method.name, args, kwargs); ok || err != nil {
			return result, err
		}
		f, err := r.attribute(object, method.name)
		if err != nil {
			return nil, err
		}
		return r.apply(f, args, kwargs)
	}
	f, err := c.callee.eval(r, s)
	if err != nil {
		return nil, err
	}
	return r.apply(f, args, kwargs)
}

// apply calls a function.
func (r *run) apply(f any, args []any, kwargs *Dict) (any, error) {
	switch f := f.(type) {
	case Func:
		return f(args, kwargs)
	case *loop:
		return f.recurse(r, args)
	case undefined:
		return nil, f.err()
	default:
		return nil, fmt.Errorf("%s cannot be called", typeName(f))
	}
}
