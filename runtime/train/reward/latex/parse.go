package latex

import (
	"math/big"
	"strconv"
	"strings"
)

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

// argument is what ^ and \sqrt act on: a group, or one thing.
func (p *parser) argument() (*node, error) {
	if s, ok := p.accept(sign, "-", "+"); ok {
		n, err := p.deeper(p.argument)
		if err != nil || s == "+" {
			return n, err
		}
		return p.node(&node{kind: negation, args: []*node{n}})
	}
	return p.primary()
}

// short is an argument of \frac: a group, one digit, or one command.
func (p *parser) short() (*node, error) {
	if t := p.peek(); t.kind == number && len(t.text) > 1 {
		p.tokens[p.at].text = t.text[1:]
		if t.text[0] == '.' {
			return nil, syntaxf("a fraction of a dot")
		}
		return p.number(t.text[:1])
	}
	return p.primary()
}

func (p *parser) number(text string) (*node, error) {
	v, err := decimal(text)
	if err != nil {
		return nil, err
	}
	return p.node(&node{kind: constant, value: v})
}

func (p *parser) primary() (*node, error) {
	t := p.peek()
	p.at++
	switch t.kind {
	case number:
		return p.numeric(t.text)
	case word:
		return p.variable(t.text)
	case quoted:
		if len(t.text) == 1 && letters.MatchString(t.text) {
			return p.variable(t.text)
		}
		return p.node(&node{kind: prose, text: strings.ToLower(strings.Join(strings.Fields(t.text), ""))})
	case command:
		return p.command(t.text)
	case sign:
		return p.bracket(t.text)
	default:
		return nil, syntaxf("an end too early")
	}
}

// numeric goes on after digits: 52_8, 1\frac{4}{5}, 1 4/5, 0.\overline{3}.
func (p *parser) numeric(text string) (*node, error) {
	if _, ok := p.accept(sign, "_"); ok {
		base, err := p.deeper(p.argument)
		if err != nil {
			return nil, err
		}
		if base.kind != constant || !base.value.IsInt() || !base.value.Num().IsInt64() {
			return nil, syntaxf("a base that is no number")
		}
		return p.node(&node{kind: numeral, text: text, rows: int(base.value.Num().Int64())})
	}
	n, err := p.number(text)
	if err != nil {
		return nil, err
	}
	whole := !strings.Contains(text, ".")
	var part *node
	switch {
	case whole && p.peek() == (token{command, "frac"}):
		p.at++
		if part, err = p.deeper(func() (*node, error) { return p.command("frac") }); err != nil {
			return nil, err
		}
		if part.args[0].kind != constant || part.args[1].kind != constant {
			return p.node(&node{kind: product, args: []*node{n, part}})
		}
	case whole && p.peek().kind == number && p.ahead(1) == (token{sign, "/"}) && p.ahead(2).kind == number:
		above, err := p.number(p.peek().text)
		if err != nil {
			return nil, err
		}
		below, err := p.number(p.ahead(2).text)
		if err != nil {
			return nil, err
		}
		p.at += 3
		part = &node{kind: quotient, args: []*node{above, below}}
	case p.peek() == (token{command, "overline"}) && p.ahead(1) == (token{sign, "{"}) && p.ahead(2).kind == number:
		repeated := p.ahead(2).text
		p.at += 3
		if err := p.expect(sign, "}"); err != nil {
			return nil, err
		}
		return p.repeating(text, repeated)
	default:
		return n, nil
	}
	return p.node(&node{kind: sum, args: []*node{n, part}})
}

// repeating is the value of 0.1\overline{6}.
func (p *parser) repeating(text, repeated string) (*node, error) {
	fixed, err := decimal(text)
	if err != nil {
		return nil, err
	}
	if strings.Contains(repeated, ".") || len(repeated) > 100 {
		return nil, syntaxf("%q does not repeat", repeated)
	}
	_, places, _ := strings.Cut(text, ".")
	ten := big.NewInt(10)
	cycle := new(big.Int).Exp(ten, big.NewInt(int64(len(repeated))), nil)
	below := cycle.Sub(cycle, big.NewInt(1))
	below.Mul(below, new(big.Int).Exp(ten, big.NewInt(int64(len(places))), nil))
	above, _ := new(big.Int).SetString(repeated, 10)
	return p.node(&node{kind: constant, value: fixed.Add(fixed, new(big.Rat).SetFrac(above, below))})
}

// variable is a symbol, with its index if it has one.
func (p *parser) variable(name string) (*node, error) {
	if _, ok := p.accept(sign, "_"); ok {
		index, err := p.index()
		if err != nil {
			return nil, err
		}
		name += "_" + index
	}
	return p.node(&node{kind: symbol, text: name})
}

// index returns the text of an index: of a group, or of one token.
func (p *parser) index() (string, error) {
	if _, ok := p.accept(sign, "{"); !ok {
		t := p.peek()
		p.at++
		if t.kind == sign || t.kind == end {
			return "", syntaxf("no index")
		}
		return t.text, nil
	}
	var b strings.Builder
	for {
		t := p.peek()
		p.at++
		switch {
		case t.kind == end || t == (token{sign, "{"}):
			return "", syntaxf("an index without an end")
		case t == (token{sign, "}"}):
			return b.String(), nil
		}
		b.WriteString(t.text)
	}
}

func (p *parser) command(name string) (*node, error) {
	switch {
	case name == "frac" || name == "binom":
		above, err := p.deeper(p.short)
		if err != nil {
			return nil, err
		}
		below, err := p.deeper(p.short)
		if err != nil {
			return nil, err
		}
		if name == "binom" {
			return p.node(&node{kind: call, text: name, args: []*node{above, below}})
		}
		return p.node(&node{kind: quotient, args: []*node{above, below}})
	case name == "sqrt":
		return p.root()
	case functions[name]:
		return p.function(name)
	case name == "boxed" || name == "fbox" || name == "mathbf" || name == "overline":
		n, err := p.deeper(p.argument)
		if err != nil || name != "overline" {
			return n, err
		}
		return p.node(&node{kind: call, text: name, args: []*node{n}})
	case name == "pi" || name == "infty" || greek(name):
		return p.variable(`\` + name)
	case name == "lfloor" || name == "lceil":
		return p.enclosed(name, token{command, "r" + name[1:]})
	case name == "lvert":
		return p.enclosed("abs", token{command, "rvert"})
	case name == "langle":
		return p.tuple("(", map[token]string{{command, "rangle"}: ")"})
	case name == "begin":
		return p.environment()
	default:
		return nil, syntaxf("the command \\%s has no meaning here", name)
	}
}

// root reads what follows \sqrt: an index in brackets, and the argument.
func (p *parser) root() (*node, error) {
	args := make([]*node, 1, 2)
	if _, ok := p.accept(sign, "["); ok {
		index, err := p.deeper(p.expression)
		if err != nil {
			return nil, err
		}
		if err := p.expect(sign, "]"); err != nil {
			return nil, err
		}
		args = append(args, index)
	}
	var err error
	if args[0], err = p.deeper(p.argument); err != nil {
		return nil, err
	}
	return p.node(&node{kind: call, text: "sqrt", args: args})
}

// function reads what follows its name: an index (log's base), a power, and
// the argument, which without brackets is a product: \sin 2x.
func (p *parser) function(name string) (*node, error) {
	n := &node{kind: call, text: name}
	var base, exponent *node
	var err error
	if _, ok := p.accept(sign, "_"); ok {
		if base, err = p.deeper(p.short); err != nil {
			return nil, err
		}
	}
	if _, ok := p.accept(sign, "^"); ok {
		if exponent, err = p.deeper(p.argument); err != nil {
			return nil, err
		}
	}
	bracketed := p.peek() == token{sign, "("} || p.peek() == token{sign, "{"}
	arg, err := p.deeper(p.factor)
	for err == nil && !bracketed && p.startsFactor() && !functions[p.peek().text] {
		var more *node
		if more, err = p.deeper(p.factor); err == nil {
			arg = &node{kind: product, args: []*node{arg, more}}
		}
	}
	if err != nil {
		return nil, err
	}
	if n.args = []*node{arg}; base != nil {
		n.args = append(n.args, base)
	}
	if exponent != nil {
		n = &node{kind: power, args: []*node{n, exponent}}
	}
	return p.node(n)
}

// enclosed is a function written as a pair of signs, such as |x|.
func (p *parser) enclosed(name string, closer token) (*node, error) {
	p.inAbs++
	n, err := p.deeper(p.expression)
	if err != nil {
		return nil, err
	}
	p.inAbs--
	if err := p.expect(closer.kind, closer.text); err != nil {
		return nil, err
	}
	return p.node(&node{kind: call, text: name, args: []*node{n}})
}

func (p *parser) bracket(open string) (*node, error) {
	switch open {
	case "(", "[":
		return p.tuple(open, map[token]string{{sign, ")"}: ")", {sign, "]"}: "]"})
	case `\{`:
		if _, ok := p.accept(sign, `\}`); ok {
			return p.variable(`\emptyset`)
		}
		return p.tuple("{", map[token]string{{sign, `\}`}: "}"})
	case "{":
		return p.tuple("(", map[token]string{{sign, "}"}: ")"})
	case "|", `\|`:
		return p.enclosed("abs", token{sign, open})
	default:
		return nil, syntaxf("%q was not expected", open)
	}
}

// tuple reads up to a closing bracket. One part in round brackets is a group.
func (p *parser) tuple(open string, closers map[token]string) (*node, error) {
	inAbs := p.inAbs
	p.inAbs = 0
	parts, err := p.statements()
	if err != nil {
		return nil, err
	}
	p.inAbs = inAbs
	shut, ok := closers[p.peek()]
	if !ok {
		return nil, syntaxf("%q in a bracket", p.peek().text)
	}
	p.at++
	if len(parts) == 1 && open+shut != "{}" {
		return parts[0], nil
	}
	return p.node(&node{kind: list, text: open + shut, args: parts})
}

// environment reads a matrix.
func (p *parser) environment() (*node, error) {
	name, err := p.index()
	if err != nil {
		return nil, err
	}
	if name != "array" && !strings.HasSuffix(name, "matrix") {
		return nil, syntaxf("the environment %q has no meaning here", name)
	}
	if name == "array" { // {cc}
		if _, err := p.index(); err != nil {
			return nil, err
		}
	}
	m := &node{kind: matrix}
	if strings.EqualFold(name, "vmatrix") { // a determinant or a norm
		m.text = name[:1]
	}
	width, columns := 0, 0
	for {
		if _, ok := p.accept(command, "end"); ok {
			break
		}
		cell, err := p.deeper(p.expression)
		if err != nil {
			return nil, err
		}
		m.args = append(m.args, cell)
		columns++
		if _, ok := p.accept(sign, "&"); ok {
			continue
		}
		if m.rows++; m.rows > 1 && columns != width {
			return nil, syntaxf("rows of %s and %s columns", strconv.Itoa(width), strconv.Itoa(columns))
		}
		width, columns = columns, 0
		if _, ok := p.accept(sign, `\\`); !ok && p.peek() != (token{command, "end"}) {
			return nil, syntaxf("%q in a matrix", p.peek().text)
		}
	}
	if closing, err := p.index(); err != nil || closing != name || columns != 0 || len(m.args) == 0 {
		return nil, syntaxf("a matrix without an end")
	}
	return p.node(m)
}
