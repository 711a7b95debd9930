package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// services answers as the API server's proxy to policies does whose names are strategies, and
// counts how often each question came.
func services(t *testing.T, asked map[string]int) kubernetes.Interface {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Model    string
			Messages []struct{ Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		policy, pinned, isPinned := strings.Cut(body.Model, ":")
		asked[policy+" "+body.Messages[0].Content]++
		a := contract.Adaptation{Strategy: policy, Expert: "math", Pass1Seconds: 0.002, Pass2Seconds: 0.018}
		if isPinned {
			a = contract.Adaptation{Strategy: contract.StrategyPinned, Expert: pinned, Pass2Seconds: 0.0195}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"choices": []any{map[string]any{"message": map[string]any{"content": "#### 7"}}}, "t2": a,
		})
	}))
	t.Cleanup(server.Close)
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// questions is a skill of so many.
func questions(t *testing.T, n int) skillSet {
	t.Helper()
	judge, err := reward.New(contract.RewardNumeric, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := skill{name: "math", judge: judge}
	for i := range n {
		s.test = append(s.test, dataset.Record{
			Messages: []dataset.Message{{Role: "user", Content: string(rune('a' + i))}}, Reference: reward.Reference{Answer: "7"},
		})
	}
	return skillSet{s}
}

// TestTimesAreOfQuestionsThatWereNotReadBefore: no question is asked twice of a policy, nor
// one that the demo has asked aloud.
func TestTimesAreOfQuestionsThatWereNotReadBefore(t *testing.T) {
	for questionsThere, want := range map[int]int{40: 2 * timed, 9: 6, 4: 2} {
		asked := map[string]int{}
		clients := services(t, asked)
		var out bytes.Buffer
		policies := []asker{{clients, "t2-demo", "Prompt"}, {clients, "t2-demo", "Probe"}}
		if err := printTimes(t.Context(), policies, questions(t, questionsThere), &screen{out: &out}); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"  Prompt              2.0 ms       20.0 ms       19.5 ms      1.03\n", "  Probe               2.0 ms       20.0 ms       19.5 ms      1.03\n",
		} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("it printed\n%s\nwithout %q", out.String(), line)
			}
		}
		if len(asked) != 2*want {
			t.Errorf("of %d questions two policies were asked %d, want %d each", questionsThere, len(asked), want)
		}
		for question, times := range asked {
			if times != 1 || strings.HasSuffix(question, " a") || strings.HasSuffix(question, " b") {
				t.Errorf("question %q was asked %d times", question, times)
			}
		}
	}
	err := printTimes(t.Context(), []asker{{services(t, map[string]int{}), "t2-demo", "Prompt"}}, questions(t, 3), &screen{out: &bytes.Buffer{}})
	if err == nil || !strings.Contains(err.Error(), "raise --limit") {
		t.Errorf("of too few questions: %v", err)
	}
}
