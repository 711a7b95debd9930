package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
)

// gauges are the metrics of a server by name and labels.
func gauges(t testing.TB, h *house) map[string]float64 {
	t.Helper()
	text, _ := get(t, h.admin.URL+contract.PathMetrics)
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	return values
}

// within checks that nothing takes more memory than its budget.
func within(t testing.TB, values map[string]float64) {
	t.Helper()
	for _, of := range []string{"bodies", "cache", "experts"} {
		used, budget := values[fmt.Sprintf("t2_memory_used_bytes{of=%q}", of)], values[fmt.Sprintf("t2_memory_budget_bytes{of=%q}", of)]
		if budget <= 0 || used > budget {
			t.Errorf("%s take %v bytes, and may take %v", of, used, budget)
		}
	}
}

// rude are clients of a server that do not do their part: each is begun and keeps its connection
// until the context ends.
type rude struct {
	address string
	request string // Of a stream, as bytes.
}

func newRude(t testing.TB, h *house) rude {
	t.Helper()
	body, err := json.Marshal(chat("demo:base", "slow", fields{"stream": true, "max_tokens": 200, "ignore_eos": true}))
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(h.api.URL, "http://")
	return rude{address, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		contract.PathChatCompletions, address, len(body), body)}
}

// hold sends the first bytes of a request, does something with the connection, and closes it.
func (r rude) hold(ctx context.Context, t testing.TB, first int, then func(net.Conn)) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.address)
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, r.request[:first]); err == nil {
		then(conn)
	}
}

// neverSends stops in the middle of the body, or of the header.
func (r rude) neverSends(ctx context.Context, t testing.TB, first int) {
	r.hold(ctx, t, first, func(net.Conn) { <-ctx.Done() })
}

// readsSlowly reads a byte at a time.
func (r rude) readsSlowly(ctx context.Context, t testing.TB) {
	r.hold(ctx, t, len(r.request), func(conn net.Conn) {
		every := time.NewTicker(100 * time.Millisecond)
		defer every.Stop()
		for b := make([]byte, 1); ; {
			if _, err := conn.Read(b); err != nil {
				return
			}
			select {
			case <-every.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// leaves goes away when the answer begins, again and again.
func (r rude) leaves(ctx context.Context, t testing.TB) {
	for ctx.Err() == nil {
		r.hold(ctx, t, len(r.request), func(conn net.Conn) { _, _ = bufio.NewReader(conn).ReadString('\n') })
	}
}

// TestTenTimesWhatAServerCanDo asks ten times as many at a time as a server lets in, beside clients
// that read slowly, never finish sending, or go away. Nothing takes more memory than it may, who
// finds no place is told when to come back, the others are answered, and when all have gone,
// nothing of them is left.
func TestTenTimesWhatAServerCanDo(t *testing.T) {
	const batch, waiting = 4, 4
	h := open(t, func(c *server.Config) {
		quiet(c)
		c.MaxBatch, c.MaxWaiting, c.Memory, c.CacheTokens = batch, waiting, 256<<20, 4096
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	defer client.CloseIdleConnections()
	send := func(ctx context.Context, question string) (answer, *http.Response, error) {
		var a answer
		b, err := json.Marshal(chat("demo", question, nil))
		if err != nil {
			return a, nil, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.api.URL+contract.PathChatCompletions, strings.NewReader(string(b)))
		if err != nil {
			return a, nil, err
		}
		resp, err := client.Do(r)
		if err != nil {
			return a, nil, err
		}
		defer resp.Body.Close()
		return a, resp, json.NewDecoder(resp.Body).Decode(&a)
	}
	// What the server makes of one question, when nobody else is there.
	alone := func() string {
		t.Helper()
		a, resp, err := send(t.Context(), "What is 2+3?")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %+v", err, a.Error)
		}
		return a.Choices[0].Message.Content
	}
	want := alone()
	client.CloseIdleConnections()
	goroutines := runtime.NumGoroutine()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	bad := newRude(t, h)
	for i := range 8 {
		all.Go(func() { bad.neverSends(ctx, t, len(bad.request)-1-i) })
		all.Go(func() { bad.neverSends(ctx, t, 10+i) })
		all.Go(func() { bad.leaves(ctx, t) })
		if i < batch/2 { // They have a place each.
			all.Go(func() { bad.readsSlowly(ctx, t) })
		}
	}
	var answered, turnedAway atomic.Int64
	for i := range 10 * (batch + waiting) {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a, resp, err := send(ctx, fmt.Sprintf("client %d, question %d", i, n))
				switch {
				case err != nil && ctx.Err() != nil:
				case err != nil:
					t.Errorf("client %d: %v", i, err)
					return
				case resp.StatusCode == http.StatusOK && len(a.Choices) == 1:
					answered.Add(1)
				case resp.StatusCode == http.StatusTooManyRequests && a.Error != nil && resp.Header.Get("Retry-After") != "":
					turnedAway.Add(1)
				default:
					t.Errorf("client %d: %s, %+v", i, resp.Status, a.Error)
					return
				}
			}
		})
	}
	enough := func(least int64) func() bool {
		return func() bool {
			within(t, gauges(t, h))
			return t.Failed() || answered.Load() >= least && turnedAway.Load() >= 10*(batch+waiting)
		}
	}
	waitFor(t, "answers beside those who are turned away", enough(60))
	if text := os.Getenv(envSoak); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", envSoak, err)
		}
		for begun := time.Now(); time.Since(begun) < d && !t.Failed(); {
			waitFor(t, "more answers", enough(answered.Load()+60))
		}
	}
	peak := gauges(t, h)
	stop()
	all.Wait()
	client.CloseIdleConnections()
	t.Logf("%d were answered and %d turned away; %v goroutines at the end", answered.Load(), turnedAway.Load(), peak["go_goroutines"])
	waitFor(t, "the rest to be forgotten", func() bool {
		v := gauges(t, h)
		return v[`t2_memory_used_bytes{of="bodies"}`] == 0 && v["t2_running_requests"] == 0 && v["t2_waiting_requests"] == 0
	})
	http.DefaultClient.CloseIdleConnections()
	waitFor(t, "their goroutines to end", func() bool {
		http.DefaultClient.CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines
	})
	if got := alone(); got != want {
		t.Errorf("after all that the answer is %q, before it was %q", got, want)
	}
}
