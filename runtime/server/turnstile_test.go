package server

import (
	"testing"
	"time"
)

// told asks a turnstile for n clients at the same moment, and returns how many
// are told to come in each second.
func told(t *testing.T, gate *turnstile, now time.Time, n, batch, capacity int) map[int]int {
	t.Helper()
	seconds := map[int]int{}
	for range n {
		wait := gate.wait(now, batch, capacity)
		if wait < leastWait || wait > mostWait {
			t.Errorf("a client is told to wait %v", wait)
		}
		seconds[int((wait+time.Second-1)/time.Second)]++
	}
	return seconds
}

func TestThoseWhoFindTheQueueFullComeBackOneByOne(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, c := range []struct {
		name               string
		took               time.Duration
		n, batch, capacity int
		perSecond, atLeast int // Clients in one second, and seconds in all.
		earliest, furthest int
	}{
		{"no answer is known yet", 0, 40, 4, 12, 5, 10, 1, 11},
		{"an answer takes two seconds", 2 * time.Second, 40, 4, 12, 3, 20, 1, 21},
		{"longer than a second each", 3 * time.Second, 10, 1, 5, 1, 10, 3, 30},
		{"the queue is shorter than what it gets done", time.Millisecond, 40, 4, 8, 9, 5, 1, 6},
		{"more than a minute has room for", 3 * time.Second, 100, 1, 5, 12, 30, 3, 59},
	} {
		t.Run(c.name, func(t *testing.T) {
			gate := &turnstile{}
			if c.took > 0 {
				gate.answered(c.took)
			}
			seconds := told(t, gate, now, c.n, c.batch, c.capacity)
			earliest, furthest := 1000, 0
			for second, clients := range seconds {
				earliest, furthest = min(earliest, second), max(furthest, second)
				if clients > c.perSecond {
					t.Errorf("%d clients come in second %d, want at most %d", clients, second, c.perSecond)
				}
			}
			if len(seconds) < c.atLeast || earliest != c.earliest || furthest > c.furthest {
				t.Errorf("they come in %d seconds, from %d to %d, want at least %d, from %d to at most %d",
					len(seconds), earliest, furthest, c.atLeast, c.earliest, c.furthest)
			}
		})
	}
}

func TestTurnstilesForgetThoseWhoHaveComeBack(t *testing.T) {
	gate, now := &turnstile{}, time.Unix(1_000_000, 0)
	told(t, gate, now, 40, 4, 12)
	if wait := gate.wait(now.Add(time.Minute), 4, 12); wait != leastWait {
		t.Errorf("after a minute the first waits %v, want %v", wait, leastWait)
	}
	for range 100 {
		gate.answered(2 * time.Second)
	}
	if gate.took < 1999*time.Millisecond || gate.took > 2*time.Second {
		t.Errorf("after 100 answers of 2 s one takes %v", gate.took)
	}
}
