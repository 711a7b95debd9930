package server

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
)

// division says which conversations are a candidate's. It never changes, but for its
// counts.
type division struct {
	candidate *servedSet
	mode      string // One of contract's Candidate constants.
	percent   int
	salt      string
	counts    *comparison
}

// mixtures are what requests for the candidate may need. One that only chooses needs none
// of what it chooses.
func (d *division) mixtures() engine.Set {
	all := d.candidate.mixtures()
	if d.mode != contract.CandidateObserve {
		return all
	}
	needs := d.candidate.strategy.Needs()
	chooses := engine.Set{Beginnings: all.Beginnings}
	if m, err := d.candidate.mixture(needs.With, nil); err == nil && !m.IsBase() { // Else the choice fails, which is counted.
		chooses.Mixtures = []engine.Mixture{m}
	}
	return chooses
}

// opening is what a conversation begins with, which all of its turns have in them: what the
// user says first. What a system says may be another each time, such as the date. Without
// messages each text is a conversation of its own.
func (q query) opening() string {
	for _, m := range q.messages {
		if m.Role == "user" {
			return m.Content
		}
	}
	if len(q.messages) > 0 {
		return q.messages[0].Content
	}
	return q.text
}

// place is where a conversation stands among 100, from 0: those below division.percent are
// the candidate's. It is the same for all turns of a conversation, in every pod, as long as
// its client calls it the same.
func (d *division) place(q query) int {
	h := sha256.New()
	write(h, d.salt)
	write(h, q.request.Salt)
	write(h, q.names)
	write(h, q.opening())
	_ = binary.Write(h, binary.LittleEndian, q.tokens) // A hash does not fail.
	place, _ := bits.Mul64(binary.LittleEndian.Uint64(h.Sum(nil)), 100)
	return int(place)
}

// write adds a text to a hash, with where it ends.
func write(h hash.Hash, text string) {
	_ = binary.Write(h, binary.LittleEndian, uint64(len(text))) // As above.
	h.Write([]byte(text))
}

// among finds a request's side of a division, nil for none. What a model name pins is the
// candidate's only if that has it; and which names there are is for the set to say.
func (t target) among(d *division, q query) target {
	if d == nil || t.set == nil {
		return t
	}
	t.division, t.side = d, contract.SideStable
	within := d.place(q) < d.percent
	switch {
	case !within:
	case d.mode == contract.CandidateObserve:
		t.watched = t.pinned == ""
	case t.pinned == "" || d.candidate.experts[t.pinned] != nil:
		t.set, t.side = d.candidate, contract.SideCandidate
	}
	return t
}

// shown is the side that clients are told: there are two while there is a canary.
func (t target) shown() string {
	if t.division == nil || t.division.mode != contract.CandidateCanary {
		return ""
	}
	return t.side
}
