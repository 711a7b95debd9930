package constrain

import (
	"cmp"
	"fmt"
	"slices"
)

// nfa is a grammar: rules that read bytes and call each other. No rule reads nothing.
type nfa struct {
	states []state
	rules  []rule
	root   int32 // A rule.
	// class maps bytes to classes that no state tells apart; bytes has one of each.
	class [256]uint8
	bytes []byte
}

// state is a position in a rule.
type state struct {
	edges []edge
	// returns says that the rule ends here.
	returns bool
}

// edge leads to a state of the same rule.
type edge struct {
	to     int32
	rule   int32 // Called on the way, or noRule.
	lo, hi byte  // Read on the way, if lo ≤ hi.
}

const noRule = -1

func (e *edge) reads() bool { return e.lo <= e.hi }

type rule struct {
	start, end int32
	// rank is above those of all rules that this one may call before it has read a byte.
	rank int32
}

func (n *nfa) size() int {
	bytes := 32 * len(n.states)
	for _, s := range n.states {
		bytes += 12 * cap(s.edges)
	}
	return bytes
}

// newState adds a state. Whoever adds many looks at full now and then.
func (n *nfa) newState() int32 {
	n.states = append(n.states, state{})
	return int32(len(n.states) - 1)
}

func (n *nfa) full() bool { return len(n.states) > maxStates }

func (n *nfa) newRule() int32 {
	r := rule{start: n.newState(), end: n.newState()}
	n.states[r.end].returns = true
	n.rules = append(n.rules, r)
	return int32(len(n.rules) - 1)
}

// skip leads from a state to another, and reads nothing.
func (n *nfa) skip(from, to int32) { n.add(from, edge{to: to, rule: noRule, lo: 1}) }

// read leads there by a byte of a range.
func (n *nfa) read(from, to int32, lo, hi byte) {
	n.add(from, edge{to: to, rule: noRule, lo: lo, hi: hi})
}

// call leads there by a rule.
func (n *nfa) call(from, to, rule int32) { n.add(from, edge{to: to, rule: rule, lo: 1}) }

func (n *nfa) add(from int32, e edge) { n.states[from].edges = append(n.states[from].edges, e) }

// text reads a text and returns where that leads.
func (n *nfa) text(from int32, text string) int32 {
	for i := range len(text) {
		next := n.newState()
		n.read(from, next, text[i], text[i])
		from = next
	}
	return from
}

// blank reads one blank, or nothing.
func (n *nfa) blank(from int32) int32 {
	next := n.newState()
	n.skip(from, next)
	n.read(from, next, ' ', ' ')
	return next
}

// adopt takes the rules of a finished grammar over, and returns its root.
func (n *nfa) adopt(other *nfa) int32 {
	states, rules := int32(len(n.states)), int32(len(n.rules))
	for _, s := range other.states {
		for i := range s.edges {
			e := &s.edges[i]
			if e.to += states; e.rule != noRule {
				e.rule += rules
			}
		}
		n.states = append(n.states, s)
	}
	for _, r := range other.rules {
		r.start, r.end = r.start+states, r.end+states
		n.rules = append(n.rules, r)
	}
	return other.root + rules
}

// finish removes what leads to no end, and computes ranks and classes of bytes. It reports
// whether anything is left.
func (n *nfa) finish() (alive bool, err error) {
	live := n.liveStates()
	for i := range n.states {
		s := &n.states[i]
		s.edges = slices.DeleteFunc(s.edges, func(e edge) bool {
			return !live[e.to] || e.rule != noRule && !live[n.rules[e.rule].start]
		})
	}
	if err := n.rank(); err != nil {
		return false, err
	}
	n.classify()
	return live[n.rules[n.root].start], nil
}

// liveStates finds the states from which their rule's end can be reached.
func (n *nfa) liveStates() []bool {
	live := make([]bool, len(n.states))
	type waiter struct {
		state int32
		edge  edge
	}
	// Whom to look at again once a state turns out to be live.
	waiters := make([][]waiter, len(n.states))
	for i, s := range n.states {
		for _, e := range s.edges {
			w := waiter{int32(i), e}
			waiters[e.to] = append(waiters[e.to], w)
			if e.rule != noRule {
				start := n.rules[e.rule].start
				waiters[start] = append(waiters[start], w)
			}
		}
	}
	var work []int32
	for i, s := range n.states {
		if s.returns {
			live[i] = true
			work = append(work, int32(i))
		}
	}
	for len(work) > 0 {
		at := work[len(work)-1]
		work = work[:len(work)-1]
		for _, w := range waiters[at] {
			if live[w.state] || !live[w.edge.to] || w.edge.rule != noRule && !live[n.rules[w.edge.rule].start] {
				continue
			}
			live[w.state] = true
			work = append(work, w.state)
		}
	}
	return live
}

// rank computes the rules' ranks.
func (n *nfa) rank() error {
	const unknown, busy = 0, -1
	var visit func(r int32) error
	visit = func(r int32) error {
		if n.rules[r].rank == busy {
			return fmt.Errorf("rule %d calls itself before it reads a byte", r)
		}
		if n.rules[r].rank != unknown {
			return nil
		}
		n.rules[r].rank = busy
		rank := int32(1)
		seen := map[int32]bool{n.rules[r].start: true}
		work := []int32{n.rules[r].start}
		for len(work) > 0 {
			at := work[len(work)-1]
			work = work[:len(work)-1]
			for _, e := range n.states[at].edges {
				switch {
				case e.reads():
				case e.rule != noRule:
					if err := visit(e.rule); err != nil {
						return err
					}
					rank = max(rank, n.rules[e.rule].rank+1)
				case !seen[e.to]:
					seen[e.to] = true
					work = append(work, e.to)
				}
			}
		}
		n.rules[r].rank = rank
		return nil
	}
	for r := range n.rules {
		if err := visit(int32(r)); err != nil {
			return err
		}
	}
	return nil
}

// classify divides bytes into classes.
func (n *nfa) classify() {
	var begins [257]bool
	for _, s := range n.states {
		for _, e := range s.edges {
			if e.reads() {
				begins[e.lo], begins[int(e.hi)+1] = true, true
			}
		}
	}
	for b := range 256 {
		if b == 0 || begins[b] {
			n.bytes = append(n.bytes, byte(b))
		}
		n.class[b] = uint8(len(n.bytes) - 1)
	}
}

// span is a range of characters.
type span struct{ lo, hi rune }

// surrogates are no characters.
const surrogateMin, surrogateMax = 0xd800, 0xdfff

// characters reads one character of a range, in UTF-8.
func (n *nfa) characters(from, to int32, s span) {
	for _, limit := range []rune{0x7f, 0x7ff, surrogateMin - 1, surrogateMax, 0xffff, 0x10ffff} {
		if s.lo > s.hi || s.lo > limit {
			continue
		}
		part := span{s.lo, min(s.hi, limit)}
		if limit != surrogateMax {
			n.encoded(from, to, part)
		}
		s.lo = part.hi + 1
	}
}

// encoded reads one of a range of characters that have encodings of one length. It cuts the
// range until each byte of the encoding has a range by itself.
func (n *nfa) encoded(from, to int32, s span) {
	lo, hi := []byte(string(s.lo)), []byte(string(s.hi))
	for i := 1; i < len(lo); i++ {
		mask := rune(1)<<(6*i) - 1
		if s.lo&^mask == s.hi&^mask {
			continue
		}
		if s.lo&mask != 0 {
			n.encoded(from, to, span{s.lo, s.lo | mask})
			n.encoded(from, to, span{(s.lo | mask) + 1, s.hi})
			return
		}
		if s.hi&mask != mask {
			n.encoded(from, to, span{s.lo, s.hi&^mask - 1})
			n.encoded(from, to, span{s.hi &^ mask, s.hi})
			return
		}
	}
	for i := range lo {
		next := to
		if i < len(lo)-1 {
			next = n.newState()
		}
		n.read(from, next, lo[i], hi[i])
		from = next
	}
}

// joined sorts ranges and joins those that touch.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := spans[:0:0]
	for _, s := range spans {
		if last := len(out) - 1; last >= 0 && s.lo <= out[last].hi+1 {
			out[last].hi = max(out[last].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}
