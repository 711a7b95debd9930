package constrain

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"slices"
	"sync"
)

// machine runs a grammar: it memoises states and transitions, as far as memory allows. The
// lock is held by whoever uses it.
type machine struct {
	grammar *nfa

	mu         sync.Mutex
	generation int // Grows when what is memoised is forgotten.
	states     map[string]*position
	frames     map[string]*frame
	lastFrame  uint64
	bytes      int
	none       *position // What has no continuation.

	// Scratch of close.
	seen    map[config]bool
	work    []config
	pending map[int32][]place
}

// frame is where a rule returns to: one place for each of those that called the rule when
// it began. nil is the end of the text.
type frame struct {
	id     uint64 // In its generation.
	places []place
}

// place is a state of a rule, with where that rule returns to.
type place struct {
	to    int32
	under *frame
}

// config is a position in the grammar.
type config struct {
	at    int32
	frame *frame
}

// position is what is known of a text: all that it may go on with. It is the same object
// for texts with the same continuations, within a generation.
type position struct {
	generation int
	configs    []config // Those that read a byte next.
	ends       bool     // The text may end here.
	next       []*position
	// mask and kept belong to the vocabulary's cache, and are guarded by its lock.
	mask *Mask
	kept *list.Element
	err  error
}

// dead reports whether nothing may follow, not even the end.
func (p *position) dead() bool { return len(p.configs) == 0 && !p.ends && p.err == nil }

func newMachine(grammar *nfa) *machine {
	m := &machine{grammar: grammar, seen: map[config]bool{}, pending: map[int32][]place{}}
	m.forget()
	return m
}

// forget makes room. Positions that are still in use stay as they are; see current.
func (m *machine) forget() {
	m.generation++
	m.states, m.frames, m.bytes = map[string]*position{}, map[string]*frame{}, 0
	m.none = &position{generation: m.generation}
}

// start returns the position of the empty text.
func (m *machine) start() *position {
	return m.close([]config{{m.grammar.rules[m.grammar.root].start, nil}})
}

// current returns a position that belongs to the present generation.
func (m *machine) current(p *position) *position {
	if p.generation == m.generation {
		return p
	}
	moved := map[*frame]*frame{}
	configs := make([]config, len(p.configs))
	for i, c := range p.configs {
		configs[i] = config{c.at, m.moved(c.frame, moved)}
	}
	return m.intern(configs, p.ends)
}

// moved returns an equal frame of the present generation.
func (m *machine) moved(f *frame, known map[*frame]*frame) *frame {
	if f == nil {
		return nil
	}
	if same := known[f]; same != nil {
		return same
	}
	places := make([]place, len(f.places))
	for i, p := range f.places {
		places[i] = place{p.to, m.moved(p.under, known)}
	}
	same := m.frame(places)
	known[f] = same
	return same
}

// step returns the position after one more byte.
func (m *machine) step(p *position, b byte) *position {
	class := m.grammar.class[b]
	if next := p.next[class]; next != nil {
		return next
	}
	b = m.grammar.bytes[class]
	var reached []config
	for _, c := range p.configs {
		for _, e := range m.grammar.states[c.at].edges {
			if e.lo <= b && b <= e.hi {
				reached = append(reached, config{e.to, c.frame})
			}
		}
	}
	next := m.none
	if len(reached) > 0 {
		next = m.close(reached)
	}
	p.next[class] = next
	return next
}

// close follows what reads nothing. Of all calls of a rule at this place in the text there is
// one frame, which is complete only once nobody can call the rule any more: so rules begin by
// falling rank.
func (m *machine) close(reached []config) *position {
	clear(m.seen)
	clear(m.pending)
	var configs []config
	ends := false
	m.work = m.work[:0]
	push := func(c config) {
		if !m.seen[c] {
			m.seen[c] = true
			m.work = append(m.work, c)
		}
	}
	for _, c := range reached {
		push(c)
	}
	for {
		for len(m.work) > 0 {
			c := m.work[len(m.work)-1]
			m.work = m.work[:len(m.work)-1]
			s := &m.grammar.states[c.at]
			reads := false
			for _, e := range s.edges {
				switch {
				case e.reads():
					reads = true
				case e.rule != noRule:
					m.pending[e.rule] = append(m.pending[e.rule], place{e.to, c.frame})
				default:
					push(config{e.to, c.frame})
				}
			}
			if reads {
				configs = append(configs, c)
			}
			switch {
			case !s.returns:
			case c.frame == nil:
				ends = true
			default:
				for _, p := range c.frame.places {
					push(config{p.to, p.under})
				}
			}
			if len(m.seen) > maxConfigs {
				return &position{generation: m.generation, err: ErrTooComplex}
			}
		}
		if len(m.pending) == 0 {
			break
		}
		r := int32(noRule)
		for candidate := range m.pending {
			if r == noRule || m.grammar.rules[candidate].rank > m.grammar.rules[r].rank {
				r = candidate
			}
		}
		f := m.frame(m.pending[r])
		delete(m.pending, r)
		push(config{m.grammar.rules[r].start, f})
	}
	return m.intern(configs, ends)
}

func frameID(f *frame) uint64 {
	if f == nil {
		return 0
	}
	return f.id
}

// frame returns the frame of these places.
func (m *machine) frame(places []place) *frame {
	compare := func(a, b place) int {
		return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(frameID(a.under), frameID(b.under)))
	}
	slices.SortFunc(places, compare)
	places = slices.Compact(places)
	key := make([]byte, 0, 12*len(places))
	for _, p := range places {
		key = binary.LittleEndian.AppendUint32(key, uint32(p.to))
		key = binary.LittleEndian.AppendUint64(key, frameID(p.under))
	}
	if f := m.frames[string(key)]; f != nil {
		return f
	}
	m.lastFrame++
	f := &frame{id: m.lastFrame, places: slices.Clone(places)}
	m.frames[string(key)] = f
	m.bytes += len(key) + 16*len(places) + 64
	return f
}

// intern returns the position of these configurations.
func (m *machine) intern(configs []config, ends bool) *position {
	if len(configs) == 0 && !ends {
		return m.none
	}
	slices.SortFunc(configs, func(a, b config) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(frameID(a.frame), frameID(b.frame)))
	})
	key := make([]byte, 1, 1+12*len(configs))
	if ends {
		key[0] = 1
	}
	for _, c := range configs {
		key = binary.LittleEndian.AppendUint32(key, uint32(c.at))
		key = binary.LittleEndian.AppendUint64(key, frameID(c.frame))
	}
	if p := m.states[string(key)]; p != nil {
		return p
	}
	p := &position{
		generation: m.generation, configs: slices.Clone(configs), ends: ends,
		next: make([]*position, len(m.grammar.bytes)),
	}
	m.states[string(key)] = p
	m.bytes += len(key) + 16*len(configs) + 8*len(p.next) + 96
	return p
}

// makeRoom forgets what is memoised, if it has become too much. Positions that are kept must
// be looked up anew (current).
func (m *machine) makeRoom() {
	if m.bytes > machineBytes {
		m.forget()
	}
}
