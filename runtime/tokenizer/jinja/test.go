package jinja

import (
	"errors"
	"fmt"
)

// testFunc is what comes after "is".
type testFunc func(v any, p parameters) (bool, error)

func kindTest(is func(v any) bool) testFunc {
	return func(v any, _ parameters) (bool, error) { return is(v), nil }
}

// comparisonTest compares with an argument.
func comparisonTest(op string) testFunc {
	return func(v any, p parameters) (bool, error) {
		if len(p.args) != 1 {
			return false, errors.New("the test takes one argument")
		}
		return p.r.holds(op, v, p.args[0])
	}
}

func textTest(is func(string) bool) testFunc {
	return func(v any, p parameters) (bool, error) {
		s, err := p.r.text(v)
		return is(s), err
	}
}

func divisible(v any, by int) (bool, error) {
	i, ok := integer(v)
	if !ok || by == 0 {
		return false, errors.New("only integers divide")
	}
	return i%by == 0, nil
}

func nameTest(known func(string) bool) testFunc {
	return func(v any, _ parameters) (bool, error) {
		name, ok := v.(string)
		return ok && known(name), nil
	}
}

// testNamed returns Jinja2's own test of a name; it is a function, because two tests
// ask for others.
func testNamed(name string) (testFunc, bool) {
	switch name {
	case "test":
		return nameTest(func(s string) bool { _, ok := testNamed(s); return ok }), true
	case "filter":
		return nameTest(func(s string) bool { _, ok := filters(s); return ok }), true
	}
	f, ok := tests[name]
	return f, ok
}

var tests = map[string]testFunc{
	"defined":   kindTest(func(v any) bool { _, missing := v.(undefined); return !missing }),
	"undefined": kindTest(func(v any) bool { _, missing := v.(undefined); return missing }),
	"none":      kindTest(func(v any) bool { return v == nil }),
	"boolean":   kindTest(func(v any) bool { _, ok := v.(bool); return ok }),
	"true":      kindTest(func(v any) bool { b, ok := v.(bool); return ok && b }),
	"false":     kindTest(func(v any) bool { b, ok := v.(bool); return ok && !b }),
	"integer":   kindTest(func(v any) bool { _, ok := v.(int); return ok }),
	"float":     kindTest(func(v any) bool { _, ok := v.(float64); return ok }),
	"number":    kindTest(func(v any) bool { _, ok := number(v); return ok }),
	"string":    kindTest(func(v any) bool { _, ok := v.(string); return ok }),
	"mapping":   kindTest(func(v any) bool { _, ok := v.(*Dict); return ok }),
	"callable":  kindTest(isCallable),
	"iterable":  kindTest(isIterable),
	"sequence":  kindTest(func(v any) bool { _, err := length(v); return err == nil }),
	"escaped":   kindTest(func(any) bool { return false }),
	"lower":     textTest(isLower),
	"upper":     textTest(isUpper),
	"odd":       func(v any, _ parameters) (bool, error) { even, err := divisible(v, 2); return !even, err },
	"even":      func(v any, _ parameters) (bool, error) { return divisible(v, 2) },
	"divisibleby": func(v any, p parameters) (bool, error) {
		return divisible(v, p.integer(0, "num", 0))
	},
	"sameas": func(v any, p parameters) (bool, error) { return same(v, p.get(0, "other")), nil },
	"in":     comparisonTest("in"),
	"eq":     comparisonTest("=="), "equalto": comparisonTest("=="), "==": comparisonTest("=="),
	"ne": comparisonTest("!="), "!=": comparisonTest("!="),
	"lt": comparisonTest("<"), "lessthan": comparisonTest("<"), "<": comparisonTest("<"),
	"le": comparisonTest("<="), "<=": comparisonTest("<="),
	"gt": comparisonTest(">"), "greaterthan": comparisonTest(">"), ">": comparisonTest(">"),
	"ge": comparisonTest(">="), ">=": comparisonTest(">="),
}

func isCallable(v any) bool {
	switch v.(type) {
	case Func, *loop:
		return true
	}
	return false
}

func isIterable(v any) bool {
	switch v.(type) {
	case undefined, string, *Dict, *generator:
		return true
	}
	_, ok := sequence(v)
	return ok
}

// test parses what follows "is": a name, possibly negated, and an argument. A test
// that is not known fails when it is reached.
func (p *parser) test(value expr) (expr, error) {
	negated := p.accept("not")
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	line := p.line()
	f, known := testNamed(name)
	a := arguments{}
	switch t := p.peek(); {
	case p.is("("):
		if a, err = p.arguments(); err != nil {
			return nil, err
		}
	case t.kind == stringToken, t.kind == numberToken, p.is("["), p.is("{"), t.kind == nameToken && !keyword(t.text):
		argument, err := p.postfix()
		if err != nil {
			return nil, err
		}
		a.positional = []expr{argument}
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		if !known {
			return nil, located(line, fmt.Errorf("test %q is not supported", name))
		}
		v, err := value.eval(r, s)
		if err != nil {
			return nil, err
		}
		args, kwargs, err := a.eval(r, s)
		if err != nil {
			return nil, err
		}
		passed, err := f(v, parameters{r, args, kwargs})
		return passed != negated, err
	}), nil
}

// keyword reports whether a name ends the expression of a test.
func keyword(name string) bool {
	switch name {
	case "and", "or", "not", "in", "is", "if", "else", "recursive":
		return true
	}
	return false
}
