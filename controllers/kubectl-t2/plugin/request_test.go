package plugin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// TestExplainARequest asks every pod: one that answered it, one that did not, and one that
// cannot be asked.
func TestExplainARequest(t *testing.T) {
	s := serve(t, serving("demo-2", "demo", "tiny"))
	s.answers(t, "demo-2", contract.PortAPI, http.NotFoundHandler())
	api := s.cluster.endpoint(serving("demo-1", "demo", "tiny"), contract.PortAPI)
	resp, err := api.send(t.Context(), http.MethodPost, contract.PathChatCompletions,
		[]byte(`{"model":"demo","messages":[{"role":"user","content":"What is 3 plus 4?"}],"max_tokens":4}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{answer.ID, resp.Header.Get(contract.HeaderRequestID)} {
		out, errors, code := s.run(t, "explain", "demo", "--request", id)
		if code != exitOK || errors != "" {
			t.Fatalf("status %d, %s", code, errors)
		}
		for _, text := range []string{"answered as " + answer.ID, "Answered by ", "Why ", "Pass 1 ", "of the answer", "Expert set  sha256:"} {
			if !strings.Contains(out, text) {
				t.Errorf("%q is missing in\n%s", text, out)
			}
		}
	}
	out, _, _ := s.run(t, "explain", "demo", "--request", answer.ID, "-o", "json")
	var r contract.RequestRecord
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.AnswerID != answer.ID {
		t.Errorf("%v: %s", err, out)
	}
	if _, errors, code := s.run(t, "explain", "demo", "--request", "no/such"); code != exitFailed || !strings.Contains(errors, "none of 2 pods knows it") {
		t.Errorf("of an unknown one: status %d, %s", code, errors)
	}
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	s.answersAt(t, "demo-2", contract.PortAPI, broken)
	if _, errors, code := s.run(t, "explain", "demo", "--request", "none"); code != exitFailed || !strings.Contains(errors, "1 of 2 pods do not know it") {
		t.Errorf("where one cannot be asked: status %d, %s", code, errors)
	}
}
