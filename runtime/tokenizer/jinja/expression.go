package jinja

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// expr is an expression.
type expr interface {
	eval(r *run, s *scope) (any, error)
}

// exprFunc makes an expression of a function.
type exprFunc func(r *run, s *scope) (any, error)

func (f exprFunc) eval(r *run, s *scope) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	return f(r, s)
}

// tuple parses "a" or "a, b, …".
func (p *parser) tuple() (expr, error) {
	first, err := p.expression()
	if err != nil || !p.is(",") {
		return first, err
	}
	list := []expr{first}
	for p.accept(",") {
		if p.peek().kind == endToken || p.is(")") {
			break
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return listExpr(list), nil
}

// expression parses a conditional expression: a if b else c.
func (p *parser) expression() (expr, error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer p.shallower()
	value, err := p.or()
	if err != nil {
		return nil, err
	}
	for p.accept("if") {
		condition, err := p.or()
		if err != nil {
			return nil, err
		}
		var otherwise expr = literal{undefined{name: "the missing else of a conditional expression"}}
		if p.accept("else") {
			if otherwise, err = p.expression(); err != nil {
				return nil, err
			}
		}
		then := value
		value = exprFunc(func(r *run, s *scope) (any, error) {
			c, err := condition.eval(r, s)
			if err != nil {
				return nil, err
			}
			if truth(c) {
				return then.eval(r, s)
			}
			return otherwise.eval(r, s)
		})
	}
	return value, nil
}

func (p *parser) or() (expr, error) {
	return p.logic("or", p.and, func(v any) bool { return truth(v) })
}

func (p *parser) and() (expr, error) {
	return p.logic("and", p.not, func(v any) bool { return !truth(v) })
}

// logic parses a chain of "and" or "or"; done says that a value decides it.
func (p *parser) logic(op string, operand func() (expr, error), done func(any) bool) (expr, error) {
	left, err := operand()
	for err == nil && p.accept(op) {
		a := left
		var b expr
		b, err = operand()
		left = exprFunc(func(r *run, s *scope) (any, error) {
			v, err := a.eval(r, s)
			if err != nil || done(v) {
				return v, err
			}
			return b.eval(r, s)
		})
	}
	return left, err
}

func (p *parser) not() (expr, error) {
	if !p.accept("not") {
		return p.comparison()
	}
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer p.shallower()
	e, err := p.not()
	return exprFunc(func(r *run, s *scope) (any, error) {
		v, err := e.eval(r, s)
		return !truth(v), err
	}), err
}

// comparison parses a chain such as a < b <= c.
func (p *parser) comparison() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	var ops []string
	var operands []expr
	for {
		op := p.comparisonOp()
		if op == "" {
			break
		}
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		ops, operands = append(ops, op), append(operands, e)
	}
	if len(ops) == 0 {
		return first, nil
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		left, err := first.eval(r, s)
		if err != nil {
			return nil, err
		}
		for i, op := range ops {
			right, err := operands[i].eval(r, s)
			if err != nil {
				return nil, err
			}
			if ok, err := holds(op, left, right); err != nil || !ok {
				return false, err
			}
			left = right
		}
		return true, nil
	}), nil
}

func (p *parser) comparisonOp() string {
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">", "in"} {
		if p.accept(op) {
			return op
		}
	}
	if p.is("not") && len(p.tokens) > 1 && p.tokens[1].kind == nameToken && p.tokens[1].text == "in" {
		p.take()
		p.take()
		return "not in"
	}
	return ""
}

func holds(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(b, a)
	case "not in":
		in, err := contains(b, a)
		return !in, err
	}
	c, err := compare(a, b)
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

func (p *parser) sum() (expr, error) { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() (expr, error) { return p.binary(p.product, "~") }

func (p *parser) product() (expr, error) { return p.binary(p.power, "*", "//", "/", "%") }

func (p *parser) power() (expr, error) {
	return p.binary(func() (expr, error) { return p.unary(true) }, "**")
}

// binary parses a chain of operators that associate to the left.
func (p *parser) binary(operand func() (expr, error), ops ...string) (expr, error) {
	left, err := operand()
	for err == nil {
		op := ""
		for _, o := range ops {
			if p.peek().kind == opToken && p.accept(o) {
				op = o
				break
			}
		}
		if op == "" {
			return left, nil
		}
		a := left
		var b expr
		b, err = operand()
		left = exprFunc(func(r *run, s *scope) (any, error) {
			x, err := a.eval(r, s)
			if err != nil {
				return nil, err
			}
			y, err := b.eval(r, s)
			if err != nil {
				return nil, err
			}
			return r.operate(op, x, y)
		})
	}
	return nil, err
}

// unary parses a primary expression that may have signs; its filters and tests
// apply to the signed value.
func (p *parser) unary(filtered bool) (expr, error) {
	var e expr
	var err error
	if negative := p.is("-"); negative || p.is("+") {
		p.take()
		e, err = p.signed(negative)
	} else {
		e, err = p.postfix()
	}
	if err != nil || !filtered {
		return e, err
	}
	return p.filtered(e)
}

func (p *parser) signed(negative bool) (expr, error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer p.shallower()
	e, err := p.unary(false)
	return exprFunc(func(r *run, s *scope) (any, error) {
		v, err := e.eval(r, s)
		if err != nil || !negative {
			return v, err
		}
		return r.operate("-", 0, v)
	}), err
}

// operate applies an arithmetic operator.
func (r *run) operate(op string, a, b any) (any, error) {
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok && op != "~" {
			return nil, u.err()
		}
	}
	switch op {
	case "~":
		return r.join(text(a), text(b))
	case "+":
		if x, ok := a.(string); ok {
			y, ok := b.(string)
			if !ok {
				return nil, fmt.Errorf("a string and %s cannot be added (use ~)", typeName(b))
			}
			return r.join(x, y)
		}
		if x, ok := a.(List); ok {
			if y, ok := b.(List); ok {
				err := r.spend(len(x) + len(y))
				return append(append(List{}, x...), y...), err
			}
		}
	case "*":
		if x, ok := a.(string); ok {
			n, ok := integer(b)
			if !ok {
				return nil, fmt.Errorf("a string and %s cannot be multiplied", typeName(b))
			}
			if n = max(n, 0); n > 0 && len(x) > r.budget/n {
				return nil, errBudget
			}
			return strings.Repeat(x, n), r.spend(len(x) * n)
		}
	}
	return arithmetic(op, a, b)
}

// join concatenates within the budget.
func (r *run) join(a, b string) (any, error) {
	if err := r.spend(len(a) + len(b)); err != nil {
		return nil, err
	}
	return a + b, nil
}

func arithmetic(op string, a, b any) (any, error) {
	x, okX := number(a)
	y, okY := number(b)
	if !okX || !okY {
		return nil, fmt.Errorf("%s and %s cannot be combined by %s", typeName(a), typeName(b), op)
	}
	if y == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, errors.New("division by zero")
	}
	i, intX := integer(a)
	j, intY := integer(b)
	if intX && intY {
		if result, ok := integerArithmetic(op, i, j); ok {
			return result, nil
		}
	}
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	case "//":
		return math.Floor(x / y), nil
	case "%":
		return x - y*math.Floor(x/y), nil
	default:
		return math.Pow(x, y), nil
	}
}

// integerArithmetic applies an operator whose result is an integer too; ok is
// false for one that is not.
func integerArithmetic(op string, i, j int) (result int, ok bool) {
	switch op {
	case "+":
		return i + j, true
	case "-":
		return i - j, true
	case "*":
		return i * j, true
	case "//":
		return int(math.Floor(float64(i) / float64(j))), true
	case "%":
		return ((i % j) + j) % j, true
	case "**":
		f := math.Pow(float64(i), float64(j))
		return int(f), j >= 0 && math.Abs(f) < 1<<53
	}
	return 0, false
}
