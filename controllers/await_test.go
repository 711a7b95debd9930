package controllers

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String()
}

// What the API server refuses it has answered: the manager says better what is wrong.
func TestAServerThatAnswersIsNotWaitedFor(t *testing.T) {
	for _, code := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		if err := awaitServer(t.Context(), &rest.Config{Host: server.URL}, "127.0.0.1:no-port"); err != nil {
			t.Errorf("%d: %v", code, err)
		}
		server.Close()
	}
}

// While the API server is away the manager waits, lives and is not ready; afterwards its probes
// have their address back.
func TestAServerThatIsAwayIsWaitedFor(t *testing.T) {
	api, probes := freeAddress(t), freeAddress(t)
	done := make(chan error, 1)
	go func() { done <- awaitServer(t.Context(), &rest.Config{Host: "http://" + api}, probes) }()

	get := func(path string) int {
		for {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+probes+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(request)
			if err == nil {
				_ = response.Body.Close()
				return response.StatusCode
			}
			select { // Until it listens, or has given up.
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	if code := get("/healthz"); code != http.StatusOK {
		t.Errorf("it does not live: %d", code)
	}
	if code := get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("it is ready: %d", code)
	}
	var asked atomic.Int32 // First of a load balancer alone.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", api)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	if err := <-done; err != nil || asked.Load() < 2 {
		t.Errorf("got %v after %d answers, of which the first is no API server's", err, asked.Load())
	}
	again, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", probes)
	if err != nil {
		t.Fatalf("the address of the probes: %v", err)
	}
	_ = again.Close()
}

func TestWhatWaitingDoesNotMendIsNotWaitedFor(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	if err := awaitServer(t.Context(), &rest.Config{Host: server.URL}, "0"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := awaitServer(ctx, &rest.Config{Host: "http://" + freeAddress(t)}, "0"); !errors.Is(err, context.Canceled) {
		t.Errorf("when the manager is to end: %v", err)
	}
}
