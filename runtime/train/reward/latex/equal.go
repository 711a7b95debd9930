package latex

import (
	"math/big"
	"math/cmplx"
)

// part is a node at one of its signs.
type part struct {
	node  *node
	minus bool
}

// same reports whether two answers have the same value. work is what it may
// still compare.
func same(a, b *node, work *int) bool {
	if a.kind == relation || b.kind == relation {
		if a.isEquation() && b.isEquation() {
			return sameEquation(a, b, work)
		}
		x, y := a.solved(), b.solved()
		if x.kind == relation || y.kind == relation {
			return x.kind == y.kind && x.text == y.text && pairwise(x.args, y.args, work)
		}
		a, b = x, y
	}
	as, bs := parts(a), parts(b)
	if len(as) != len(bs) {
		return false
	}
	if len(as) == 1 && as[0].node == a && bs[0].node == b {
		return sameOne(part{a, false}, part{b, false}, work)
	}
	return matched(as, bs, work)
}

// parts returns what a bare list, a set, a union or a ± stands for, in no order.
// A tuple is one part, unless what it is compared with is none: see sameOne.
func parts(n *node) []part {
	var found []part
	if n.kind == list && (n.text == "" || n.text == "{}") || n.kind == union {
		for _, a := range n.args {
			if a.kind == relation {
				a = a.solved()
			}
			found = append(found, signs(a)...)
		}
		return found
	}
	return signs(n)
}

func signs(n *node) []part {
	if n.has(plusMinus) {
		return []part{{n, false}, {n, true}}
	}
	return []part{{n, false}}
}

// matched reports whether each of as is one of bs, each used once.
func matched(as, bs []part, work *int) bool {
	used := make([]bool, len(bs))
	for _, a := range as {
		found := false
		for i, b := range bs {
			if !used[i] && sameOne(a, b, work) {
				used[i], found = true, true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// pairwise reports whether two lists are the same in order.
func pairwise(as, bs []*node, work *int) bool {
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		if !same(as[i], bs[i], work) {
			return false
		}
	}
	return true
}

// sameOne compares two parts.
func sameOne(a, b part, work *int) bool {
	if *work--; *work < 0 {
		return false
	}
	x, y := a.node, b.node
	switch {
	case x.kind == list && y.kind == list:
		return x.text == y.text && pairwise(x.args, y.args, work)
	case x.kind == matrix && y.kind == matrix:
		return x.text == y.text && x.rows == y.rows && pairwise(x.args, y.args, work)
	case x.kind == prose || y.kind == prose:
		return x.kind == y.kind && x.text == y.text
	case x.kind == numeral || y.kind == numeral:
		return x.kind == y.kind && x.text == y.text && x.rows == y.rows
	case !x.scalar() || !y.scalar():
		return false
	}
	if x.kind == percent != (y.kind == percent) {
		// "50%" for 50, as the reference leaves the sign out, or for a half.
		return sameValue(a, b, work) || sameValue(a.bare(), b.bare(), work)
	}
	return sameValue(a, b, work)
}

// bare is a percentage without its sign.
func (p part) bare() part {
	if p.node.kind == percent {
		p.node = p.node.args[0]
	}
	return p
}

// scalar reports whether n is an expression all through.
func (n *node) scalar() bool {
	return !n.has(list) && !n.has(union) && !n.has(matrix) && !n.has(relation) && !n.has(prose) && !n.has(numeral)
}

// trials is at how many points expressions are compared.
const trials = 6

// sameValue reports whether two expressions agree at every point at which both
// have a value, and at one at least.
func sameValue(a, b part, work *int) bool {
	agreed := false
	for trial := range trials {
		if *work--; *work < 0 {
			return false
		}
		p, q := point{trial, a.minus}, point{trial, b.minus}
		equal, known := agree(p, q, a.node, b.node)
		if known && !equal {
			return false
		}
		agreed = agreed || known
	}
	return agreed
}

// agree compares two values, exactly if both are rational. known is false where
// one has no value.
func agree(p, q point, a, b *node) (equal, known bool) {
	x, okX := p.exact(a)
	y, okY := q.exact(b)
	if okX && okY {
		return x.Cmp(y) == 0, true
	}
	v, okV := p.approximate(a)
	w, okW := q.approximate(b)
	if !okV || !okW {
		return false, false
	}
	return near(v, w), true
}

// near allows for the rounding of float64, and for no more.
func near(v, w complex128) bool {
	return cmplx.Abs(v-w) <= 1e-11*max(cmplx.Abs(v), cmplx.Abs(w))+1e-13
}

// sameEquation reports whether two equations say the same: x = 5 and y = 5 are
// answers alike, 2x + y = 4 and 4x = 8 - 2y are the same line.
func sameEquation(a, b *node, work *int) bool {
	x, y := a.solved(), b.solved()
	if x != a && y != b && same(x, y, work) {
		return true
	}
	if len(a.args) != 2 || len(b.args) != 2 {
		return pairwise(a.args, b.args, work)
	}
	f, g := difference(a), difference(b)
	if !f.scalar() || !g.scalar() || f.has(plusMinus) || g.has(plusMinus) {
		return pairwise(a.args, b.args, work)
	}
	// The same line makes f/g constant.
	var ratio *big.Rat
	compared := 0
	for trial := range trials {
		p := point{trial: trial}
		u, okU := p.exact(f)
		v, okV := p.exact(g)
		if !okU || !okV {
			return pairwise(a.args, b.args, work)
		}
		if u.Sign() == 0 || v.Sign() == 0 {
			if u.Sign() != v.Sign() {
				return false
			}
			continue
		}
		r := new(big.Rat).Quo(u, v)
		if ratio != nil && ratio.Cmp(r) != 0 {
			return false
		}
		ratio = r
		compared++
	}
	return compared > 1 && (f.variable() || pairwise(a.args, b.args, work))
}

// variable reports whether n has a symbol, without which any two equations
// would be in proportion.
func (n *node) variable() bool { return n.has(symbol) }

// difference is the left side of an equation less the right.
func difference(n *node) *node {
	return &node{kind: sum, args: []*node{n.args[0], {kind: negation, args: []*node{n.args[1]}}}}
}
