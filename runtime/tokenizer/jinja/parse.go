package jinja

import (
	"fmt"
	"slices"
)

// parser turns chunks into statements.
type parser struct {
	chunks []chunk
	at     int
	depth  int
	tokens []token // of the tag that is parsed
	// macros are the macros around, each with those of its special names that its
	// body mentions.
	macros []map[string]bool
}

// mention notes that a name is used.
func (p *parser) mention(name string) {
	switch name {
	case "caller", "varargs", "kwargs":
		for _, m := range p.macros {
			m[name] = true
		}
	}
}

// line is the one that is parsed.
func (p *parser) line() int { return p.tokens[0].line }

func (p *parser) fail(format string, args ...any) error {
	line := 0
	if len(p.tokens) > 0 {
		line = p.tokens[0].line
	}
	return fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...))
}

// deeper bounds nesting; shallower must be called after it.
func (p *parser) deeper() error {
	if p.depth++; p.depth > maxNested {
		return p.fail("template is nested deeper than %d", maxNested)
	}
	return nil
}

func (p *parser) shallower() { p.depth-- }

func (p *parser) peek() token { return p.tokens[0] }

func (p *parser) take() token {
	t := p.tokens[0]
	if t.kind != endToken {
		p.tokens = p.tokens[1:]
	}
	return t
}

// is reports whether the next token is this operator or name.
func (p *parser) is(text string) bool {
	t := p.peek()
	return (t.kind == opToken || t.kind == nameToken) && t.text == text
}

// accept takes the next token if it is this operator or name.
func (p *parser) accept(text string) bool {
	if p.is(text) {
		p.take()
		return true
	}
	return false
}

func (p *parser) expect(text string) error {
	if !p.accept(text) {
		return p.fail("%q where %q should be", p.describe(), text)
	}
	return nil
}

// describe names the next token in errors.
func (p *parser) describe() string {
	switch t := p.peek(); t.kind {
	case endToken:
		return "end of tag"
	case numberToken:
		return fmt.Sprint(t.num)
	default:
		return t.text
	}
}

func (p *parser) name() (string, error) {
	if p.peek().kind != nameToken {
		return "", p.fail("%q where a name should be", p.describe())
	}
	return p.take().text, nil
}

// end checks that a tag has nothing more.
func (p *parser) end() error {
	if p.peek().kind != endToken {
		return p.fail("%q after the end of the statement", p.describe())
	}
	return nil
}

// statements parses up to a tag whose name is among ends, which is returned with
// its name taken; no ends mean up to the end of the template.
func (p *parser) statements(ends []string) (body []statement, end string, err error) {
	if err := p.deeper(); err != nil {
		return nil, "", err
	}
	defer p.shallower()
	for p.at < len(p.chunks) {
		c := p.chunks[p.at]
		p.at++
		if c.kind == textChunk {
			body = append(body, textStatement(c.text))
			continue
		}
		p.tokens = c.tokens
		if c.kind == exprChunk {
			e, err := p.tuple()
			if err == nil {
				err = p.end()
			}
			if err != nil {
				return nil, "", err
			}
			body = append(body, &outputStatement{expr: e, line: c.line})
			continue
		}
		name, err := p.name()
		if err != nil {
			return nil, "", err
		}
		if slices.Contains(ends, name) {
			return body, name, nil
		}
		s, err := p.statement(name, c.line)
		if err != nil {
			return nil, "", err
		}
		body = append(body, s)
	}
	if len(ends) > 0 {
		return nil, "", fmt.Errorf("end of the template where %v should be", ends)
	}
	return body, "", nil
}

func (p *parser) statement(name string, line int) (statement, error) {
	switch name {
	case "if":
		return p.ifStatement()
	case "for":
		return p.forStatement(line)
	case "set":
		return p.setStatement(line)
	case "macro":
		return p.macroStatement()
	case "call":
		return p.callStatement(line)
	case "filter":
		return p.filterStatement(line)
	case "with":
		return p.withStatement(line)
	case "block":
		return p.blockStatement()
	case "print":
		return p.printStatement(line)
	case "autoescape":
		return p.autoescapeStatement(line)
	case "break":
		return flowStatement{errBreak}, p.end()
	case "continue":
		return flowStatement{errContinue}, p.end()
	case "generation": // Marks what is trained on; renders as if it were not there.
		body, err := p.block("endgeneration")
		return groupStatement(body), err
	case "elif", "else", "endif", "endfor", "endset", "endmacro", "endcall", "endfilter", "endwith", "endblock", "endgeneration", "endautoescape":
		return nil, p.fail("statement %q has no beginning", name)
	default: // Fails when it is reached, as a filter does that is not there.
		return &unknownStatement{name, line}, nil
	}
}

// block parses the rest of an opening tag, statements, and a closing tag.
func (p *parser) block(end string) ([]statement, error) {
	if err := p.end(); err != nil {
		return nil, err
	}
	body, _, err := p.statements([]string{end})
	if err != nil {
		return nil, err
	}
	return body, p.end()
}

func (p *parser) ifStatement() (statement, error) {
	s := &ifStatement{}
	for {
		condition, err := p.tuple()
		if err == nil {
			err = p.end()
		}
		if err != nil {
			return nil, err
		}
		body, end, err := p.statements([]string{"elif", "else", "endif"})
		if err != nil {
			return nil, err
		}
		s.branches = append(s.branches, branch{condition, body})
		switch end {
		case "elif":
			continue
		case "else":
			s.otherwise, err = p.block("endif")
			return s, err
		default:
			return s, p.end()
		}
	}
}

func (p *parser) forStatement(line int) (statement, error) {
	s := &forStatement{line: line}
	var err error
	if s.target, err = p.target(); err != nil {
		return nil, err
	}
	if err := p.expect("in"); err != nil {
		return nil, err
	}
	if s.over, err = p.tupleOf(p.or); err != nil {
		return nil, err
	}
	if p.accept("if") {
		if s.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	s.recursive = p.accept("recursive")
	if err := p.end(); err != nil {
		return nil, err
	}
	body, end, err := p.statements([]string{"else", "endfor"})
	if err != nil {
		return nil, err
	}
	s.body = body
	if end == "else" {
		s.otherwise, err = p.block("endfor")
		return s, err
	}
	return s, p.end()
}

// target is what a value is assigned to: a name, an attribute of a namespace, or
// several of them.
type target struct {
	name, attribute string
	parts           []target
}

// target parses "a", "a, b" or "a, (b, c)".
func (p *parser) target() (target, error) {
	if err := p.deeper(); err != nil {
		return target{}, err
	}
	defer p.shallower()
	first, err := p.oneTarget()
	if err != nil || !p.is(",") {
		return first, err
	}
	all := target{parts: []target{first}}
	for p.accept(",") {
		if p.is("in") || p.is("=") || p.is(")") || p.peek().kind == endToken {
			break
		}
		next, err := p.oneTarget()
		if err != nil {
			return all, err
		}
		all.parts = append(all.parts, next)
	}
	return all, nil
}

func (p *parser) oneTarget() (target, error) {
	if p.accept("(") {
		t, err := p.target()
		if err != nil {
			return t, err
		}
		return t, p.expect(")")
	}
	name, err := p.name()
	if err != nil {
		return target{}, err
	}
	t := target{name: name}
	if p.accept(".") {
		t.attribute, err = p.name()
	}
	return t, err
}

func (p *parser) setStatement(line int) (statement, error) {
	s := &setStatement{line: line}
	var err error
	if s.target, err = p.target(); err != nil {
		return nil, err
	}
	if p.accept("=") {
		if s.value, err = p.tuple(); err != nil {
			return nil, err
		}
		return s, p.end()
	}
	captured := &captureExpr{}
	s.value = captured
	if s.value, err = p.filters(captured); err != nil {
		return nil, err
	}
	captured.body, err = p.block("endset")
	return s, err
}

// filters parses filters, each behind a "|".
func (p *parser) filters(e expr) (expr, error) {
	var err error
	for err == nil && p.accept("|") {
		e, err = p.filter(e)
	}
	return e, err
}

func (p *parser) filterStatement(line int) (statement, error) {
	captured := &captureExpr{}
	e, err := p.filter(captured)
	if err == nil {
		e, err = p.filters(e)
	}
	if err != nil {
		return nil, err
	}
	captured.body, err = p.block("endfilter")
	return &outputStatement{expr: e, line: line}, err
}

func (p *parser) withStatement(line int) (statement, error) {
	w := &withStatement{line: line}
	for p.peek().kind != endToken {
		if len(w.targets) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
		}
		t, err := p.oneTarget()
		if err != nil {
			return nil, err
		}
		if err := p.expect("="); err != nil {
			return nil, err
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		w.targets, w.values = append(w.targets, t), append(w.values, e)
	}
	var err error
	w.body, err = p.block("endwith")
	return w, err
}

// blockStatement parses a block, which without inheritance renders where it is, but
// sees the variables of the template only, unless it is scoped.
func (p *parser) blockStatement() (statement, error) {
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	b := &blockStatement{scoped: p.accept("scoped")}
	p.accept("required")
	if err := p.end(); err != nil {
		return nil, err
	}
	if b.body, _, err = p.statements([]string{"endblock"}); err != nil {
		return nil, err
	}
	p.accept(name)
	return b, p.end()
}

func (p *parser) printStatement(line int) (statement, error) {
	var all groupStatement
	for p.peek().kind != endToken {
		if len(all) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		all = append(all, &outputStatement{expr: e, line: line})
	}
	return all, nil
}

func (p *parser) autoescapeStatement(line int) (statement, error) {
	on, err := p.expression()
	if err != nil {
		return nil, err
	}
	body, err := p.block("endautoescape")
	return &autoescapeStatement{on, body, line}, err
}

func (p *parser) macroStatement() (statement, error) {
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	m := &macroStatement{macro{name: name}}
	if m.params, err = p.signature(); err != nil {
		return nil, err
	}
	return m, p.macroBody(&m.macro, "endmacro")
}

// macroBody parses the body of a macro or of a call.
func (p *parser) macroBody(m *macro, end string) error {
	m.mentions = map[string]bool{}
	p.macros = append(p.macros, m.mentions)
	var err error
	m.body, err = p.block(end)
	p.macros = p.macros[:len(p.macros)-1]
	return err
}

// callStatement parses {% call(params) macro(arguments) %}.
func (p *parser) callStatement(line int) (statement, error) {
	c := &callStatement{caller: macro{name: "caller"}, line: line}
	var err error
	if p.is("(") {
		if c.caller.params, err = p.signature(); err != nil {
			return nil, err
		}
	}
	e, err := p.unary(false)
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.call, ok = e.(*callExpr); !ok {
		return nil, p.fail("a call statement must call something")
	}
	return c, p.macroBody(&c.caller, "endcall")
}

// signature parses the parameters of a macro.
func (p *parser) signature() ([]param, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var params []param
	for !p.accept(")") {
		if len(params) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.accept(")") {
				break
			}
		}
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		var fallback expr
		switch {
		case p.accept("="):
			if fallback, err = p.expression(); err != nil {
				return nil, err
			}
		case len(params) > 0 && params[len(params)-1].fallback != nil:
			return nil, p.fail("parameter %s without a default stands behind one with a default", name)
		}
		params = append(params, param{name, fallback})
	}
	return params, nil
}
