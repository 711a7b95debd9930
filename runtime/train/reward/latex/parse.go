package latex

import "math/big"

// parser reads tokens by recursive descent. The grammar, loosest first:
//
//	answer     = statement {("," | ";" | "and" | "or") statement}
//	statement  = sets {("=" | "<" | "≤" | "∈" | …) sets}
//	sets       = expression {"∪" expression}
//	expression = ["+" | "-" | "±"] term {("+" | "-" | "±") term}
//	term       = factor {["·" | "×" | "/"] factor}     a text after a value is its unit
//	factor     = primary {"!" | "%"} ["^" argument]
type parser struct {
	tokens []token
	at     int
	depth  int
	inAbs  int
	nodes  int
}

// parse reads a whole answer.
func parse(s string, thousands bool) (*node, error) {
	tokens, err := lex(s, thousands)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	parts, err := p.statements()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != end {
		return nil, syntaxf("%q was not expected", t.text)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return p.node(&node{kind: list, args: parts})
}

func (p *parser) peek() token { return p.ahead(0) }

func (p *parser) ahead(n int) token {
	if p.at+n >= len(p.tokens) {
		return token{}
	}
	return p.tokens[p.at+n]
}

// accept takes the next token if it is this one.
func (p *parser) accept(k tokenKind, texts ...string) (string, bool) {
	t := p.peek()
	for _, text := range texts {
		if t.kind == k && t.text == text {
			p.at++
			return text, true
		}
	}
	return "", false
}

func (p *parser) expect(k tokenKind, text string) error {
	if _, ok := p.accept(k, text); !ok {
		return syntaxf("%q instead of %q", p.peek().text, text)
	}
	return nil
}

// node counts what is built.
func (p *parser) node(n *node) (*node, error) {
	if p.nodes++; p.nodes > maxNodes || len(n.args) > maxNodes {
		return nil, syntaxf("more than %d parts", maxNodes)
	}
	return n, nil
}

// deeper bounds the nesting around f.
func (p *parser) deeper(f func() (*node, error)) (*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, syntaxf("nested deeper than %d", maxDepth)
	}
	n, err := f()
	p.depth--
	return n, err
}

// separator takes what stands between the parts of a list.
func (p *parser) separator() bool {
	taken := false
	for {
		if _, ok := p.accept(sign, ",", ";"); !ok {
			if _, ok := p.accept(quoted, "and", "or", ",", "and,"); !ok {
				return taken
			}
		}
		taken = true
	}
}

func (p *parser) statements() ([]*node, error) {
	var parts []*node
	for {
		n, err := p.deeper(p.statement)
		if err != nil {
			return nil, err
		}
		if parts = append(parts, n); len(parts) > maxItems {
			return nil, syntaxf("a list of more than %d", maxItems)
		}
		if !p.separator() {
			return parts, nil
		}
	}
}

// relations are the signs between the sides of a relation, as one byte each.
var relations = map[token]byte{
	{sign, "="}: '=', {sign, "<"}: '<', {sign, ">"}: '>', {command, "le"}: 'l', {command, "ge"}: 'g',
	{command, "ne"}: 'n', {command, "in"}: 'e', {command, "approx"}: '=', {command, "equiv"}: '=',
}

func (p *parser) statement() (*node, error) {
	first, err := p.sets()
	if err != nil {
		return nil, err
	}
	n := &node{kind: relation, args: []*node{first}}
	for {
		c, ok := relations[p.peek()]
		if !ok {
			break
		}
		p.at++
		if p.peek() == (token{sign, "="}) && (c == '<' || c == '>') { // <=
			p.at++
			c = map[byte]byte{'<': 'l', '>': 'g'}[c]
		}
		side, err := p.sets()
		if err != nil {
			return nil, err
		}
		n.text += string(c)
		n.args = append(n.args, side)
	}
	if len(n.args) == 1 {
		return first, nil
	}
	return p.node(n)
}

func (p *parser) sets() (*node, error) {
	first, err := p.expression()
	if err != nil {
		return nil, err
	}
	n := &node{kind: union, args: []*node{first}}
	for {
		_, ok := p.accept(command, "cup")
		if !ok && first.kind == list {
			_, ok = p.accept(word, "U")
		}
		if !ok {
			break
		}
		next, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.args = append(n.args, next)
	}
	if len(n.args) == 1 {
		return first, nil
	}
	return p.node(n)
}

// adding takes a sign between terms: "+", "-", "pm" or "mp".
func (p *parser) adding() (string, bool) {
	if s, ok := p.accept(sign, "+", "-"); ok {
		return s, true
	}
	return p.accept(command, "pm", "mp")
}

func (p *parser) expression() (*node, error) {
	var n *node
	for {
		op, ok := p.adding()
		if !ok && n != nil {
			return n, nil
		}
		term, err := p.term()
		if err != nil {
			return nil, err
		}
		if n, err = p.combine(n, op, term); err != nil {
			return nil, err
		}
	}
}

// combine adds a term to what is left of it (nil at the beginning).
func (p *parser) combine(left *node, op string, term *node) (*node, error) {
	if op == "-" {
		term = &node{kind: negation, args: []*node{term}}
	}
	switch {
	case op == "pm" || op == "mp":
		if left == nil {
			left = &node{kind: constant, value: new(big.Rat)}
		}
		return p.node(&node{kind: plusMinus, text: op, args: []*node{left, term}})
	case left == nil:
		return p.node(term)
	case left.kind == sum:
		left.args = append(left.args, term)
		return p.node(left)
	default:
		return p.node(&node{kind: sum, args: []*node{left, term}})
	}
}

func (p *parser) term() (*node, error) {
	n, err := p.signed()
	if err != nil {
		return nil, err
	}
	for {
		p.units(n)
		var right *node
		op, ok := p.accept(sign, "*", "/")
		if !ok {
			if op, ok = p.accept(command, "cdot", "times", "div"); !ok && !p.startsFactor() {
				return n, nil
			}
		}
		if ok {
			right, err = p.signed()
		} else {
			right, err = p.factor()
		}
		if err != nil {
			return nil, err
		}
		k := product
		if op == "/" || op == "div" {
			k = quotient
		}
		if n, err = p.node(&node{kind: k, args: []*node{n, right}}); err != nil {
			return nil, err
		}
	}
}

// units skips texts after a value, and what they are raised to: \text{ cm}^2.
func (p *parser) units(value *node) {
	for value.kind != prose && p.peek().kind == quoted && !separates(p.peek().text) {
		p.at++
		if p.peek() == (token{sign, "^"}) {
			p.at++
			if _, ok := p.accept(sign, "{"); ok {
				p.at++
				p.accept(sign, "}")
			} else {
				p.at++
			}
		}
	}
}

func separates(text string) bool {
	return text == "and" || text == "or" || text == "," || text == "and,"
}

// signed is a factor that may have a sign of its own: 2 · -3.
func (p *parser) signed() (*node, error) {
	if s, ok := p.accept(sign, "-", "+"); ok {
		n, err := p.deeper(p.signed)
		if err != nil || s == "+" {
			return n, err
		}
		return p.node(&node{kind: negation, args: []*node{n}})
	}
	return p.factor()
}

// startsFactor reports whether a factor follows without a sign between.
func (p *parser) startsFactor() bool {
	switch t := p.peek(); t.kind {
	case word:
		return t.text != "U"
	case command:
		switch t.text {
		case "frac", "sqrt", "binom", "pi", "infty", "boxed", "fbox", "mathbf", "lfloor", "lceil", "begin", "overline":
			return true
		}
		return functions[t.text] || greek(t.text)
	case sign:
		return t.text == "(" || t.text == "{" || t.text == "|" && p.inAbs == 0
	default:
		return false
	}
}

func greek(name string) bool {
	switch name {
	case "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "omega", "phi", "rho", "sigma", "tau",
		"epsilon", "varphi", "emptyset", "ldots", "dots", "cdots":
		return true
	}
	return false
}

func (p *parser) factor() (*node, error) {
	n, err := p.deeper(p.primary)
	if err != nil {
		return nil, err
	}
	for {
		if _, ok := p.accept(sign, "!"); ok {
			n, err = p.node(&node{kind: call, text: "!", args: []*node{n}})
		} else if _, ok := p.accept(sign, "%"); ok {
			n, err = p.node(&node{kind: percent, args: []*node{n}})
		} else if _, ok := p.accept(sign, "^"); ok {
			var exponent *node
			if exponent, err = p.deeper(p.argument); err == nil {
				n, err = p.node(&node{kind: power, args: []*node{n, exponent}})
			}
		} else {
			return n, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
