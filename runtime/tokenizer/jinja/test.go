package jinja

import (
	"errors"
	"strings"
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
		return holds(op, v, p.args[0])
	}
}

func divisible(v any, by int) (bool, error) {
	i, ok := integer(v)
	if !ok || by == 0 {
		return false, errors.New("only integers divide")
	}
	return i%by == 0, nil
}

var tests = map[string]testFunc{
	"defined":   kindTest(func(v any) bool { _, missing := v.(undefined); return !missing }),
	"undefined": kindTest(func(v any) bool { _, missing := v.(undefined); return missing }),
	"none":      kindTest(func(v any) bool { return v == nil }),
	"boolean":   kindTest(func(v any) bool { _, ok := v.(bool); return ok }),
	"true":      kindTest(func(v any) bool { return v == true }),
	"false":     kindTest(func(v any) bool { return v == false }),
	"integer":   kindTest(func(v any) bool { _, ok := v.(int); return ok }),
	"float":     kindTest(func(v any) bool { _, ok := v.(float64); return ok }),
	"number":    kindTest(func(v any) bool { _, ok := number(v); return ok }),
	"string":    kindTest(func(v any) bool { _, ok := v.(string); return ok }),
	"mapping":   kindTest(func(v any) bool { _, ok := v.(*Dict); return ok }),
	"callable":  kindTest(func(v any) bool { _, ok := v.(Func); return ok }),
	"iterable":  kindTest(func(v any) bool { _, err := items(v); return err == nil }),
	"sequence":  kindTest(func(v any) bool { _, err := length(v); return err == nil }),
	"lower":     kindTest(func(v any) bool { return text(v) == strings.ToLower(text(v)) }),
	"upper":     kindTest(func(v any) bool { return text(v) == strings.ToUpper(text(v)) }),
	"odd":       func(v any, _ parameters) (bool, error) { even, err := divisible(v, 2); return !even, err },
	"even":      func(v any, _ parameters) (bool, error) { return divisible(v, 2) },
	"divisibleby": func(v any, p parameters) (bool, error) {
		return divisible(v, p.integer(0, "num", 0))
	},
	"in":      comparisonTest("in"),
	"eq":      comparisonTest("=="),
	"equalto": comparisonTest("=="),
	"==":      comparisonTest("=="),
	"ne":      comparisonTest("!="),
	"!=":      comparisonTest("!="),
	"lt":      comparisonTest("<"),
	"le":      comparisonTest("<="),
	"gt":      comparisonTest(">"),
	"ge":      comparisonTest(">="),
	"sameas":  comparisonTest("=="),
}

// test parses what follows "is": a name, possibly negated, and an argument.
func (p *parser) test(value expr) (expr, error) {
	negated := p.accept("not")
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	f, ok := tests[name]
	if !ok {
		return nil, p.fail("test %q is not supported", name)
	}
	a := arguments{}
	switch t := p.peek(); {
	case p.is("("):
		if a, err = p.arguments(); err != nil {
			return nil, err
		}
	case t.kind == stringToken, t.kind == numberToken, p.is("["), p.is("{"), t.kind == nameToken && !keyword(t.text):
		argument, err := p.primary()
		if err != nil {
			return nil, err
		}
		a.positional = []expr{argument}
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		v, err := value.eval(r, s)
		if err != nil {
			return nil, err
		}
		args, kwargs, err := a.eval(r, s)
		if err != nil {
			return nil, err
		}
		passed, err := f(v, parameters{args, kwargs})
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
