package server_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// TestThirtyStreamsAreDrained ends a pod that streams thirty answers: those that have the
// time finish, the others say within their stream that they were ended, at the bound that
// the specification gives; whoever comes then is turned away, and no stream
// merely breaks off.
func TestThirtyStreamsAreDrained(t *testing.T) {
	v, allow := endless(t)
	log := &servertest.Log{}
	c := config(t, v, log)
	allow(&c)
	spec := contract.ServeSpec{
		Name: "demo", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest, DrainSeconds: 5,
	}
	told, err := server.FromSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	c.SetFile, c.Set = "", &contract.ExpertSet{Strategy: contract.StrategyPrompt}
	c.Grace, c.MaxBatch = told.Grace, 32
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.New(c).Run(ctx) }()
	api, admin := log.Addresses(t)
	waitFor(t, "readiness", func() bool {
		_, code := reachable(t, admin+contract.PathReady)
		return code == http.StatusOK
	})

	const streams, short = 30, 10
	var read sync.WaitGroup
	var mu sync.Mutex
	finished, cut := 0, 0
	for i := range streams {
		tokens := endlessTokens
		if i < short {
			tokens = 4
		}
		r, err := post(t.Context(), api+contract.PathChatCompletions, chat("demo:base", "x", fields{"stream": true, "max_tokens": tokens, "ignore_eos": true}))
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("stream %d: %v, %v", i, r, err)
		}
		read.Go(func() {
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			switch text := string(body); {
			case err != nil:
				t.Errorf("a stream breaks off: %v", err)
			case strings.Contains(text, `"shutting_down"`):
				cut++
			case strings.HasSuffix(text, "data: [DONE]\n\n"):
				finished++
			default:
				t.Errorf("a stream ends with %q", text[max(0, len(text)-200):])
			}
		})
	}
	begun := time.Now()
	stop()
	waitFor(t, "no new connections", func() bool {
		_, code := reachable(t, api+contract.PathModels)
		return code == 0
	})
	read.Wait()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begun); told.Grace != 5*time.Second || took < told.Grace {
		t.Errorf("it took %s, with %s to drain", took, told.Grace)
	}
	if finished < short || cut == 0 || finished+cut != streams {
		t.Errorf("%d of %d streams finished and %d were ended", finished, streams, cut)
	}
}
