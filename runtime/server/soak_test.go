package server_test

import (
	"iter"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/server"
	recorded "github.com/transformersquared/operator/test/history"
)

// envSoak is how long tests that exchange sets go on, such as "10m", with an exchange a second;
// without it they exchange a few as fast as they can. `make soak` sets it.
const envSoak = "T2_SOAK"

// lasting counts exchanges, and says of one that it is in the middle of them all.
func lasting(t *testing.T, least int) iter.Seq2[int, bool] {
	t.Helper()
	text := os.Getenv(envSoak)
	if text == "" {
		return func(yield func(int, bool) bool) {
			for i := range least {
				if t.Failed() || !yield(i, i == least/2) {
					return
				}
			}
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", envSoak, err)
	}
	return func(yield func(int, bool) bool) {
		every := time.NewTicker(time.Second)
		defer every.Stop()
		begun, halved := time.Now(), false
		for i := 0; i < least || time.Since(begun) < d; i++ {
			half := !halved && i >= least/2 && time.Since(begun) >= d/2
			halved = halved || half
			if t.Failed() || !yield(i, half) {
				return
			}
			<-every.C
		}
	}
}

// quiet keeps nothing of the log: it would grow with each request.
func quiet(c *server.Config) { c.Log = slog.New(slog.DiscardHandler) }

// held is what the process has in memory after so many requests.
type held struct {
	requests int
	bytes    int64
}

func holding(told *recorded.Recorder) held {
	_, requests := told.History()
	n := len(requests)
	runtime.GC()
	runtime.GC() // What finalizers and pools have let go.
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{requests: n, bytes: int64(m.HeapAlloc)}
}

// Bytes by which the heap may grow between n and 2n exchanges: this test's record of a request
// and the server's, of which it keeps 4096, and what a test that has just begun has yet to take.
const (
	recordBytes  = 256
	keptRequests = 4096
	keptBytes    = 4 << 10
	warmBytes    = 2 << 20
)

// checkGrowth compares what is held in the middle of the exchanges with what is in the end.
func checkGrowth(t *testing.T, middle, end held) {
	t.Helper()
	n := end.requests - middle.requests
	allowed := int64(warmBytes + n*recordBytes + min(n, keptRequests)*keptBytes)
	grown := end.bytes - middle.bytes
	t.Logf("the heap has %d KiB in the middle and %d KiB in the end, after %d and %d requests", middle.bytes>>10, end.bytes>>10, middle.requests, end.requests)
	if middle.requests == 0 || grown > allowed {
		t.Errorf("the heap has grown by %d bytes with the second half of the exchanges, at most %d are this test's", grown, allowed)
	}
}
