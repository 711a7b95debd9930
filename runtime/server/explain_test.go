package server_test

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
)

// explain asks for an explanation; a refusal ends the test.
func (h *house) explain(t testing.TB, body any) contract.Explanation {
	t.Helper()
	r, err := post(t.Context(), h.api.URL+contract.PathExplain, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e contract.Explanation
	if err := json.Unmarshal(raw, &e); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("status %s: %s (%v)", r.Status, raw, err)
	}
	return e
}

// TestAnExplanationIsOfWhatAnswers asks for explanations and for answers: both say
// the same of the same request, whatever the strategy, and an explanation is no answer.
func TestAnExplanationIsOfWhatAnswers(t *testing.T) {
	h := open(t, nil)
	question := chat("demo", "What is 2+3?", nil)
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		path   string
		body   fields
		labels int
		why    string
	}{
		"a chat":       {nil, contract.PathChatCompletions, question, 3, `pass 1 finds the label "other`},
		"a completion": {nil, contract.PathCompletions, fields{"model": "demo", "prompt": "Once upon"}, 3, `pass 1 finds the label "other`},
		"tokens":       {nil, contract.PathCompletions, fields{"model": "demo", "prompt": []int{72, 105}, "max_tokens": 3}, 3, `pass 1 finds`},
		"a stream, which would be one": {
			nil, contract.PathChatCompletions, chat("demo", "x", fields{"n": 2, "logprobs": true}), 3, `pass 1 finds`,
		},
		"a mixture": {func(s *contract.ExpertSet) { s.TopK = 3 }, contract.PathChatCompletions, question, 3, "mixes the 3 most likely"},
		"a request of which pass 1 is not sure": {
			func(s *contract.ExpertSet) { s.MinProbability, s.Fallback = 0.9, "demo-code" }, contract.PathChatCompletions, question, 3,
			"but minProbability is 0.9: the fallback answers",
		},
		"others": {
			func(s *contract.ExpertSet) { s.Experts[0].Skill, s.Experts[1].Skill = "otheri", "otherj" }, contract.PathChatCompletions, question, 3,
			`pass 1 finds the label "others" most likely (1.0000): the base weights answer`,
		},
		"a set without experts": {func(s *contract.ExpertSet) { s.Experts = nil }, contract.PathChatCompletions, question, 0, "there are no experts"},
		"a fixed mixture": {
			func(s *contract.ExpertSet) { s.Strategy = contract.StrategyFixed }, contract.PathChatCompletions, question, 0,
			"strategy Fixed gives every request the same weights",
		},
		"a pinned expert": {nil, contract.PathChatCompletions, chat("demo:demo-math", "x", nil), 0, "the model name pins it"},
		"the base":        {nil, contract.PathChatCompletions, chat("demo:base", "x", nil), 0, "the model name pins it"},
		"a request that pass 1 cannot take": {
			func(s *contract.ExpertSet) { s.PromptTemplate = "{prompt}" + strings.Repeat("x", 500) }, contract.PathChatCompletions, question, 0,
			"pass 1 failed (the context length is 400 tokens, but",
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := h.rivals("otherb", "otherc")
			if c.change != nil {
				c.change(&set)
			}
			h.swap(t, set)
			before := h.Status()
			got := h.explain(t, c.body)
			if diff := cmp.Diff(before, h.Status()); diff != "" {
				t.Errorf("an explanation changed the status (-before +after):\n%s", diff)
			}
			answered, r := h.ask(t, c.path, c.body)
			if r.StatusCode != http.StatusOK {
				t.Fatalf("status %s: %+v", r.Status, answered.Error)
			}
			a := answered.Adaptation
			want := contract.Explanation{
				Object: "adaptation.explanation", Model: c.body["model"].(string), Strategy: a.Strategy, Expert: a.Expert, Weights: a.Weights,
				Fallback: a.Fallback, Turn: a.Turn, PromptTokens: answered.Usage.Prompt, ExpertSetDigest: a.ExpertSetDigest,
				Why: got.Why, Labels: got.Labels, MinProbability: got.MinProbability, Pass1Tokens: got.Pass1Tokens, Pass1Seconds: got.Pass1Seconds,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("explanation (-answer's +got):\n%s", diff)
			}
			if !strings.Contains(got.Why, c.why) {
				t.Errorf("why: %q, want %q", got.Why, c.why)
			}
			if len(got.Labels) != c.labels || (got.Pass1Tokens > 0) != (c.labels > 0) || (got.Pass1Seconds > 0) != (a.Pass1Seconds > 0) {
				t.Errorf("%d labels of %d tokens in %v s, the answer's pass 1 took %v s", len(got.Labels), got.Pass1Tokens, got.Pass1Seconds, a.Pass1Seconds)
			}
			checkLabels(t, got, a.Probabilities)
		})
	}
	h.handled()
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	if want := `t2_requests_total{code="200",endpoint="explain"} 12`; !strings.Contains(metrics, want) {
		t.Errorf("no %s in\n%s", want, metrics)
	}
	if strings.Contains(metrics, `pass="1",strategy="Fixed"`) || strings.Contains(metrics, `pass="1",strategy="Pinned"`) {
		t.Errorf("a pass 1 that there is not was counted:\n%s", metrics)
	}
	if n := strings.Count(h.log.String(), `"endpoint":"explain"`); n != 12 {
		t.Errorf("%d lines in the log for 12 explanations", n)
	}
}

// checkLabels holds the labels against the probabilities that an answer tells.
func checkLabels(t *testing.T, e contract.Explanation, probabilities map[string]float64) {
	t.Helper()
	for i, l := range e.Labels {
		name := l.Expert
		if name == contract.BaseName {
			name = contract.OthersLabel
		}
		if l.LogLikelihood == nil || math.Abs(l.Probability-probabilities[name]) > 1e-6 {
			t.Errorf("label %+v, the answer's probability is %v", l, probabilities[name])
			continue
		}
		// The likelihoods differ as the probabilities do.
		first := e.Labels[0]
		if got, want := *l.LogLikelihood-*first.LogLikelihood, math.Log(l.Probability/first.Probability); math.Abs(got-want) > 1e-6 {
			t.Errorf("label %d is e^%v times as likely as the first, its probability e^%v times", i, got, want)
		}
	}
}

func TestExplanationsAreRefusedAsAnswersAre(t *testing.T) {
	h := open(t, nil)
	for name, c := range map[string]struct {
		body         any
		status       int
		param, code  string
		wantsMessage string
	}{
		"neither messages nor a prompt": {fields{"model": "demo"}, 400, "messages", "missing_required_parameter", "messages, input and prompt are missing"},
		"both":                          {chat("demo", "x", fields{"prompt": "x"}), 400, "prompt", "unsupported_parameter", "prompt"},
		"no model":                      {fields{"prompt": "x"}, 400, "model", "missing_required_parameter", "GET /v1/models"},
		"an unknown model":              {chat("gpt-9", "x", nil), 404, "model", "model_not_found", "demo:demo-math"},
		"an unknown field":              {chat("demo", "x", fields{"temperatur": 1}), 400, "temperatur", "unsupported_parameter", "temperatur"},
		"what no answer fits":           {chat("demo", "x", fields{"max_tokens": 399}), 400, "max_tokens", "context_length_exceeded", "399"},
		"a prompt too long":             {fields{"model": "demo", "prompt": strings.Repeat("x", 400)}, 400, "prompt", "context_length_exceeded", "400"},
		"a token that there is not":     {fields{"model": "demo", "prompt": []int{100000}}, 400, "prompt", "invalid_value", "100000"},
		"no JSON":                       {"{", 400, "", "invalid_json", "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			got, r := h.ask(t, contract.PathExplain, c.body)
			e := got.Error
			if r.StatusCode != c.status || e == nil || e.Param != c.param || e.Code != c.code || !strings.Contains(e.Message, c.wantsMessage) {
				t.Errorf("status %s, error %+v, want %+v", r.Status, e, c)
			}
		})
	}
	body, status := get(t, h.api.URL+contract.PathExplain)
	if status != http.StatusMethodNotAllowed || !strings.Contains(body, "takes POST, not GET") {
		t.Errorf("status %d: %s", status, body)
	}
}

func TestNothingIsExplainedBeforeItIsLoaded(t *testing.T) {
	s := server.New(config(t, enginetest.New(t), io.Discard))
	if _, err := s.Explain(t.Context(), []byte(`{"model":"demo","prompt":"x"}`)); err == nil || !strings.Contains(err.Error(), "still being loaded") {
		t.Errorf("before the model: %v", err)
	}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Explain(t.Context(), []byte(`{"model":"demo","prompt":"x"}`)); err == nil || !strings.Contains(err.Error(), "no experts have been loaded yet") {
		t.Errorf("before the experts: %v", err)
	}
	// The base needs none.
	e, err := s.Explain(t.Context(), []byte(`{"model":"demo:base","prompt":"x"}`))
	if err != nil || e.Expert != contract.BaseName || e.ExpertSetDigest != "" {
		t.Errorf("the base: %+v, %v", e, err)
	}
}
