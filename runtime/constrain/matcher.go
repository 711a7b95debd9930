package constrain

import (
	"fmt"
	"slices"
)

// Grammar is a compiled schema. It may be used concurrently.
type Grammar struct {
	vocabulary *Vocabulary
	machine    *machine
	size       int // Bytes of the automaton.
}

// Matcher follows one answer. It is not safe for concurrent use.
type Matcher struct {
	grammar *Grammar
	at      *position
	stops   []int32
	ended   bool
	mask    *Mask // Of at, stop tokens included; nil before it is asked for.
}

// NewMatcher begins an answer. Stop tokens are allowed where the text may end.
func (g *Grammar) NewMatcher(stops []int32) *Matcher {
	g.machine.mu.Lock()
	defer g.machine.mu.Unlock()
	return &Matcher{grammar: g, at: g.machine.start(), stops: stops}
}

// Again begins another answer by the same grammar.
func (m *Matcher) Again() *Matcher { return m.grammar.NewMatcher(m.stops) }

// Allowed returns the tokens that may come next. If there are none the error is ErrStuck,
// and ErrTooComplex if the schema is too ambiguous.
func (m *Matcher) Allowed() (*Mask, error) {
	if m.mask != nil {
		return m.mask, nil
	}
	machine := m.grammar.machine
	machine.mu.Lock()
	defer machine.mu.Unlock()
	m.refresh()
	mask, err := m.grammar.vocabulary.mask(machine, m.at)
	if err != nil {
		return nil, err
	}
	if m.at.ends {
		mask = mask.with(m.stops)
	}
	if mask.Count == 0 {
		return nil, ErrStuck
	}
	m.mask = mask
	return mask, nil
}

// refresh makes room for more, and keeps the place.
func (m *Matcher) refresh() {
	m.grammar.machine.makeRoom()
	m.at = m.grammar.machine.current(m.at)
}

// Accept takes the next token, which must be allowed.
func (m *Matcher) Accept(token int32) error {
	if m.ended {
		return fmt.Errorf("token %d comes behind the end", token)
	}
	machine := m.grammar.machine
	machine.mu.Lock()
	defer machine.mu.Unlock()
	m.refresh()
	if m.at.ends && slices.Contains(m.stops, token) {
		m.ended = true
		return nil
	}
	text := m.grammar.vocabulary.spelling(token)
	if len(text) == 0 {
		return fmt.Errorf("token %d is not allowed here", token)
	}
	at := m.at
	for _, b := range []byte(text) {
		at = machine.step(at, b)
		if at.err != nil {
			return at.err
		}
		if at.dead() {
			return fmt.Errorf("token %d is not allowed here", token)
		}
	}
	m.at, m.mask = at, nil
	return nil
}

// MayEnd reports whether the text is complete.
func (m *Matcher) MayEnd() bool { return m.ended || m.at.ends }

// Ended reports whether nothing can follow: a stop token has been taken, or the text is
// complete and cannot go on.
func (m *Matcher) Ended() bool { return m.ended || m.at.ends && len(m.at.configs) == 0 }

// Matches reports whether the grammar allows a whole text.
func (g *Grammar) Matches(text []byte) (bool, error) {
	m := g.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.start()
	for _, b := range text {
		if at = m.step(at, b); at.err != nil || at.dead() {
			return false, at.err
		}
	}
	m.makeRoom()
	return at.ends, nil
}
