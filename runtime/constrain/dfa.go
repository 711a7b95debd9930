package constrain

import (
	"slices"
	"sort"
	"unicode/utf8"
)

// dfa is an automaton over characters. It begins in its first state.
type dfa struct {
	states []dfaState
}

type dfaState struct {
	accepts bool
	moves   []move // Sorted; they do not overlap.
}

// move leads to a state by any character of a range.
type move struct {
	span
	to int32
}

// next returns where a character leads; −1 is nowhere.
func (s *dfaState) next(r rune) int32 {
	i := sort.Search(len(s.moves), func(i int) bool { return s.moves[i].hi >= r })
	if i == len(s.moves) || s.moves[i].lo > r {
		return -1
	}
	return s.moves[i].to
}

func (d *dfa) matches(text string) bool {
	at := int32(0)
	for _, r := range text {
		if at = d.states[at].next(r); at < 0 {
			return false
		}
	}
	return d.states[at].accepts
}

// and accepts what both accept.
func (d *dfa) and(other *dfa, place string) (*dfa, error) { return d.within(other, place, maxDFA) }

// within accepts what both accept, if that takes no more states than most.
func (d *dfa) within(other *dfa, place string, most int) (*dfa, error) {
	type pair struct{ a, b int32 }
	both := &dfa{}
	ids := map[pair]int32{}
	var work []pair
	id := func(p pair) int32 {
		i, ok := ids[p]
		if !ok {
			i = int32(len(both.states))
			ids[p] = i
			both.states = append(both.states, dfaState{accepts: d.states[p.a].accepts && other.states[p.b].accepts})
			work = append(work, p)
		}
		return i
	}
	id(pair{0, 0})
	for at := 0; at < len(work); at++ {
		p := work[at]
		x, y := d.states[p.a].moves, other.states[p.b].moves
		var moves []move
		for len(x) > 0 && len(y) > 0 {
			if s := (span{max(x[0].lo, y[0].lo), min(x[0].hi, y[0].hi)}); s.lo <= s.hi {
				moves = append(moves, move{s, id(pair{x[0].to, y[0].to})})
			}
			if x[0].hi < y[0].hi {
				x = x[1:]
			} else {
				y = y[1:]
			}
		}
		both.states[at].moves = moves
		if len(both.states) > most {
			return nil, refuse(place, "together with what else is said of the text it needs more than %d states: make it simpler, or lengths smaller", most)
		}
	}
	return both.trimmed(), nil
}

// trimmed leaves out what leads to no end.
func (d *dfa) trimmed() *dfa {
	from := make([][]int32, len(d.states))
	live := make([]bool, len(d.states))
	var work []int32
	for i, s := range d.states {
		for _, m := range s.moves {
			from[m.to] = append(from[m.to], int32(i))
		}
		if s.accepts {
			live[i] = true
			work = append(work, int32(i))
		}
	}
	for len(work) > 0 {
		at := work[len(work)-1]
		work = work[:len(work)-1]
		for _, i := range from[at] {
			if !live[i] {
				live[i] = true
				work = append(work, i)
			}
		}
	}
	for i := range d.states {
		d.states[i].moves = slices.DeleteFunc(d.states[i].moves, func(m move) bool { return !live[m.to] })
	}
	return d
}

// lengthDFA accepts texts of so many characters; most is −1 for any number.
func lengthDFA(least, most int) *dfa {
	d := &dfa{}
	all := span{0, utf8.MaxRune}
	last := max(least, most)
	for i := range last + 1 {
		s := dfaState{accepts: i >= least && (most < 0 || i <= most)}
		if i < last {
			s.moves = []move{{all, int32(i + 1)}}
		} else if most < 0 {
			s.moves = []move{{all, int32(i)}}
		}
		d.states = append(d.states, s)
	}
	return d
}
