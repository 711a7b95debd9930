package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel"
	"github.com/transformersquared/operator/controllers/kubectl-t2/internal/tunnel/tunneltest"
)

var pod = types.NamespacedName{Namespace: "ns", Name: "p"}

// dialer connects to a pod whose port 80 a handler answers.
func dialer(t *testing.T, server *tunneltest.Server, handler http.Handler) *tunnel.Dialer {
	t.Helper()
	d, err := tunnel.New(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if handler != nil {
		h := httptest.NewServer(handler)
		t.Cleanup(h.Close)
		server.Listen("ns", "p", 80, h.Listener.Addr().String())
	}
	return d
}

func client(d *tunnel.Dialer) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.Dial(ctx, pod, 80) },
	}}
}

func TestRequestsGoThroughATunnel(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("without WebSockets %t", old), func(t *testing.T) {
			server := tunneltest.New(t)
			server.NoWebSockets = old
			d := dialer(t, server, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				_, _ = w.Write(b)
			}))
			c := client(d)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					sent := strings.Repeat(fmt.Sprint(i, " "), 20_000)
					resp, err := c.Post("http://p/", "text/plain", strings.NewReader(sent))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if got, err := io.ReadAll(resp.Body); err != nil || string(got) != sent {
						t.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
					}
				})
			}
			wg.Wait()
			c.CloseIdleConnections()
			resp, err := c.Get("http://p/")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if n := server.Tunnels(); n != 1 {
				t.Errorf("%d tunnels were opened, not one", n)
			}
		})
	}
}

// TestAStreamComesAsItIsSent: nothing on the way waits for its end.
func TestAStreamComesAsItIsSent(t *testing.T) {
	next := make(chan string)
	d := dialer(t, tunneltest.New(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for word := range next {
			_, _ = io.WriteString(w, word)
			w.(http.Flusher).Flush()
		}
	}))
	go func() { next <- "one" }()
	resp, err := client(d).Get("http://p/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 16)
	for i, word := range []string{"one", "two", "three"} {
		if i > 0 {
			next <- word
		}
		if n, err := io.ReadAtLeast(resp.Body, b, len(word)); err != nil || string(b[:n]) != word {
			t.Fatalf("%q came, want %q: %v", b[:n], word, err)
		}
	}
	close(next)
}

func TestFailuresSayWhy(t *testing.T) {
	server := tunneltest.New(t)
	d := dialer(t, server, nil)
	_, err := client(d).Get("http://p/")
	if err == nil || !strings.Contains(err.Error(), "port 80 of pod ns/p") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("of a port that nobody listens on: %v", err)
	}
	server.Forbid = true
	_, err = dialer(t, server, nil).Dial(t.Context(), pod, 80)
	if err == nil || !strings.Contains(err.Error(), "the right to create pods/portforward") {
		t.Errorf("without rights: %v", err)
	}
}

func TestNothingTakesForEver(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	t.Cleanup(silent.CloseClientConnections)
	server := tunneltest.New(t)
	server.Config.Host = silent.URL
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := dialer(t, server, nil).Dial(ctx, pod, 80); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of an API server that is silent: %v", err)
	}
	d := dialer(t, tunneltest.New(t), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	conn, err := d.Dial(t.Context(), pod, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of a pod that is silent: %v", err)
	}
}
