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
	printed, err := r.text(v)
	if err != nil {
		return located(o.line, err)
	}
	return r.write(out, printed)
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
