package constrain

import (
	"math/big"
	"unicode/utf8"
)

// satisfies reports whether a value satisfies a goal, as JSON Schema says it.
func (e *expander) satisfies(g goal, v *value) (bool, error) {
	clauses, err := e.clauses(g)
	if err != nil {
		return false, err
	}
	for _, c := range clauses {
		if ok, err := e.holds(c, v); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// holds reports whether a value satisfies the keywords of a clause.
func (e *expander) holds(c clause, v *value) (bool, error) {
	if err := e.stop(); err != nil {
		return false, err
	}
	if c.kinds()&v.kind == 0 || !c.lists(v) {
		return false, nil
	}
	switch v.kind {
	case kindInteger, kindFraction:
		return c.numberHolds(v.number), nil
	case kindString:
		return e.stringHolds(c, v.text)
	case kindArray:
		return e.arrayHolds(c, v)
	case kindObject:
		return e.objectHolds(c, v)
	}
	return true, nil
}

func (c clause) numberHolds(d decimal) bool {
	low, high := c.bounds()
	if low != nil && (d.compare(low.decimal) < 0 || low.exclusive && d.compare(low.decimal) == 0) ||
		high != nil && (d.compare(high.decimal) > 0 || high.exclusive && d.compare(high.decimal) == 0) {
		return false
	}
	for _, n := range c {
		for _, m := range n.multiples {
			if !new(big.Rat).Quo(d.rat(), m.rat()).IsInt() {
				return false
			}
		}
	}
	return true
}

func (e *expander) stringHolds(c clause, text string) (bool, error) {
	least, most := c.lengths()
	if n := utf8.RuneCountInString(text); n < least || most >= 0 && n > most {
		return false, nil
	}
	for _, n := range c {
		for _, p := range n.patterns {
			d, err := e.pattern(p)
			if err != nil || !d.matches(text) {
				return false, err
			}
		}
	}
	return true, nil
}

func (e *expander) arrayHolds(c clause, v *value) (bool, error) {
	least, most := c.counts()
	if len(v.items) < least || most >= 0 && len(v.items) > most {
		return false, nil
	}
	for i, item := range v.items {
		if ok, err := e.satisfies(c.item(i), item); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (e *expander) objectHolds(c clause, v *value) (bool, error) {
	_, required := c.names()
	for name := range required {
		if v.get(name) == nil {
			return false, nil
		}
	}
	for _, m := range v.members {
		g := c.property(m.name)
		if ok, err := e.satisfies(g, m.value); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// maxDisjointDepth bounds how deep two schemas are compared.
const maxDisjointDepth = 4

// checkOneOfs checks those that have been met. That waits until no schema is being expanded:
// what makes two schemas differ may refer to the very schema that has the oneOf.
func (e *expander) checkOneOfs() error {
	for len(e.oneOfs) > 0 {
		c := e.oneOfs[0]
		e.oneOfs = e.oneOfs[1:]
		if err := e.checkOneOf(c.node, c.base); err != nil {
			return err
		}
	}
	return nil
}

// checkOneOf refuses a oneOf of which a value might match two schemas; base are the
// alternatives of what else must hold.
func (e *expander) checkOneOf(n *node, base []clause) error {
	all := make([][]clause, len(n.oneOf))
	for i, part := range n.oneOf {
		own, err := e.expand(part)
		if err != nil {
			return err
		}
		if all[i], err = e.cross(base, own, part.place); err != nil {
			return err
		}
	}
	for i := range all {
		for j := range i {
			apart, err := e.allDisjoint(all[i], all[j], maxDisjointDepth)
			if err != nil {
				return err
			}
			if !apart {
				return refuse(n.place+"/oneOf", "a value might match both of its schemas %d and %d: use anyOf, or tell them apart by type, or by a required property with const", j, i)
			}
		}
	}
	return nil
}

func (e *expander) allDisjoint(a, b []clause, depth int) (bool, error) {
	for _, x := range a {
		for _, y := range b {
			if e.steps++; e.steps > maxStates {
				return false, refuse("", "its alternatives are too many to compare")
			}
			if apart, err := e.disjoint(x, y, depth); !apart || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// disjoint reports whether it can be seen that no value satisfies both clauses.
func (e *expander) disjoint(a, b clause, depth int) (bool, error) {
	if err := e.stop(); err != nil {
		return false, err
	}
	both := append(append(clause{}, a...), b...)
	kinds := both.kinds()
	if list := both.enum(); list != nil {
		for _, v := range list {
			if ok, err := e.holds(both, v); ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	if kinds&kindNumber != 0 {
		low, high := both.bounds()
		if low != nil && high != nil && (low.compare(high.decimal) > 0 || low.compare(high.decimal) == 0 && (low.exclusive || high.exclusive)) {
			kinds &^= kindNumber
		}
	}
	if kinds&kindObject != 0 && depth > 0 {
		apart, err := e.objectsDisjoint(a, b, depth)
		if err != nil {
			return false, err
		}
		if apart {
			kinds &^= kindObject
		}
	}
	return kinds == 0, nil
}

// objectsDisjoint looks for a property that every object of both must have and none can.
func (e *expander) objectsDisjoint(a, b clause, depth int) (bool, error) {
	_, required := append(append(clause{}, a...), b...).names()
	for name := range required {
		x, err := e.clauses(a.property(name))
		if err != nil {
			return false, err
		}
		y, err := e.clauses(b.property(name))
		if err != nil {
			return false, err
		}
		if apart, err := e.allDisjoint(x, y, depth-1); apart || err != nil {
			return apart, err
		}
	}
	return false, nil
}
