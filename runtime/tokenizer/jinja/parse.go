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
}

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
			e, err := p.expression()
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
	case "break":
		return flowStatement{errBreak}, p.end()
	case "continue":
		return flowStatement{errContinue}, p.end()
	case "generation": // Marks what is trained on; renders as if it were not there.
		body, err := p.block("endgeneration")
		return groupStatement(body), err
	default:
		return nil, p.fail("statement %q is not supported", name)
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
		condition, err := p.expression()
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
	if s.targets, err = p.targets(); err != nil {
		return nil, err
	}
	if err := p.expect("in"); err != nil {
		return nil, err
	}
	// Without the conditional expression, whose "if" would swallow the filter.
	if s.over, err = p.or(); err != nil {
		return nil, err
	}
	if p.accept("if") {
		if s.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if p.is("recursive") {
		return nil, p.fail("recursive loops are not supported")
	}
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

// targets parses "a" or "a, b".
func (p *parser) targets() ([]string, error) {
	var names []string
	for {
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		if !p.accept(",") {
			return names, nil
		}
	}
}

func (p *parser) setStatement(line int) (statement, error) {
	s := &setStatement{line: line}
	names, err := p.targets()
	if err != nil {
		return nil, err
	}
	s.targets = names
	if len(names) == 1 && p.accept(".") {
		if s.attribute, err = p.name(); err != nil {
			return nil, err
		}
	}
	if p.accept("=") {
		if s.value, err = p.tuple(); err != nil {
			return nil, err
		}
		return s, p.end()
	}
	if s.body, err = p.block("endset"); err != nil {
		return nil, err
	}
	s.isBlock = true
	return s, nil
}

func (p *parser) macroStatement() (statement, error) {
	m := &macroStatement{}
	var err error
	if m.name, err = p.name(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	for !p.accept(")") {
		if len(m.params) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
		}
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		var fallback expr
		if p.accept("=") {
			if fallback, err = p.expression(); err != nil {
				return nil, err
			}
		}
		m.params = append(m.params, param{name, fallback})
	}
	m.body, err = p.block("endmacro")
	return m, err
}
