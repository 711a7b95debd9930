package requestlog_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server/requestlog"
)

// clock is told what time it is.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)} }

func add(t *testing.T, l *requestlog.Log, id string, tallies ...*requestlog.Tally) {
	t.Helper()
	if err := l.Add(contract.RequestRecord{ID: id, Why: "it was asked for"}, nil, tallies); err != nil {
		t.Fatal(err)
	}
}

func state(t *testing.T, l *requestlog.Log, id string) requestlog.State {
	t.Helper()
	_, state, err := l.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// TestWhatIsKept adds more than is allowed, and waits longer.
func TestWhatIsKept(t *testing.T) {
	limits := requestlog.Limits{Requests: 3, Bytes: 1 << 20, Age: time.Hour, MarkedAge: 24 * time.Hour}
	for name, c := range map[string]struct {
		limits requestlog.Limits
		do     func(*testing.T, *requestlog.Log, *clock)
		want   []string // Of a to e.
	}{
		"all that fit": {limits, func(t *testing.T, l *requestlog.Log, _ *clock) { add(t, l, "a"); add(t, l, "b") }, []string{"a", "b"}},
		"the latest by number": {limits, func(t *testing.T, l *requestlog.Log, _ *clock) {
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				add(t, l, id)
			}
		}, []string{"c", "d", "e"}},
		"the latest by bytes": {requestlog.Limits{Requests: 100, Bytes: 2048, Age: time.Hour, MarkedAge: time.Hour}, func(t *testing.T, l *requestlog.Log, _ *clock) {
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				add(t, l, id)
			}
		}, []string{"c", "d", "e"}},
		"none that is larger than all may be": {requestlog.Limits{Requests: 100, Bytes: 100, Age: time.Hour, MarkedAge: time.Hour}, func(t *testing.T, l *requestlog.Log, _ *clock) {
			add(t, l, "a")
		}, nil},
		"the latest by time": {limits, func(t *testing.T, l *requestlog.Log, c *clock) {
			add(t, l, "a")
			c.at = c.at.Add(40 * time.Minute)
			add(t, l, "b")
			c.at = c.at.Add(40 * time.Minute)
		}, []string{"b"}},
		"what was marked, for longer": {limits, func(t *testing.T, l *requestlog.Log, c *clock) {
			add(t, l, "a")
			add(t, l, "b")
			if _, _, err := l.Mark("a", true, ""); err != nil {
				t.Fatal(err)
			}
			c.at = c.at.Add(23 * time.Hour)
			add(t, l, "c")
		}, []string{"a", "c"}},
		"what was marked, not for ever": {limits, func(t *testing.T, l *requestlog.Log, c *clock) {
			add(t, l, "a")
			if _, _, err := l.Mark("a", true, ""); err != nil {
				t.Fatal(err)
			}
			c.at = c.at.Add(25 * time.Hour)
		}, nil},
		"what was marked beside as many that were not": {limits, func(t *testing.T, l *requestlog.Log, _ *clock) {
			add(t, l, "a")
			if _, _, err := l.Mark("a", false, ""); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"b", "c", "d", "e"} {
				add(t, l, id)
			}
		}, []string{"a", "c", "d", "e"}},
		"the last of an id": {limits, func(t *testing.T, l *requestlog.Log, _ *clock) {
			for range 5 {
				add(t, l, "a")
			}
			add(t, l, "b")
		}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			at := newClock()
			l := requestlog.New(c.limits, at.now)
			c.do(t, l, at)
			var got []string
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				if state(t, l, id) == requestlog.Answered {
					got = append(got, id)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			n, bytes := l.Usage()
			if n != len(c.want) || (bytes > 0) != (n > 0) || bytes > 2*c.limits.Bytes {
				t.Errorf("%d requests of %d bytes", n, bytes)
			}
		})
	}
}

// TestOutcomesAreCountedOnce marks, marks again, and thinks otherwise.
func TestOutcomesAreCountedOnce(t *testing.T) {
	at := newClock()
	l := requestlog.New(requestlog.Default, at.now)
	var math, code requestlog.Tally
	add(t, l, "a", &math, &code)
	add(t, l, "b", &math)
	if math.Count() != nil {
		t.Errorf("before any: %+v", math.Count())
	}
	for i, c := range []struct {
		id      string
		right   bool
		comment string
		math    contract.Outcomes
		code    *contract.Outcomes
	}{
		{"a", true, "", contract.Outcomes{Right: 1}, &contract.Outcomes{Right: 1}},
		{"a", true, "", contract.Outcomes{Right: 1}, &contract.Outcomes{Right: 1}},
		{"b", true, "", contract.Outcomes{Right: 2}, &contract.Outcomes{Right: 1}},
		{"a", false, "it is 5", contract.Outcomes{Right: 1, Wrong: 1}, &contract.Outcomes{Wrong: 1}},
		{"a", false, "it is 6", contract.Outcomes{Right: 1, Wrong: 1}, &contract.Outcomes{Wrong: 1}},
	} {
		at.at = at.at.Add(time.Minute)
		r, found, err := l.Mark(c.id, c.right, c.comment)
		if err != nil || found != requestlog.Answered || r.Outcome == nil || r.Outcome.Right != c.right || r.Outcome.Comment != c.comment {
			t.Fatalf("mark %d: %+v, %v, %v", i, r, found, err)
		}
		if diff := cmp.Diff(&c.math, math.Count()) + cmp.Diff(c.code, code.Count()); diff != "" {
			t.Errorf("after mark %d (-want +got):\n%s", i, diff)
		}
	}
	var order []string
	for m, err := range l.Marked() {
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, m.Record.ID+" "+m.Record.Outcome.Time.Format(time.TimeOnly))
	}
	if diff := cmp.Diff([]string{"b 12:03:00", "a 12:05:00"}, order); diff != "" {
		t.Errorf("marked (-want +got):\n%s", diff)
	}
	if _, found, err := l.Mark("c", true, ""); found != requestlog.Unknown || err != nil {
		t.Errorf("one that is not there: %v, %v", found, err)
	}
}

func TestWhatFailedIsNotMarked(t *testing.T) {
	l := requestlog.New(requestlog.Default, time.Now)
	var math requestlog.Tally
	if err := l.Add(contract.RequestRecord{ID: "a", Error: "client_gone"}, nil, []*requestlog.Tally{&math}); err != nil {
		t.Fatal(err)
	}
	r, found, err := l.Mark("a", true, "")
	if err != nil || found != requestlog.Failed || r.Outcome != nil || r.Error != "client_gone" || math.Count() != nil {
		t.Errorf("%+v, %v, %v, %+v", r, found, err, math.Count())
	}
}

func TestTextIsBounded(t *testing.T) {
	l := requestlog.New(requestlog.WithText, time.Now)
	for id, n := range map[string]int{"short": 10, "long": requestlog.MaxText} {
		if err := l.Add(contract.RequestRecord{ID: id}, &requestlog.Text{Prompt: strings.Repeat("x", n), Answer: "y"}, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Mark(id, true, ""); err != nil {
			t.Fatal(err)
		}
	}
	for m, err := range l.Marked() {
		if err != nil || (m.Text != nil) != (m.Record.ID == "short") {
			t.Errorf("%s has the text %+v (%v)", m.Record.ID, m.Text, err)
		}
	}
}

// TestManyAtOnce is for the race detector, and for what the counts must come to.
func TestManyAtOnce(t *testing.T) {
	l := requestlog.New(requestlog.Limits{Requests: 50, Bytes: 1 << 20, Age: time.Hour, MarkedAge: time.Hour}, time.Now)
	var math requestlog.Tally
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 25 {
				id := fmt.Sprintf("%d-%d", worker, i)
				if err := l.Add(contract.RequestRecord{ID: id}, nil, []*requestlog.Tally{&math}); err != nil {
					t.Error(err)
				}
				for _, right := range []bool{true, false, true} {
					if _, _, err := l.Mark(id, right, ""); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n, _ := l.Usage(); n > 100 || math.Count() == nil || math.Count().Right > 100 {
		t.Errorf("%d requests, %+v", n, math.Count())
	}
}
