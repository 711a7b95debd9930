// Package requestlog keeps how requests were answered, and what their clients thought of it:
// for a bounded time, in bounded memory, and nowhere else.
package requestlog

import (
	"bytes"
	"container/list"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// Limits bound what is kept. Requests that were marked are kept longer than those that were
// not, by limits of their own: Requests and Bytes count for each of the two alone.
type Limits struct {
	// Requests is how many there are at most.
	Requests int
	// Bytes is what they take at most, as JSON.
	Bytes int64
	// Age is how long those are kept that nobody has marked, MarkedAge the others.
	Age, MarkedAge time.Duration
}

// Default keeps some thousands of requests: one is about 700 bytes.
var Default = Limits{Requests: 4096, Bytes: 4 << 20, Age: time.Hour, MarkedAge: 24 * time.Hour}

// WithText is Default where the text of requests is kept, too.
var WithText = Limits{Requests: 4096, Bytes: 32 << 20, Age: time.Hour, MarkedAge: 24 * time.Hour}

// MaxText bounds the text of one request and its answer, in bytes of JSON: of more none is
// kept.
const MaxText = 64 << 10

// Most is how many bytes a log of these limits takes at most.
func (l Limits) Most() int64 { return 2 * l.Bytes }

// String says what is kept, for people who look for what is not.
func (l Limits) String() string {
	return fmt.Sprintf("the last %d answers that came to %d MiB, for %v, and as many that were marked, for %v", l.Requests, l.Bytes>>20, l.Age, l.MarkedAge)
}

// Text is what a client has written and the model has answered.
type Text struct {
	// Messages are those of a conversation; nil for a text that was completed, which is
	// Prompt.
	Messages []Message `json:"messages,omitempty"`
	Prompt   string    `json:"prompt,omitempty"`
	Answer   string    `json:"answer"`
}

// Message is one of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Tally counts outcomes of one expert, or of one side.
type Tally struct {
	mu    sync.Mutex
	count contract.Outcomes
}

// Count returns what has been counted; nil where that is nothing.
func (t *Tally) Count() *contract.Outcomes {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == (contract.Outcomes{}) {
		return nil
	}
	count := t.count
	return &count
}

// move takes back what was said before, if anything was, and counts what is said now.
func (t *Tally) move(was *contract.Outcome, is contract.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was != nil {
		*t.of(was.Right)--
	}
	*t.of(is.Right)++
}

func (t *Tally) of(right bool) *int64 {
	if right {
		return &t.count.Right
	}
	return &t.count.Wrong
}

// Log is what is kept. Make it by New.
type Log struct {
	limits Limits
	now    func() time.Time

	mu      sync.Mutex
	entries map[string]*entry
	// recent were not marked, marked were: each in the order in which they came there.
	recent, marked *list.List
	recentBytes    int64
	markedBytes    int64
}

// entry is one request. What is said of it is kept as JSON: small, of a known size, and
// nothing for the collector to look through.
type entry struct {
	id      string
	since   time.Time // In its list.
	record  []byte
	text    []byte // Nil where none is kept.
	tallies []*Tally
	failed  bool
	outcome *contract.Outcome
	place   *list.Element
}

func (e *entry) bytes() int64 {
	const overhead = 256 // Of the entry itself and what points to it.
	n := overhead + len(e.id) + len(e.record) + len(e.text)
	if e.outcome != nil {
		n += len(e.outcome.Comment)
	}
	return int64(n)
}

// New returns an empty log. The time is told by now.
func New(limits Limits, now func() time.Time) *Log {
	return &Log{limits: limits, now: now, entries: map[string]*entry{}, recent: list.New(), marked: list.New()}
}

// Limits returns what bounds the log.
func (l *Log) Limits() Limits { return l.limits }

// Add keeps a request, whose outcome will be counted by tallies. Of one with the same id, which
// a client has given twice, nothing is kept any more.
func (l *Log) Add(r contract.RequestRecord, text *Text, tallies []*Tally) error {
	r.Outcome = nil
	e := &entry{id: r.ID, tallies: tallies, failed: r.Error != ""}
	var err error
	if e.record, err = json.Marshal(r); err != nil {
		return fmt.Errorf("keeping request %s: %w", r.ID, err)
	}
	if text != nil {
		if e.text, err = json.Marshal(text); err != nil {
			return fmt.Errorf("keeping the text of request %s: %w", r.ID, err)
		}
		if len(e.text) > MaxText {
			e.text = nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	if same := l.entries[e.id]; same != nil {
		l.remove(same)
	}
	l.put(e)
	return nil
}

// put appends an entry to the list where it belongs and makes room for it. l.mu is held.
func (l *Log) put(e *entry) {
	e.since = l.now()
	entries, used := l.listOf(e)
	e.place = entries.PushBack(e)
	*used += e.bytes()
	l.entries[e.id] = e
	for entries.Len() > l.limits.Requests || *used > l.limits.Bytes {
		l.remove(entries.Front().Value.(*entry))
	}
}

// remove forgets an entry. l.mu is held.
func (l *Log) remove(e *entry) {
	entries, used := l.listOf(e)
	entries.Remove(e.place)
	*used -= e.bytes()
	delete(l.entries, e.id)
}

func (l *Log) listOf(e *entry) (entries *list.List, used *int64) {
	if e.outcome != nil {
		return l.marked, &l.markedBytes
	}
	return l.recent, &l.recentBytes
}

// expire forgets what is too old. l.mu is held.
func (l *Log) expire() {
	now := l.now()
	for entries, age := range map[*list.List]time.Duration{l.recent: l.limits.Age, l.marked: l.limits.MarkedAge} {
		for front := entries.Front(); front != nil && now.Sub(front.Value.(*entry).since) > age; front = entries.Front() {
			l.remove(front.Value.(*entry))
		}
	}
}

// told returns what is known of a request.
func (e *entry) told() (contract.RequestRecord, error) {
	var r contract.RequestRecord
	if err := json.Unmarshal(e.record, &r); err != nil {
		return r, fmt.Errorf("reading what is kept of request %s: %w", e.id, err)
	}
	if e.outcome != nil {
		outcome := *e.outcome
		r.Outcome = &outcome
	}
	return r, nil
}

// State says whether a request is there.
type State int

const (
	// Unknown is not there, or not any more.
	Unknown State = iota
	// Failed is there and had no answer.
	Failed
	// Answered is there and had one.
	Answered
)

// Find returns what is kept of a request.
func (l *Log) Find(id string) (contract.RequestRecord, State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	e := l.entries[id]
	if e == nil {
		return contract.RequestRecord{}, Unknown, nil
	}
	r, err := e.told()
	return r, e.state(), err
}

func (e *entry) state() State {
	if e.failed {
		return Failed
	}
	return Answered
}

// Mark writes down what a client thinks of an answer. What it has said before is forgotten, and
// the same again changes nothing. Of a request that was not answered, nothing is.
func (l *Log) Mark(id string, right bool, comment string) (contract.RequestRecord, State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	e := l.entries[id]
	if e == nil {
		return contract.RequestRecord{}, Unknown, nil
	}
	if was := e.outcome; e.state() == Answered && (was == nil || was.Right != right || was.Comment != comment) {
		is := contract.Outcome{Right: right, Comment: comment, Time: l.now().UTC()}
		for _, t := range e.tallies {
			t.move(was, is)
		}
		l.remove(e)
		e.outcome = &is
		l.put(e)
	}
	r, err := e.told()
	return r, e.state(), err
}

// Marked is a request that was marked, with its text where that was kept.
type Marked struct {
	Record contract.RequestRecord
	Text   *Text
}

// Marked yields what was marked when it is called, the oldest first, until the first error.
func (l *Log) Marked() iter.Seq2[Marked, error] {
	l.mu.Lock()
	l.expire()
	kept := make([]entry, 0, l.marked.Len())
	for place := l.marked.Front(); place != nil; place = place.Next() {
		kept = append(kept, *place.Value.(*entry))
	}
	l.mu.Unlock()
	return func(yield func(Marked, error) bool) {
		for e := range slices.Values(kept) {
			var m Marked
			var err error
			if m.Record, err = e.told(); err == nil && e.text != nil {
				m.Text = &Text{}
				if err = json.NewDecoder(bytes.NewReader(e.text)).Decode(m.Text); err != nil {
					err = fmt.Errorf("reading the text of request %s: %w", e.id, err)
				}
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Usage says how many requests are kept, and what they take in bytes.
func (l *Log) Usage() (requests int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	return len(l.entries), l.recentBytes + l.markedBytes
}
