package jinja

import (
	"errors"
	"fmt"
	"math"
	"slices"
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
func (p *parser) tuple() (expr, error) { return p.tupleOf(p.expression) }

// tupleOf is tuple for elements of some kind: what a loop runs over and what an if
// asks cannot be a conditional expression, whose "if" would be taken for a filter.
func (p *parser) tupleOf(element func() (expr, error)) (expr, error) {
	first, err := element()
	if err != nil || !p.is(",") {
		return first, err
	}
	list := []expr{first}
	for p.accept(",") {
		if p.peek().kind == endToken || p.is(")") || p.is("=") {
			break
		}
		e, err := element()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return tupleExpr(list), nil
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
			if ok, err := r.holds(op, left, right); err != nil || !ok {
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
		var right expr
		right, err = operand()
		left = newBinary(op, left, right)
	}
	return nil, err
}

// binaryExpr is left op right.
type binaryExpr struct {
	op          string
	left, right expr
	// html says that one side is HTML, which makes the sum so; see filterExpr.
	html bool
}

func newBinary(op string, left, right expr) *binaryExpr {
	return &binaryExpr{op, left, right, op == "+" && (isSafe(left) || isSafe(right))}
}

func (b *binaryExpr) eval(r *run, s *scope) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	x, err := b.left.eval(r, s)
	if err != nil {
		return nil, err
	}
	y, err := b.right.eval(r, s)
	if err != nil {
		return nil, err
	}
	if b.html {
		x, y = escapeUnless(isSafe(b.left), x), escapeUnless(isSafe(b.right), y)
	}
	return r.operate(b.op, x, y)
}

func (b *binaryExpr) safe() bool { return b.html }

func isSafe(e expr) bool {
	marked, ok := e.(interface{ safe() bool })
	return ok && marked.safe()
}

func escapeUnless(safe bool, v any) any {
	if text, ok := v.(string); ok && !safe {
		return escapeHTML(text)
	}
	return v
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
	if op == "~" {
		x, err := r.text(a)
		if err != nil {
			return nil, err
		}
		y, err := r.text(b)
		if err != nil {
			return nil, err
		}
		return r.join(x, y)
	}
	if x, ok := a.(string); ok {
		switch y, isText := b.(string); {
		case op == "+" && isText:
			return r.join(x, y)
		case op == "+":
			return nil, fmt.Errorf("a string and %s cannot be added (use ~)", typeName(b))
		case op == "%":
			return r.percent(x, b)
		}
	}
	if x, ok := sequence(a); ok && op == "+" && typeName(a) == typeName(b) {
		y, _ := sequence(b)
		if err := r.spend(len(x) + len(y)); err != nil {
			return nil, err
		}
		return like(a, append(append(List{}, x...), y...)), nil
	}
	if op == "*" {
		if n, ok := integer(a); ok {
			if result, ok, err := r.repeat(b, n); ok {
				return result, err
			}
		}
		if n, ok := integer(b); ok {
			if result, ok, err := r.repeat(a, n); ok {
				return result, err
			}
		}
	}
	return arithmetic(op, a, b)
}

// repeat is a string, list or tuple n times; ok is false if v is none.
func (r *run) repeat(v any, n int) (result any, ok bool, err error) {
	s, isText := v.(string)
	list, isList := sequence(v)
	if !isText && !isList {
		return nil, false, nil
	}
	n = max(n, 0)
	size := len(s) + len(list)
	if n > 0 && size > r.budget/n {
		return nil, true, r.spend(r.budget + 1)
	}
	if err := r.spend(size * n); err != nil {
		return nil, true, err
	}
	if isText {
		return strings.Repeat(s, n), true, nil
	}
	return like(v, slices.Repeat(list, n)), true, nil
}

// like returns a list as what v is.
func like(v any, list List) any {
	if _, ok := v.(List); ok {
		return list
	}
	return Tuple(list)
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
	if intX && intY && (op != "**" || j >= 0) && op != "/" {
		return integerArithmetic(op, i, j)
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

var errTooLarge = errors.New("the number is too large")

// integerArithmetic applies an operator whose result is an integer too.
func integerArithmetic(op string, i, j int) (any, error) {
	switch op {
	case "+":
		sum := i + j
		if (sum > i) != (j > 0) && j != 0 {
			return nil, errTooLarge
		}
		return sum, nil
	case "-":
		difference := i - j
		if (difference < i) != (j > 0) && j != 0 {
			return nil, errTooLarge
		}
		return difference, nil
	case "*":
		return product(i, j)
	case "//":
		if i == math.MinInt && j == -1 {
			return nil, errTooLarge
		}
		q := i / j
		if i%j != 0 && (i < 0) != (j < 0) {
			q--
		}
		return q, nil
	case "%":
		return ((i % j) + j) % j, nil
	}
	power := 1
	if i == 0 || i == 1 || i == -1 { // These never become large.
		j = min(j, 2+j%2)
	}
	for range j {
		var err error
		if power, err = product(power, i); err != nil {
			return nil, err
		}
	}
	return power, nil
}

func product(i, j int) (int, error) {
	if i == 0 || j == 0 {
		return 0, nil
	}
	p := i * j
	if p/j != i || i == -1 && j == math.MinInt || j == -1 && i == math.MinInt {
		return 0, errTooLarge
	}
	return p, nil
}
