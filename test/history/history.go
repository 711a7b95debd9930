// Package history checks, after the fact, what a server of expert sets has told its clients:
// that no answer is by a set that was not offered then, that nobody was answered by an older set
// than before, and that no request was lost.
//
// A test records when it offered each set and when it saw that set in use (Swap), and what each
// client asked and got (Request); Check finds what cannot have been. It knows nothing of how the
// server works. Times must be of one clock, such as those of one process.
package history

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Swap is one exchange of the set, of which the last one offered wins.
type Swap struct {
	// Digest of the set that was offered. One set may be offered several times, with others
	// between.
	Digest string
	// Beside is the digest of a second set that may answer as well, of which nothing says which
	// requests it gets: a candidate that was offered with the set, or what serves until the set
	// is loaded. Empty for none.
	Beside string
	// Offered is just before the server was told of it: it is used no earlier. InUse is when
	// it was known to be used: what was used before is used no more by a request that begins
	// later. Zero means that nobody saw it.
	Offered, InUse time.Time
}

// has reports whether the set of this digest may answer by the exchange.
func (s Swap) has(digest string) bool {
	return s.Digest == digest || s.Beside != "" && s.Beside == digest
}

// Request is one of a client's.
type Request struct {
	ID string
	// Connection names what sends one request after the other, each after the answer to the
	// one before; empty means that nothing is known of an order.
	Connection string
	// Sent is just before it was sent, Received just after the end of its answer; zero if
	// there was none.
	Sent, Received time.Time
	// Digest is that of the set that answered, as the answer says; empty for an answer that
	// says none.
	Digest string
	// Refused says that the server answered that it cannot: that is no loss.
	Refused bool
}

// Violation is something that cannot have been, or must not be.
type Violation struct {
	// Rule is one of the constants below.
	Rule    string
	Request string // Its ID.
	Why     string
}

// String words the violation.
func (v Violation) String() string {
	return fmt.Sprintf("%s: request %s: %s", v.Rule, v.Request, v.Why)
}

// Rules.
const (
	// RuleLost: a request has no answer.
	RuleLost = "lost"
	// RuleUnnamed: an answer does not say which set it is by.
	RuleUnnamed = "unnamed"
	// RuleUnknown: an answer is by a set that nobody ever offered.
	RuleUnknown = "unknown set"
	// RuleTime: an answer is by a set that was not offered yet when it came, or not used any
	// more when it was asked for.
	RuleTime = "not offered then"
	// RuleBackwards: an answer is by an older set than the one before on its connection.
	RuleBackwards = "backwards"
	// RuleRecord: the record makes no sense, so that nothing is known.
	RuleRecord = "record"
)

// Check returns what is wrong with a history, in the order of requests by when they were sent.
// Swaps are in the order in which they were offered.
func Check(swaps []Swap, requests []Request) []Violation {
	if wrong := checkSwaps(swaps); wrong != nil {
		return wrong
	}
	ordered := slices.SortedStableFunc(slices.Values(requests), func(a, b Request) int { return a.Sent.Compare(b.Sent) })
	var found []Violation
	seen := map[string]bool{}
	last := map[string]place{} // By connection.
	for _, r := range ordered {
		say := func(rule, format string, args ...any) {
			found = append(found, Violation{Rule: rule, Request: r.ID, Why: fmt.Sprintf(format, args...)})
		}
		if r.ID == "" || seen[r.ID] {
			say(RuleRecord, "its id is empty, or another's")
			continue
		}
		seen[r.ID] = true
		switch {
		case r.Received.IsZero() && !r.Refused:
			say(RuleLost, "it was sent at %s and never answered", clock(r.Sent))
			continue
		case r.Refused:
			continue
		case r.Received.Before(r.Sent):
			say(RuleRecord, "it was answered at %s, before it was sent at %s", clock(r.Received), clock(r.Sent))
			continue
		case r.Digest == "":
			say(RuleUnnamed, "its answer does not say which set it is by")
			continue
		}
		possible, why := places(swaps, r)
		if why != nil {
			found = append(found, *why)
			continue
		}
		before, known := last[r.Connection]
		if known && r.Sent.Before(before.received) {
			say(RuleRecord, "it was sent on %s at %s, before the answer to request %s came", r.Connection, clock(r.Sent), before.request)
			continue
		}
		// The oldest exchange that it can be by leaves those that follow the most freedom: if
		// there is an order that never goes back, this finds it.
		at, ok := slices.BinarySearch(possible, before.swap)
		if !ok && at == len(possible) {
			say(RuleBackwards, "it is by set %s of exchange %d, but request %s before it on %s by exchange %d or later",
				r.Digest, possible[len(possible)-1]+1, before.request, r.Connection, before.swap+1)
			continue
		}
		if r.Connection != "" {
			last[r.Connection] = place{swap: possible[at], request: r.ID, received: r.Received}
		}
	}
	return found
}

// place is how far a connection has come.
type place struct {
	swap     int
	request  string
	received time.Time
}

// checkSwaps says why nothing can be said of any request.
func checkSwaps(swaps []Swap) []Violation {
	wrong := func(format string, args ...any) []Violation {
		return []Violation{{Rule: RuleRecord, Why: fmt.Sprintf(format, args...)}}
	}
	for i, s := range swaps {
		switch {
		case s.Digest == "" || s.Offered.IsZero():
			return wrong("exchange %d has no digest or no time", i+1)
		case s.Beside == s.Digest:
			return wrong("exchange %d has one set twice", i+1)
		case i > 0 && s.Offered.Before(swaps[i-1].Offered):
			return wrong("exchange %d was offered before the one before it", i+1)
		case !s.InUse.IsZero() && s.InUse.Before(s.Offered):
			return wrong("exchange %d was in use before it was offered", i+1)
		}
	}
	return nil
}

// places are the exchanges that an answer can be by, in order: those of its set that were
// offered before the answer came, and not known to be replaced before the request was sent.
func places(swaps []Swap, r Request) ([]int, *Violation) {
	say := func(rule, format string, args ...any) *Violation {
		return &Violation{Rule: rule, Request: r.ID, Why: fmt.Sprintf(format, args...)}
	}
	// What is before the last exchange that was in use when the request was sent is over.
	first := 0
	for i, s := range swaps {
		if !s.InUse.IsZero() && !s.InUse.After(r.Sent) {
			first = i
		}
	}
	var possible []int
	known := false
	for i, s := range swaps {
		if !s.has(r.Digest) {
			continue
		}
		known = true
		if i >= first && !s.Offered.After(r.Received) {
			possible = append(possible, i)
		}
	}
	switch {
	case !known:
		return nil, say(RuleUnknown, "it is by set %s, which was never offered", r.Digest)
	case len(possible) == 0:
		return nil, say(RuleTime, "it is by set %s, which was not offered between %s, when it was sent, and %s, when it was answered; exchange %d was in use before",
			r.Digest, clock(r.Sent), clock(r.Received), first+1)
	}
	return possible, nil
}

func clock(t time.Time) string { return t.Format("15:04:05.000000") }

// Summary counts what a history has, so that a test can say whether it shows anything.
type Summary struct {
	Requests, Refused int
	// Sets is how many different sets have answered, Overlapping how many requests were in
	// flight while another set was offered and taken into use.
	Sets, Overlapping int
}

// Summarise counts.
func Summarise(swaps []Swap, requests []Request) Summary {
	var s Summary
	sets := map[string]bool{}
	for _, r := range requests {
		s.Requests++
		if r.Refused {
			s.Refused++
		} else if r.Digest != "" {
			sets[r.Digest] = true
		}
		if slices.ContainsFunc(swaps, func(w Swap) bool { return w.Offered.After(r.Sent) && !w.InUse.IsZero() && w.InUse.Before(r.Received) }) {
			s.Overlapping++
		}
	}
	s.Sets = len(slices.Collect(maps.Keys(sets)))
	return s
}

// Rules returns how many violations there are of each rule, for tests.
func Rules(found []Violation) map[string]int {
	counts := map[string]int{}
	for _, v := range found {
		counts[v.Rule]++
	}
	return counts
}
