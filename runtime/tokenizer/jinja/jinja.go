// Package jinja renders chat templates: the part of Jinja2 that the templates
// of published models use, with the settings Hugging Face renders them with
// (trim_blocks and lstrip_blocks on, autoescape off, loop controls).
//
// A template is a program that comes with a model, so it is run as one that is
// not trusted: there are no includes, no attributes but those of plain data, no
// way to change what it is given, and a budget bounds its time and memory.
//
// It is not a library because none bounds a template, and a prompt that is
// rendered wrong is answered wrong without a word. Of the first 103 cases of
// testdata/jinja.json, made by Jinja2, gonja v2.9.1 gives another result for 42
// (31 without an error; half of the cases of ../testdata/chat.json fail too), and
// ardanlabs/jinja v1.8.0 for 46 (34 without an error, one a panic).
//
// Of Jinja2's own filters pprint, random, urlize and wordwrap are not there, of its
// statements those that read other templates. What is missing, or belongs to an
// extension, is an error only where rendering reaches it. Text that a filter calls
// safe is remembered as such within an expression, not in variables.
package jinja

import (
	"errors"
	"fmt"
	"maps"
	"strings"
)

// Limits of any template.
const (
	maxSource = 1 << 20
	maxNested = 200 // statements, parentheses and macro calls within each other
)

// Template is a parsed template. It may be rendered concurrently.
type Template struct{ body []statement }

// Parse parses a template. A statement, a filter or a test that it does not know is
// an error, which names it and its line, only when rendering reaches it.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("template has %d bytes, at most %d are allowed", len(source), maxSource)
	}
	chunks, err := scan(source)
	if err != nil {
		return nil, err
	}
	p := &parser{chunks: chunks}
	body, _, err := p.statements(nil)
	if err != nil {
		return nil, err
	}
	return &Template{body: body}, nil
}

// Render runs the template with these variables: strings, booleans, integers,
// floats, nil, List, *Dict and Func. budget bounds the work it may do, counted
// in evaluated nodes and in bytes made.
func (t *Template) Render(variables map[string]any, budget int) (string, error) {
	r := &run{budget: budget}
	top := &scope{vars: map[string]any{}}
	maps.Copy(top.vars, globals())
	maps.Copy(top.vars, variables)
	// Variables of the template are in a scope of their own, above the given.
	var out strings.Builder
	err := r.execute(t.body, &scope{parent: top, vars: map[string]any{}}, &out)
	if errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		err = errors.New("break or continue outside of a loop")
	}
	if err != nil {
		return "", err
	}
	return out.String(), nil
}

// run is one rendering.
type run struct {
	budget int
	depth  int
}

// errBudget ends a template that does too much.
var errBudget = errors.New("the template does more than it should: its budget of work is used up")

// spend takes n from the budget.
func (r *run) spend(n int) error {
	if n > r.budget {
		r.budget = 0
		return errBudget
	}
	r.budget -= n
	return nil
}

// enter bounds recursion; leave must be called after it.
func (r *run) enter() error {
	if r.depth++; r.depth > maxNested {
		return fmt.Errorf("macros call each other more than %d deep", maxNested)
	}
	return nil
}

func (r *run) leave() { r.depth-- }

// scope holds variables; what it has not is looked for in its parent.
type scope struct {
	parent *scope
	vars   map[string]any
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// inner returns a scope within s.
func (s *scope) inner() *scope { return &scope{parent: s, vars: map[string]any{}} }
