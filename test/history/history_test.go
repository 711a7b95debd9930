package history_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/test/history"
)

// at is a moment of a made-up history, in milliseconds; 0 is none.
func at(ms int) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

func swap(digest string, offered, inUse int) history.Swap {
	return history.Swap{Digest: digest, Offered: at(offered), InUse: at(inUse)}
}

// asked is a request on a connection that a set answered.
func asked(id, connection string, sent, received int, digest string) history.Request {
	return history.Request{ID: id, Connection: connection, Sent: at(sent), Received: at(received), Digest: digest}
}

// TestCheck judges made-up histories: A is used from 10, B is offered at 100 and seen at 120, A
// again offered at 200 and seen at 220.
func TestCheck(t *testing.T) {
	// B tried beside A from 100, promoted at 200, and A alone again from 300.
	beside := []history.Swap{
		swap("A", 1, 10), {Digest: "A", Beside: "B", Offered: at(100), InUse: at(120)}, {Digest: "B", Beside: "A", Offered: at(200), InUse: at(220)}, swap("A", 300, 320),
	}
	usual := []history.Swap{swap("A", 1, 10), swap("B", 100, 120), swap("A", 200, 220)}
	for name, c := range map[string]struct {
		swaps    []history.Swap
		requests []history.Request
		want     []string // "request rule".
	}{
		"nothing": {nil, nil, nil},
		"each set in its time": {usual, []history.Request{
			asked("1", "x", 20, 30, "A"), asked("2", "x", 130, 140, "B"), asked("3", "x", 230, 240, "A"),
		}, nil},
		"either, while it changes": {usual, []history.Request{
			asked("1", "x", 90, 105, "A"), asked("2", "y", 90, 105, "B"), asked("3", "z", 105, 110, "A"), asked("4", "w", 110, 115, "B"),
		}, nil},
		"the old one, by a request in flight": {usual, []history.Request{asked("1", "x", 99, 5000, "A")}, nil},
		"a set before it was offered":         {usual, []history.Request{asked("1", "x", 20, 99, "B")}, []string{"1 not offered then"}},
		"a set after it was replaced":         {usual, []history.Request{asked("1", "x", 121, 130, "A")}, []string{"1 not offered then"}},
		"a set that was replaced twice":       {usual, []history.Request{asked("1", "x", 221, 230, "B")}, []string{"1 not offered then"}},
		"a set of nobody":                     {usual, []history.Request{asked("1", "x", 20, 30, "C")}, []string{"1 unknown set"}},
		"no set":                              {usual, []history.Request{asked("1", "x", 20, 30, "")}, []string{"1 unnamed"}},
		"no answer":                           {usual, []history.Request{asked("1", "x", 20, 0, "")}, []string{"1 lost"}},
		"a refusal":                           {usual, []history.Request{{ID: "1", Connection: "x", Sent: at(20), Received: at(21), Refused: true}}, nil},
		"back on one connection": {usual, []history.Request{
			asked("1", "x", 101, 105, "B"), asked("2", "x", 106, 110, "A"),
		}, []string{"2 backwards"}},
		"back on another": {usual, []history.Request{
			asked("1", "x", 101, 105, "B"), asked("2", "y", 106, 110, "A"),
		}, nil},
		"back without an order": {usual, []history.Request{
			asked("1", "", 101, 105, "B"), asked("2", "", 106, 110, "A"),
		}, nil},
		"back, because it was offered again": {usual, []history.Request{
			asked("1", "x", 195, 199, "B"), asked("2", "x", 201, 205, "A"),
		}, nil},
		"forth, back and forth while it changes twice": {
			[]history.Swap{swap("A", 1, 10), swap("B", 100, 0), swap("A", 101, 0), swap("B", 102, 0)},
			[]history.Request{
				asked("1", "x", 103, 104, "A"), asked("2", "x", 105, 106, "B"), asked("3", "x", 107, 108, "A"), asked("4", "x", 109, 110, "B"),
			}, nil,
		},
		"once more than there were changes": {
			[]history.Swap{swap("A", 1, 10), swap("B", 100, 0), swap("A", 101, 0)},
			[]history.Request{
				asked("1", "x", 103, 104, "A"), asked("2", "x", 105, 106, "B"), asked("3", "x", 107, 108, "A"), asked("4", "x", 109, 110, "B"),
			}, []string{"4 backwards"},
		},
		"either of two that were offered together": {beside, []history.Request{
			asked("1", "x", 130, 140, "B"), asked("2", "x", 141, 150, "A"), asked("3", "x", 151, 160, "B"), asked("4", "y", 230, 240, "B"),
		}, nil},
		"a candidate before it was offered": {beside, []history.Request{asked("1", "x", 20, 99, "B")}, []string{"1 not offered then"}},
		"a candidate that was withdrawn":    {beside, []history.Request{asked("1", "x", 321, 330, "B")}, []string{"1 not offered then"}},
		"one that was in flight then":       {beside, []history.Request{asked("1", "x", 299, 5000, "B")}, nil},
		"one set twice":                     {[]history.Swap{{Digest: "A", Beside: "A", Offered: at(10)}}, nil, []string{" record"}},
		"what is not in order": {usual, []history.Request{
			asked("2", "x", 130, 140, "B"), asked("1", "x", 20, 30, "A"),
		}, nil},
		"one id twice": {usual, []history.Request{asked("1", "x", 20, 30, "A"), asked("1", "x", 40, 50, "A")}, []string{"1 record"}},
		"two at once on one connection": {usual, []history.Request{
			asked("1", "x", 20, 50, "A"), asked("2", "x", 30, 40, "A"),
		}, []string{"2 record"}},
		"answered before it was asked": {usual, []history.Request{asked("1", "x", 30, 20, "A")}, []string{"1 record"}},
		"exchanges out of order":       {[]history.Swap{swap("A", 10, 20), swap("B", 5, 30)}, []history.Request{asked("1", "x", 30, 20, "A")}, []string{" record"}},
		"used before it was offered":   {[]history.Swap{swap("A", 10, 5)}, nil, []string{" record"}},
		"an exchange without a set":    {[]history.Swap{swap("", 10, 20)}, nil, []string{" record"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range history.Check(c.swaps, c.requests) {
				got = append(got, v.Request+" "+v.Rule)
				if v.Why == "" || !strings.HasPrefix(v.String(), v.Rule+": request "+v.Request) {
					t.Errorf("violation %q says too little", v)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRecorder records a history that is as it should be, and one that is not.
func TestRecorder(t *testing.T) {
	ms := 0 // Another each time that somebody looks.
	r := history.Recorder{Now: func() time.Time { ms++; return at(ms) }}
	r.Offer("A")()
	first := r.Send("x")
	inUse := r.Offer("B")
	inUse()
	first("A", false)
	r.Send("x")("B", false)
	r.Send("y")("", true)
	swaps, requests := r.History()
	if found := history.Check(swaps, requests); len(found) > 0 {
		t.Errorf("%v", found)
	}
	if got, want := history.Summarise(swaps, requests), (history.Summary{Requests: 3, Refused: 1, Sets: 2, Overlapping: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.Send("x")("A", false) // It is over.
	r.Send("y")
	swaps, requests = r.History()
	if diff := cmp.Diff(map[string]int{history.RuleTime: 1, history.RuleLost: 1}, history.Rules(history.Check(swaps, requests))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// ExampleCheck shows what a test does with it.
func ExampleCheck() {
	begun := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	swaps := []history.Swap{{Digest: "sha256:a", Offered: begun, InUse: begun}}
	requests := []history.Request{{ID: "1", Sent: begun.Add(time.Second)}}
	for _, v := range history.Check(swaps, requests) {
		fmt.Println(v)
	}
	// Output: lost: request 1: it was sent at 12:00:01.000000 and never answered
}
