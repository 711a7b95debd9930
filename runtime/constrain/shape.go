package constrain

import (
	"slices"
)

// A goal is a list of schemas that a value must satisfy, all of them. Rules are made of
// goals, so that allOf may meet itself again below: there are finitely many.
type goal []*node

// clause is a goal of which only the schemas' own keywords are left to satisfy: references
// have been followed, and of anyOf and oneOf one schema has been chosen.
type clause []*node

// expander makes clauses of goals.
type expander struct {
	done   map[*node][]clause
	active map[*node]bool
	tests  map[string]*dfa // Compiled regular expressions.
	oneOfs []choice        // To be checked; see checkOneOfs.
	steps  int
	stop   func() error // The context's error.
}

// choice is a oneOf, beside other keywords of which the alternatives are known.
type choice struct {
	node *node
	base []clause
}

func newExpander(stop func() error) *expander {
	return &expander{done: map[*node][]clause{}, active: map[*node]bool{}, tests: map[string]*dfa{}, stop: stop}
}

// clauses returns the alternatives of a goal: the value must satisfy one of them.
func (e *expander) clauses(g goal) ([]clause, error) {
	all := []clause{{}}
	for _, n := range g {
		own, err := e.expand(n)
		if err != nil {
			return nil, err
		}
		if all, err = e.cross(all, own, n.place); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// expand returns the alternatives of one schema.
func (e *expander) expand(n *node) ([]clause, error) {
	if done, ok := e.done[n]; ok {
		return done, nil
	}
	if e.active[n] {
		return nil, refuse(n.place, "it refers to itself with no array or object between")
	}
	e.active[n] = true
	defer delete(e.active, n)
	all := []clause{{n}}
	if n.never {
		all = nil
	}
	both := func(more []clause, err error) error {
		if err == nil {
			all, err = e.cross(all, more, n.place)
		}
		return err
	}
	if n.target != nil {
		if err := both(e.expand(n.target)); err != nil {
			return nil, err
		}
	}
	for _, part := range n.allOf {
		if err := both(e.expand(part)); err != nil {
			return nil, err
		}
	}
	if n.anyOf != nil {
		if err := both(e.either(n.anyOf)); err != nil {
			return nil, err
		}
	}
	if n.oneOf != nil {
		e.oneOfs = append(e.oneOfs, choice{n, all})
		if err := both(e.either(n.oneOf)); err != nil {
			return nil, err
		}
	}
	e.done[n] = all
	return all, nil
}

func (e *expander) either(list []*node) (all []clause, err error) {
	for _, n := range list {
		own, err := e.expand(n)
		if err != nil {
			return nil, err
		}
		all = append(all, own...)
	}
	if len(all) > maxClauses {
		return nil, refuse(list[0].place, "it is one of more than %d alternatives", maxClauses)
	}
	return all, nil
}

// cross returns what satisfies a clause of each list. Those that no kind of value can satisfy
// are left out.
func (e *expander) cross(a, b []clause, place string) ([]clause, error) {
	if err := e.stop(); err != nil {
		return nil, err
	}
	var all []clause
	for _, x := range a {
		for _, y := range b {
			if e.steps++; e.steps > maxStates {
				return nil, refuse(place, "there are too many combinations of its alternatives")
			}
			c := slices.Clone(x)
			for _, n := range y {
				if !slices.Contains(c, n) {
					c = append(c, n)
				}
			}
			if c.kinds() != 0 || len(c) == 0 {
				all = append(all, c)
			}
		}
	}
	if len(all) > maxClauses {
		return nil, refuse(place, "it has more than %d combinations of alternatives", maxClauses)
	}
	return all, nil
}

func (c clause) kinds() Kinds {
	kinds := allKinds
	for _, n := range c {
		kinds &= n.kinds
	}
	return kinds
}

// enum returns the values of the first schema that lists some; nil if none does. Whether the
// others list them, too, says lists.
func (c clause) enum() []*value {
	for _, n := range c {
		if n.enum != nil {
			return n.enum
		}
	}
	return nil
}

// lists reports whether all schemas that list values list this one.
func (c clause) lists(v *value) bool {
	for _, n := range c {
		if n.enum != nil && !n.listed[v.key()] {
			return false
		}
	}
	return true
}

// bounds returns the tightest bounds; nil for none.
func (c clause) bounds() (low, high *bound) {
	for _, n := range c {
		for _, b := range n.low {
			if low == nil || b.compare(low.decimal) > 0 || b.compare(low.decimal) == 0 && b.exclusive {
				low = &b
			}
		}
		for _, b := range n.high {
			if high == nil || b.compare(high.decimal) < 0 || b.compare(high.decimal) == 0 && b.exclusive {
				high = &b
			}
		}
	}
	return low, high
}

// lengths returns the bounds of a string's length; most is -1 for none.
func (c clause) lengths() (least, most int) {
	most = -1
	for _, n := range c {
		least = max(least, n.minLength)
		most = tighter(most, n.maxLength)
	}
	return least, most
}

// counts returns the bounds of an array's length; most is -1 for none.
func (c clause) counts() (least, most int) {
	most = -1
	for _, n := range c {
		least = max(least, n.minItems)
		most = tighter(most, n.maxItems)
	}
	return least, most
}

// tighter returns the smaller bound, where -1 is none.
func tighter(a, b int) int {
	switch {
	case a < 0:
		return b
	case b < 0:
		return a
	}
	return min(a, b)
}

// property returns what a property of this name has to satisfy.
func (c clause) property(name string) (g goal) {
	for _, n := range c {
		i := slices.IndexFunc(n.properties, func(p property) bool { return p.name == name })
		switch {
		case i >= 0:
			g = append(g, n.properties[i].node)
		case n.additional != nil:
			g = append(g, n.additional)
		}
	}
	return g
}

// names lists the properties in the order of the schemas; those that are only required
// come behind the others.
func (c clause) names() (names []string, required map[string]bool) {
	required = map[string]bool{}
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, n := range c {
		for _, p := range n.properties {
			add(p.name)
		}
	}
	for _, n := range c {
		for _, name := range n.required {
			required[name] = true
			add(name)
		}
	}
	return names, required
}

// additional returns what properties that no schema lists have to satisfy, and whether any
// schema says so.
func (c clause) additional() (g goal, said bool) {
	for _, n := range c {
		if n.additional != nil {
			g, said = append(g, n.additional), true
		}
	}
	return g, said
}

// item returns what the i-th item of an array has to satisfy.
func (c clause) item(i int) (g goal) {
	for _, n := range c {
		switch {
		case i < len(n.prefix):
			g = append(g, n.prefix[i])
		case n.items != nil:
			g = append(g, n.items)
		}
	}
	return g
}

// prefix is how many items have goals of their own.
func (c clause) prefix() (items int) {
	for _, n := range c {
		items = max(items, len(n.prefix))
	}
	return items
}
