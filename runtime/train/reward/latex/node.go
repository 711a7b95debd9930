package latex

import "math/big"

// kind says what a node is.
type kind int

const (
	constant  kind = iota // value
	symbol                // text is its name
	sum                   // of args
	product               // of args
	quotient              // args[0] / args[1]
	power                 // args[0] ^ args[1]
	negation              // of args[0]
	plusMinus             // args[0] ± args[1]; ∓ where text is "mp"
	call                  // of the function text on args
	percent               // of args[0]
	list                  // of args within the brackets text: "", "()", "[)", "{}", …
	union                 // of args
	matrix                // args row by row, rows of them
	relation              // args[0] text args[1], and so on for a chain: text is the signs, one a byte
	prose                 // text that is no expression
	numeral               // text is digits in base rows
)

// node is an expression, an equation, a list, or a text.
type node struct {
	kind  kind
	text  string
	value *big.Rat
	args  []*node
	rows  int
}

func (n *node) is(k kind, text string) bool { return n.kind == k && n.text == text }

// solved returns what an answer gives, where it says of what: 5 of "x = 5", the
// interval of "x \in [2,3]" and of "2 \le x \le 3".
func (n *node) solved() *node {
	if n.kind != relation {
		return n
	}
	first, last := n.args[0], n.args[len(n.args)-1]
	switch {
	case n.text == "e" || n.text == "=" && (first.kind == prose || first.kind == symbol && !last.mentions(first.text)):
		return last
	case n.text == "=" && first.kind == product && first.args[0].kind == symbol && first.args[1].kind == symbol &&
		last.mentions(first.args[1].text) && !last.mentions(first.args[0].text):
		return last // f(x) = …
	}
	if interval := n.interval(); interval != nil {
		return interval
	}
	if n.text == "=" && n.calculates() {
		return last
	}
	return n
}

// calculates reports whether all sides are numbers and the same one: 6 · 7 = 42.
func (n *node) calculates() bool {
	for _, a := range n.args {
		if !a.scalar() || a.variable() || a.has(plusMinus) {
			return false
		}
	}
	for _, a := range n.args[1:] {
		if equal, known := agree(point{}, point{}, n.args[0], a); !equal || !known {
			return false
		}
	}
	return true
}

// isEquation reports whether n is an equation.
func (n *node) isEquation() bool { return n.kind == relation && n.text == "=" }

// infinite is ∞ as a symbol.
func infinite(sign int) *node {
	n := &node{kind: symbol, text: `\infty`}
	if sign < 0 {
		return &node{kind: negation, args: []*node{n}}
	}
	return n
}

// interval returns what an inequality about one variable says: x < 5, 5 > x,
// 2 \le x < 3. It is nil for all others.
func (n *node) interval() *node {
	low, high := infinite(-1), infinite(1)
	open, shut := byte('('), byte(')')
	bound := func(text byte, at *node, isLow bool) bool {
		closed := text == 'l' || text == 'g'
		if isLow {
			if low = at; closed {
				open = '['
			}
		} else if high = at; closed {
			shut = ']'
		}
		return text == '<' || text == '>' || closed
	}
	rises := func(c byte) bool { return c == '<' || c == 'l' }
	switch {
	case len(n.args) == 2 && n.args[0].kind == symbol:
		if !bound(n.text[0], n.args[1], !rises(n.text[0])) {
			return nil
		}
	case len(n.args) == 2 && n.args[1].kind == symbol:
		if !bound(n.text[0], n.args[0], rises(n.text[0])) {
			return nil
		}
	case len(n.args) == 3 && n.args[1].kind == symbol && rises(n.text[0]) == rises(n.text[1]):
		if !bound(n.text[0], n.args[0], rises(n.text[0])) || !bound(n.text[1], n.args[2], !rises(n.text[1])) {
			return nil
		}
	default:
		return nil
	}
	return &node{kind: list, text: string([]byte{open, shut}), args: []*node{low, high}}
}

// mentions reports whether the symbol is part of n.
func (n *node) mentions(name string) bool {
	if n.is(symbol, name) {
		return true
	}
	for _, a := range n.args {
		if a.mentions(name) {
			return true
		}
	}
	return false
}

// has reports whether a node of this kind is part of n.
func (n *node) has(k kind) bool {
	if n.kind == k {
		return true
	}
	for _, a := range n.args {
		if a.has(k) {
			return true
		}
	}
	return false
}
