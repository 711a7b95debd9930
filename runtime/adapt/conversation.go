package adapt

import (
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/transformersquared/operator/runtime/contract"
)

// Request is what a strategy chooses experts for.
type Request struct {
	// Turns are what the user has said in a conversation, the oldest first; the last one
	// is to be answered. A text that is to be completed is one turn.
	Turns []string
	// Prompt are the tokens that will be answered, for a strategy that reads them.
	Prompt []int32
	// Salt keeps what pass 1 reads and chooses to requests with the same one; see
	// engine.Request.
	Salt string
	// Fresh asks for pass 1 where its choice is remembered, too, to see how it comes
	// about, and for nothing to be remembered of it. The choice is the same.
	Fresh bool
}

// conversation lets a strategy that reads requests decide about conversations: which of
// the user's turns have a pass 1, and whether its choice replaces the one before.
//
// A choice is a function of the user's turns, the set and the mode. What is remembered of
// it saves pass 1 and decides nothing: another pod, or this one after it has forgotten,
// reads the turns again and chooses the same (but for what Switch kept for longer than
// turnsAsked). So what follows without the user saying anything, such as a tool's result,
// has no pass 1 and keeps its expert, whatever the mode is.
type conversation struct {
	Strategy
	mode   string
	margin float64
	memory memory
}

// turnsAsked bounds how many turns of a conversation of which nothing is remembered
// have a pass 1 when it goes on. Of a longer one the first turns decide what Keep keeps,
// and the last ones what Switch has switched to.
const turnsAsked = 16

// converse wraps a strategy whose pass 1 reads requests.
func converse(s Strategy, c *contract.Conversation) Strategy {
	w := &conversation{Strategy: s, mode: contract.ConversationEachTurn, memory: newMemory()}
	if c != nil {
		w.mode, w.margin = cmp.Or(c.Mode, w.mode), c.Margin
	}
	return w
}

// validateConversation checks what a set says of conversations. remembers says that its
// strategy's choices can stay.
func validateConversation(set contract.ExpertSet, remembers bool) problems {
	var problems problems
	c := set.Conversation
	if c == nil {
		return nil
	}
	modes := []string{contract.ConversationEachTurn, contract.ConversationKeep, contract.ConversationSwitch}
	problems.add(!remembers, "conversation is of no use to strategy %s, whose choices are not by the user's turns", set.Strategy)
	problems.add(c.Mode != "" && !slices.Contains(modes, c.Mode), "conversation %q is unknown: use %s", c.Mode, strings.Join(modes, " or "))
	problems.add(!(c.Margin >= 0 && c.Margin <= 1), // NaN is neither.
		"the margin of conversations is %v, must be from 0 to 1", c.Margin)
	problems.add(c.Margin != 0 && c.Mode != contract.ConversationSwitch, "a margin is for conversation %s alone", contract.ConversationSwitch)
	return problems
}

// Decide implements Strategy.
func (c *conversation) Decide(ctx context.Context, r Request) (Decision, error) {
	var d Decision
	turns := c.asked(len(r.Turns))
	if !r.Fresh {
		// What was chosen at the latest of these turns has all before it in it.
		for i, n := range slices.Backward(turns) {
			var found bool
			if d, found = c.memory.get(sum(r, n)); found {
				d.Remembered = true
				turns = turns[i+1:]
				break
			}
		}
	}
	for _, n := range turns {
		if c.mode == contract.ConversationKeep && chose(d) {
			break
		}
		next, err := c.Strategy.Decide(ctx, Request{Turns: r.Turns[:n], Salt: r.Salt})
		if err != nil {
			return Decision{}, err
		}
		next.Turn = n
		if c.keeps(d, next) {
			d.Remembered = false
		} else {
			d = next
		}
		if next.Cause == nil && !r.Fresh { // A failure is no choice: the same turn may be asked again.
			c.memory.put(sum(r, n), d)
		}
	}
	if n := len(r.Turns); d.Cause == nil && !r.Fresh && d.Turn < n {
		c.memory.put(sum(r, n), d)
	}
	return d.clone(), nil
}

// asked lists the turns, counted from 1, whose pass 1 a choice for the n-th may need.
func (c *conversation) asked(n int) []int {
	var turns []int
	switch c.mode {
	case contract.ConversationKeep:
		for i := 1; i < n && i < turnsAsked; i++ {
			turns = append(turns, i)
		}
	case contract.ConversationSwitch:
		for i := max(1, n-turnsAsked+1); i < n; i++ {
			turns = append(turns, i)
		}
	}
	return append(turns, n)
}

// keeps reports whether what a turn before chose stays, though the next one chose
// otherwise.
func (c *conversation) keeps(before, next Decision) bool {
	if c.mode != contract.ConversationSwitch || !chose(before) || next.Expert == before.Expert {
		return false
	}
	if next.Fallback != "" && next.Fallback != contract.FallbackOthers {
		return true // It did not choose.
	}
	return probability(next, next.Expert)-probability(next, before.Expert) < c.margin
}

// chose reports whether a decision is for an expert, by a pass 1 that chose it.
func chose(d Decision) bool { return d.Turn > 0 && d.Fallback == "" && d.Expert != contract.BaseName }

// probability is how likely pass 1 finds an expert, or those of a mixture together.
func probability(d Decision, expert string) float64 {
	p := 0.0
	for name := range strings.SplitSeq(expert, "+") {
		if name == contract.BaseName {
			name = contract.OthersLabel
		}
		p += d.Probabilities[name]
	}
	return p
}

// clone returns a decision that shares no map with d.
func (d Decision) clone() Decision {
	d.Weights, d.Layers, d.Probabilities = maps.Clone(d.Weights), maps.Clone(d.Layers), maps.Clone(d.Probabilities)
	return d
}

// remembered bounds how many turns a memory knows.
const remembered = 4096

// memory has the latest decisions, by turns. It may be used by many at a time.
type memory struct {
	mu      sync.Mutex
	entries map[[sha256.Size]byte]*list.Element
	order   *list.List // Of memories, the one that was used last first.
}

type remembrance struct {
	of       [sha256.Size]byte
	decision Decision
}

func newMemory() memory {
	return memory{entries: map[[sha256.Size]byte]*list.Element{}, order: list.New()}
}

// sum identifies the first n turns of a request, without keeping what they say.
func sum(r Request, n int) (s [sha256.Size]byte) {
	h := sha256.New()
	for _, text := range append([]string{r.Salt}, r.Turns[:n]...) {
		_ = binary.Write(h, binary.LittleEndian, uint64(len(text))) // A hash does not fail.
		h.Write([]byte(text))
	}
	h.Sum(s[:0])
	return s
}

func (m *memory) get(of [sha256.Size]byte) (Decision, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[of]
	if !ok {
		return Decision{}, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*remembrance).decision, true //nolint:forcetypeassert // The list has nothing else.
}

func (m *memory) put(of [sha256.Size]byte, d Decision) {
	d = d.clone()
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[of]; ok {
		e.Value.(*remembrance).decision = d //nolint:forcetypeassert // As above.
		m.order.MoveToFront(e)
		return
	}
	m.entries[of] = m.order.PushFront(&remembrance{of: of, decision: d})
	if m.order.Len() > remembered {
		last := m.order.Back()
		m.order.Remove(last)
		delete(m.entries, last.Value.(*remembrance).of) //nolint:forcetypeassert // As above.
	}
}
