package constrain

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// pattern returns the automaton of a pattern, once.
func (e *expander) pattern(p pattern) (*dfa, error) {
	if d := e.tests[p.expression]; d != nil {
		return d, nil
	}
	d, err := compilePattern(p, e.stop)
	if err == nil {
		e.tests[p.expression] = d
	}
	return d, err
}

// compilePattern makes an automaton that accepts the texts in which a regular expression has
// a match.
func compilePattern(p pattern, stop func() error) (*dfa, error) {
	if len(p.expression) > maxExpression {
		return nil, refuse(p.place, "it has more than %d bytes", maxExpression)
	}
	parsed, err := syntax.Parse(unicodeEscapes(p.expression), syntax.Perl)
	if err != nil {
		return nil, refuse(p.place, "the regular expression %q is not supported: %v", short(p.expression), err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, refuse(p.place, "the regular expression %q is not supported: %v", short(p.expression), err)
	}
	for _, in := range prog.Inst {
		if in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			return nil, refuse(p.place, "the regular expression %q is not supported: it has a boundary of words or lines", short(p.expression))
		}
	}
	return (&subsets{prog: prog, place: p.place, stop: stop, ids: map[string]int32{}}).build()
}

// unicodeEscapes spells \uXXXX, which ECMAScript has, as \x{XXXX}.
func unicodeEscapes(expression string) string {
	var b strings.Builder
	for i := 0; i < len(expression); i++ {
		switch {
		case expression[i] != '\\' || i+1 == len(expression):
			b.WriteByte(expression[i])
		case expression[i+1] == 'u' && i+6 <= len(expression) && strings.Trim(expression[i+2:i+6], "0123456789abcdefABCDEF") == "":
			b.WriteString(`\x{` + expression[i+2:i+6] + `}`)
			i += 5
		default:
			b.WriteString(expression[i : i+2])
			i++
		}
	}
	return b.String()
}

// subsets makes a deterministic automaton of a program: a state is the set of instructions
// that wait for a character.
type subsets struct {
	prog  *syntax.Prog
	place string
	stop  func() error

	d      dfa
	ids    map[string]int32
	sets   [][]uint32 // By state; nil is the state that has matched.
	limits []rune     // Where ranges of characters begin that no instruction tells apart.
	seen   []bool     // Scratch of closure.
}

func (s *subsets) build() (*dfa, error) {
	s.findLimits()
	s.seen = make([]bool, len(s.prog.Inst))
	// In the first state the text begins.
	s.state(s.closure(nil, uint32(s.prog.Start), syntax.EmptyBeginText))
	for at := 0; at < len(s.sets); at++ {
		if err := s.stop(); err != nil {
			return nil, err
		}
		var moves []move
		for i, lo := range s.limits {
			hi := rune(utf8.MaxRune)
			if i+1 < len(s.limits) {
				hi = s.limits[i+1] - 1
			}
			to := s.state(s.after(s.sets[at], lo))
			if last := len(moves) - 1; last >= 0 && moves[last].to == to {
				moves[last].hi = hi
			} else {
				moves = append(moves, move{span{lo, hi}, to})
			}
		}
		s.d.states[at].moves = moves
		if len(s.sets) > maxDFA {
			return nil, refuse(s.place, "the regular expression needs more than %d states: make it simpler, or its repetitions smaller", maxDFA)
		}
	}
	return s.d.trimmed(), nil
}

// findLimits finds ranges of characters that no instruction tells apart.
func (s *subsets) findLimits() {
	s.limits = []rune{0}
	add := func(lo, hi rune) { s.limits = append(s.limits, lo, hi+1) }
	for _, in := range s.prog.Inst {
		switch in.Op {
		case syntax.InstRune, syntax.InstRune1:
			if len(in.Rune) == 1 {
				r := in.Rune[0]
				add(r, r)
				for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
					add(f, f)
				}
				continue
			}
			for i := 0; i+1 < len(in.Rune); i += 2 {
				add(in.Rune[i], in.Rune[i+1])
			}
		case syntax.InstRuneAnyNotNL:
			for _, r := range lineEnds {
				add(r, r)
			}
		}
	}
	slices.Sort(s.limits)
	s.limits = slices.DeleteFunc(slices.Compact(s.limits), func(r rune) bool { return r > utf8.MaxRune })
}

// lineEnds are what the point does not match in ECMAScript.
var lineEnds = []rune{'\n', '\r', '\u2028', '\u2029'}

// matched is the set of a state that has found a match: whatever follows, the text is fine.
var matched = []uint32{}

// state returns the state of a set.
func (s *subsets) state(set []uint32, found bool) int32 {
	if found {
		set = matched
	}
	key := make([]byte, 1, 1+4*len(set))
	if found {
		key[0] = 1
	}
	for _, pc := range set {
		key = binary.LittleEndian.AppendUint32(key, pc)
	}
	id, ok := s.ids[string(key)]
	if !ok {
		id = int32(len(s.sets))
		s.ids[string(key)] = id
		s.sets = append(s.sets, set)
		if found {
			s.sets[id] = nil
		}
		s.d.states = append(s.d.states, dfaState{accepts: found || s.matchesAtEnd(set)})
	}
	return id
}

// after returns the set after a character. A match may begin at any place.
func (s *subsets) after(set []uint32, r rune) (next []uint32, found bool) {
	if set == nil {
		return nil, true
	}
	for _, pc := range set {
		in := &s.prog.Inst[pc]
		if takes(in, r) {
			if next, found = s.closure(next, in.Out, 0); found {
				return nil, true
			}
		}
	}
	if next, found = s.closure(next, uint32(s.prog.Start), 0); found {
		return nil, true
	}
	if next == nil {
		next = []uint32{}
	}
	slices.Sort(next)
	return slices.Compact(next), false
}

func takes(in *syntax.Inst, r rune) bool {
	if in.Op == syntax.InstRuneAnyNotNL {
		return !slices.Contains(lineEnds, r)
	}
	switch in.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny:
		return in.MatchRune(r)
	default:
		return false
	}
}

// closure adds the instructions that wait for a character, or for the end of the text,
// once an instruction has been reached. found says that there is a match.
func (s *subsets) closure(set []uint32, pc uint32, holds syntax.EmptyOp) (all []uint32, found bool) {
	if set == nil {
		set = []uint32{}
	}
	work := []uint32{pc}
	clear(s.seen)
	for len(work) > 0 {
		pc, work = work[len(work)-1], work[:len(work)-1]
		if s.seen[pc] {
			continue
		}
		s.seen[pc] = true
		in := &s.prog.Inst[pc]
		switch in.Op {
		case syntax.InstMatch:
			return nil, true
		case syntax.InstAlt, syntax.InstAltMatch:
			work = append(work, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			work = append(work, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^holds == 0 {
				work = append(work, in.Out)
			} else if syntax.EmptyOp(in.Arg)&^holds == syntax.EmptyEndText {
				set = append(set, pc) // It may hold yet.
			}
		case syntax.InstFail:
		default:
			set = append(set, pc)
		}
	}
	slices.Sort(set)
	return slices.Compact(set), false
}

// matchesAtEnd reports whether there is a match if the text ends here.
func (s *subsets) matchesAtEnd(set []uint32) bool {
	for _, pc := range set {
		in := &s.prog.Inst[pc]
		if in.Op == syntax.InstEmptyWidth {
			if _, found := s.closure(nil, in.Out, syntax.EmptyEndText); found {
				return true
			}
		}
	}
	return false
}

// formats are the formats that are supported, as regular expressions. Leap seconds, which
// are right on two days of some years, are left out.
var formats = map[string]string{
	"date": "^" + date + "$", "time": "^" + clock + "$", "date-time": "^" + date + "T" + clock + "$",
	"uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
	"ipv4": `^` + octet + `(?:\.` + octet + `){3}$`,
}

const (
	// A day that every year has, or 29 February of a leap year.
	date = `(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))` +
		`|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)`
	clock = `(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])`
	octet = `(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])`
)
