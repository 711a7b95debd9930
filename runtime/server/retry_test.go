package server_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/transformersquared/operator/runtime/server"
)

// TestFiftyClientsAtOnceAllGetAnAnswer has many more clients than the queue takes.
// They try again twice, when they are told to, as OpenAI's clients do by default.
func TestFiftyClientsAtOnceAllGetAnAnswer(t *testing.T) {
	h := open(t, func(c *server.Config) { c.MaxBatch, c.MaxWaiting = 2, 8 })
	var mu sync.Mutex
	told := map[string]int{}
	watch := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		resp, err := next(r)
		if err == nil && resp.StatusCode == http.StatusTooManyRequests {
			mu.Lock()
			defer mu.Unlock()
			told[resp.Header.Get("Retry-After")]++
		}
		return resp, err
	})
	client := openai.NewClient(option.WithBaseURL(h.api.URL+"/v1/"), option.WithAPIKey("none"), option.WithMaxRetries(2), watch)
	ask := func() {
		params := chatParams()
		params.Model, params.MaxTokens = "demo:base", openai.Int(60)
		if _, err := client.Chat.Completions.New(t.Context(), params); err != nil {
			t.Error(err)
		}
	}
	ask() // So that the server knows how long an answer takes.
	var all sync.WaitGroup
	for range 50 {
		all.Go(ask)
	}
	all.Wait()
	if len(told) < 2 || told[""] > 0 {
		t.Errorf("clients were told to come back after these times, in seconds: %v", told)
	}
}
