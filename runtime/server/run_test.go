package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// reachable returns what a path answers, 0 while nobody listens.
func reachable(t *testing.T, url string) (string, int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0
	}
	return string(body), resp.StatusCode
}

// TestLifeOfAPod starts before its expert set is there, becomes ready when a
// file brings it, and drains: a request in flight is finished, new ones are
// answered for the drain delay, readiness fails at once.
func TestLifeOfAPod(t *testing.T) {
	v := enginetest.New(t)
	math := v.Expert(t, "math", 1)
	log := &servertest.Log{}
	c := config(t, v, log)
	c.DrainDelay, c.Grace = 1500*time.Millisecond, 20*time.Second

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	s := server.New(c)
	go func() { ended <- s.Run(ctx) }()

	api, admin := log.Addresses(t)
	waitFor(t, "the listener", func() bool { _, code := reachable(t, admin+contract.PathHealth); return code == http.StatusOK })
	waitFor(t, "the model", func() bool {
		body, _ := reachable(t, admin+contract.PathReady)
		return strings.Contains(body, "no expert set")
	})
	// The base can be used before there are experts.
	r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:base", "x", nil))
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the base: %v, %v", r, err)
	}
	r, err = post(t.Context(), api+contract.PathChatCompletions, chat("demo", "x", nil))
	if err != nil || r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("two passes without experts: %v, %v", r, err)
	}
	if err := os.WriteFile(c.SetFile, []byte(`{"strategy":"Magic"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a refusal", func() bool {
		body, code := reachable(t, admin+contract.PathReady)
		return code == http.StatusServiceUnavailable && strings.Contains(body, `strategy "Magic" is unknown`)
	})
	set, err := json.Marshal(contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{
		{Name: "demo-math", Skill: "math", Digest: math.Digest},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.SetFile, set, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "readiness", func() bool { _, code := reachable(t, admin+contract.PathReady); return code == http.StatusOK })

	inFlight, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:base", "x", fields{"stream": true, "max_tokens": 380}))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	waitFor(t, "unreadiness", func() bool {
		_, code := reachable(t, admin+contract.PathReady)
		return code == http.StatusServiceUnavailable
	})
	if r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo", "x", nil)); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("a request during the drain delay: %v, %v", r, err)
	}
	body, err := io.ReadAll(inFlight.Body)
	_ = inFlight.Body.Close()
	if err != nil || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Errorf("the request in flight ended with %q, %v", body[max(0, len(body)-60):], err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, code := reachable(t, api+contract.PathModels); code != 0 {
		t.Error("still listening")
	}
	if n := strings.Count(log.String(), `"msg":"Refused expert set"`); n != 1 {
		t.Errorf("one refusal was logged %d times", n)
	}
}

func TestGraceEnds(t *testing.T) {
	v, allow := endless(t)
	log := &servertest.Log{}
	c := config(t, v, log)
	allow(&c)
	c.SetFile, c.Set = "", &contract.ExpertSet{Strategy: contract.StrategyPrompt}
	c.Grace = time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.New(c).Run(ctx) }()
	api, admin := log.Addresses(t)
	waitFor(t, "readiness", func() bool {
		_, code := reachable(t, admin+contract.PathReady)
		return code == http.StatusOK
	})
	var streams []*http.Response
	for range 4 { // As many as are computed together.
		r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:base", "x", fields{"stream": true, "max_tokens": endlessTokens, "ignore_eos": true}))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		streams = append(streams, r)
	}
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:base", "x", nil))
		if err != nil {
			t.Errorf("a request that waits: %v", err)
			return
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusServiceUnavailable && r.StatusCode != http.StatusOK {
			t.Errorf("a request that waits: %s %s, %v", r.Status, body, err)
		}
	}()
	waitFor(t, "a request that waits", func() bool {
		body, _ := reachable(t, admin+contract.PathMetrics)
		return strings.Contains(body, "\nt2_waiting_requests 1\n")
	})
	stop()
	cut := 0
	for _, r := range streams {
		body, err := io.ReadAll(r.Body)
		switch told := string(body); {
		case err != nil:
			t.Errorf("a stream breaks off: %v", err)
		case strings.Contains(told, `"shutting_down"`):
			cut++
		case !strings.HasSuffix(told, "data: [DONE]\n\n"):
			t.Errorf("a stream ends with %q", told[max(0, len(told)-200):])
		}
	}
	if cut == 0 {
		t.Error("no stream was ended")
	}
	<-waiting
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run did not end")
	}
}

func TestStartFailuresAreTold(t *testing.T) {
	v := enginetest.New(t)
	good := config(t, v, io.Discard)
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		change func(*server.Config)
		want   string
	}{
		"no model":           {func(c *server.Config) { c.ModelDir = t.TempDir() }, "config.json"},
		"no decomposition":   {func(c *server.Config) { c.DecompositionDir = t.TempDir() }, "is no decomposition"},
		"a context too long": {func(c *server.Config) { c.ContextLength = 100000 }, "the model was made for 512"},
		"a set that is wrong": {func(c *server.Config) {
			c.Set = &contract.ExpertSet{Strategy: "Magic"}
		}, "Magic"},
		"an address in use": {func(c *server.Config) { c.APIAddress = taken.Addr().String() }, "listening for the API"},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			c.change(&config)
			err := server.New(config).Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
