package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"
)

// TestKeptConnectionsAreGivenUpWhileDraining asks on one connection, before and after the
// server begins to drain: the answer says that it is the last one there, and the next
// request comes by another.
func TestKeptConnectionsAreGivenUpWhileDraining(t *testing.T) {
	var s Server
	listening := httptest.NewServer(s.givingUp(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "answered")
	})))
	defer listening.Close()

	ask := func() (kept, last bool) {
		t.Helper()
		trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { kept = c.Reused }}
		request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, listening.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := listening.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if text, err := io.ReadAll(response.Body); err != nil || string(text) != "answered" {
			t.Fatalf("%q, %v", text, err)
		}
		return kept, response.Close
	}
	type came struct{ kept, last bool }
	var got []came
	for _, drains := range []bool{false, false, true, true} {
		s.draining.Store(drains)
		kept, last := ask()
		got = append(got, came{kept, last})
	}
	want := []came{{false, false}, {true, false}, {true, true}, {false, true}}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("request %d: %+v, want %+v", i+1, got[i], want[i])
		}
	}
}
