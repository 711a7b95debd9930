package reward

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"strings"

	starlarkmath "go.starlark.net/lib/math"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// dialect is Starlark as near to Python as it goes.
var dialect = &syntax.FileOptions{
	Set: true, While: true, TopLevelControl: true, GlobalReassign: true, Recursion: true,
}

// fence matches a Markdown code block, closed or cut off.
var fence = regexp.MustCompile("(?s)```[a-zA-Z0-9_+-]*[ \t]*\r?\n(.*?)(?:```|$)")

// importMath matches the one import that has a meaning here.
var importMath = regexp.MustCompile(`(?m)^import math[ \t\r]*$`)

// Code returns the program in an answer: its first Markdown code block, or all
// of it where there is none.
func Code(answer string) string {
	if m := fence.FindStringSubmatch(answer); m != nil {
		return m[1]
	}
	return answer
}

// ErrOutsideLanguage marks a test that is written in a part of Python which the
// language of UnitTests lacks (a set display, a complex number): the data set is
// not wrong, this record cannot be used.
var ErrOutsideLanguage = errors.New("this part of Python is not supported")

// parseTest returns the condition of "assert CONDITION" or "assert CONDITION,
// MESSAGE", which is all that a test may be: Starlark has no assert statement,
// but Python's conditions are Starlark expressions.
func parseTest(test string) (syntax.Expr, error) {
	condition, ok := strings.CutPrefix(strings.TrimSpace(test), "assert")
	if !ok || condition == strings.TrimLeft(condition, " \t(") {
		return nil, fmt.Errorf("test %q is no assertion of the form: assert f(2) == 4", clip(test))
	}
	expr, err := dialect.ParseExpr("test", strings.TrimSpace(condition), 0)
	if err != nil {
		return nil, fmt.Errorf("test %q: %w: %w", clip(test), ErrOutsideLanguage, err)
	}
	if t, ok := expr.(*syntax.TupleExpr); ok && !t.Lparen.IsValid() && len(t.List) == 2 {
		expr = t.List[0]
	}
	return expr, nil
}

// passes runs a program and its tests in this process, within steps of the
// interpreter. Only the child process calls it: memory and time are limited
// there, and by the operating system.
func passes(job testJob, steps uint64) bool {
	thread := &starlark.Thread{
		Name:  "answer",
		Print: func(*starlark.Thread, string) {},
		// Load stays nil: a program can load nothing.
	}
	thread.SetMaxExecutionSteps(steps)
	globals := starlark.StringDict{}
	for _, source := range []string{job.Setup, job.Program} {
		source = importMath.ReplaceAllString(source, "pass")
		_, program, err := starlark.SourceProgramOptions(dialect, "answer", source, func(name string) bool {
			return predeclared.Has(name) || globals.Has(name)
		})
		if err != nil {
			return false
		}
		env := starlark.StringDict{}
		maps.Copy(env, predeclared)
		maps.Copy(env, globals)
		// Init, unlike ExecFile, leaves globals mutable, as Python does.
		defined, err := program.Init(thread, env)
		if err != nil {
			return false
		}
		maps.Copy(globals, defined)
	}
	for name, v := range predeclared {
		if !globals.Has(name) {
			globals[name] = v
		}
	}
	for _, test := range job.Tests {
		expr, err := parseTest(test)
		if err != nil {
			return false
		}
		v, err := starlark.EvalExprOptions(dialect, thread, expr, globals)
		if err != nil || !bool(v.Truth()) {
			return false
		}
	}
	return len(job.Tests) > 0
}

// predeclared are Python's builtins that Starlark lacks and short programs use.
var predeclared = starlark.StringDict{
	"math": starlarkmath.Module,
	"sum":  starlark.NewBuiltin("sum", builtinSum),
	"pow":  starlark.NewBuiltin("pow", builtinPow),
}

func builtinSum(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var items starlark.Iterable
	var total starlark.Value = starlark.MakeInt(0)
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "iterable", &items, "start?", &total); err != nil {
		return nil, err
	}
	it := items.Iterate()
	defer it.Done()
	for v := starlark.Value(nil); it.Next(&v); {
		sum, err := starlark.Binary(syntax.PLUS, total, v)
		if err != nil {
			return nil, err
		}
		total = sum
	}
	return total, nil
}

// maxPowBits bounds the result of pow.
const maxPowBits = 1 << 16

func builtinPow(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var base, exponent starlark.Int
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "base", &base, "exp", &exponent); err != nil {
		return nil, err
	}
	e, ok := exponent.Int64()
	if !ok || e < 0 || e > maxPowBits || int64(base.BigInt().BitLen())*e > maxPowBits {
		return nil, errors.New("pow: exponent out of range")
	}
	return starlark.MakeBigInt(new(big.Int).Exp(base.BigInt(), big.NewInt(e), nil)), nil
}
