package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/train/dataset"
)

// remembered asks what is remembered of a request.
func (h *house) remembered(t testing.TB, id string) (contract.RequestRecord, int) {
	t.Helper()
	body, code := get(t, h.api.URL+contract.PathRequests+"/"+url.PathEscape(id))
	var r contract.RequestRecord
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return r, code
}

// askAs asks as a client that has an id for its request.
func (h *house) askAs(t testing.TB, id, path string, body any) *http.Response {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.api.URL+path, strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Request-Id", id)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// TestEachAnswerHasAnID answers and refuses, whole and as a stream: every response says which
// request it is of, keeping the client's own id if that is one.
func TestEachAnswerHasAnID(t *testing.T) {
	h := open(t, func(c *server.Config) { c.Pod = "demo-7" })
	question := chat("demo", "x", nil)
	made := ""
	for name, c := range map[string]struct {
		path   string
		body   any
		status int
	}{
		"an answer":      {contract.PathChatCompletions, question, http.StatusOK},
		"a stream":       {contract.PathChatCompletions, chat("demo", "x", fields{"stream": true}), http.StatusOK},
		"an explanation": {contract.PathExplain, question, http.StatusOK},
		"a refusal":      {contract.PathChatCompletions, chat("gpt-9", "x", nil), http.StatusNotFound},
		"nothing there":  {"/v1/nothing", question, http.StatusNotFound},
		"no method":      {contract.PathModels, question, http.StatusMethodNotAllowed},
		"an outcome":     {contract.PathOutcome, fields{"request": "x", "right": true}, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			for id, kept := range map[string]bool{
				"": false, "Ab-1._x": true, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false, "a b": false, "é": false,
			} {
				r := h.askAs(t, id, c.path, c.body)
				got := r.Header.Get("x-request-id")
				if r.StatusCode != c.status || kept != (got == id) || got == "" || got == made || r.Header.Get("x-t2-pod") != "demo-7" {
					t.Errorf("the id %q came back as %q: %s of %q", id, got, r.Status, r.Header.Get("x-t2-pod"))
				}
				if !kept {
					made = got
				}
			}
		})
	}
}

// TestAnAnswerLeadsToItsReasons asks all endpoints and then for what is remembered of it, by the
// id of the answer and by that of the request. It is there as soon as a client has the answer.
func TestAnAnswerLeadsToItsReasons(t *testing.T) {
	h := open(t, func(c *server.Config) { c.Pod = "demo-7" })
	for name, c := range map[string]struct {
		path   string
		body   fields
		prefix string
	}{
		"a chat":        {contract.PathChatCompletions, chat("demo", "What is 2+3?", nil), "chatcmpl-"},
		"a pinned chat": {contract.PathChatCompletions, chat("demo:demo-math", "x", fields{"n": 2}), "chatcmpl-"},
		"the base":      {contract.PathChatCompletions, chat("demo:base", "x", nil), "chatcmpl-"},
		"a completion":  {contract.PathCompletions, fields{"model": "demo", "prompt": "Once upon"}, "cmpl-"},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			a, resp := h.ask(t, c.path, c.body)
			got, code := h.remembered(t, a.ID)
			if code != http.StatusOK {
				t.Fatalf("status %d of %q", code, a.ID)
			}
			id := resp.Header.Get("X-Request-Id")
			if a.ID != c.prefix+id || time.Since(got.Time) > time.Since(begun) || got.QueuedSeconds < 0 || got.FirstTokenSeconds <= 0 {
				t.Errorf("answer %s of %s: %+v", a.ID, id, got)
			}
			var finish []string
			for _, choice := range a.Choices {
				finish = append(finish, *choice.Finish)
			}
			explained := h.explain(t, c.body)
			want := contract.RequestRecord{
				Object: "adaptation.request", ID: id, AnswerID: a.ID, Pod: "demo-7", Time: got.Time, Model: c.body["model"].(string),
				Why: explained.Why, Adaptation: *a.Adaptation, Finish: finish, PromptTokens: a.Usage.Prompt, CachedTokens: a.Usage.Details.Cached,
				Pass1Tokens: explained.Pass1Tokens, Tokens: a.Usage.Completion, QueuedSeconds: got.QueuedSeconds, FirstTokenSeconds: got.FirstTokenSeconds,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("remembered (-answer's +got):\n%s", diff)
			}
			if again, _ := h.remembered(t, id); cmp.Diff(got, again) != "" {
				t.Errorf("by the request's id: %+v", again)
			}
		})
	}
	t.Run("a stream", func(t *testing.T) {
		chunks, _ := h.stream(t, contract.PathChatCompletions, chat("demo", "x", fields{"stream": true}))
		got, code := h.remembered(t, chunks[0].ID)
		if last := chunks[len(chunks)-1]; code != http.StatusOK || cmp.Diff(*last.Adaptation, got.Adaptation) != "" {
			t.Errorf("status %d, %+v", code, got)
		}
	})
	t.Run("a response", func(t *testing.T) {
		a, _ := h.ask(t, contract.PathResponses, fields{"model": "demo", "input": "x", "max_output_tokens": 4})
		if got, code := h.remembered(t, a.ID); code != http.StatusOK || !strings.HasPrefix(a.ID, "resp_") || got.AnswerID != a.ID {
			t.Errorf("status %d of %q, %+v", code, a.ID, got)
		}
	})
	t.Run("one that was refused", func(t *testing.T) {
		_, resp := h.ask(t, contract.PathChatCompletions, chat("gpt-9", "x", nil))
		id := resp.Header.Get("X-Request-Id")
		body, code := get(t, h.api.URL+contract.PathRequests+"/"+id)
		if code != http.StatusNotFound || !strings.Contains(body, `this pod, demo-7, has no request \"`+id) || !strings.Contains(body, "the last 4096 answers that came to 4 MiB, for 1h0m0s") {
			t.Errorf("status %d: %s", code, body)
		}
	})
	t.Run("another method", func(t *testing.T) {
		r, err := post(t.Context(), h.api.URL+contract.PathRequests+"/x", "{}")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != http.MethodGet {
			t.Errorf("%s, allowed is %q", r.Status, r.Header.Get("Allow"))
		}
	})
}

// TestAnAnswerThatWasNotReadIsRemembered leaves in the middle of a stream.
func TestAnAnswerThatWasNotReadIsRemembered(t *testing.T) {
	v, room := endless(t)
	h := openOn(t, v, room)
	r := h.askAs(t, "gone", contract.PathChatCompletions, chat("demo:demo-math", "x", fields{"stream": true, "max_tokens": endlessTokens}))
	if _, err := r.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	var got contract.RequestRecord
	waitFor(t, "the request to end", func() (found bool) {
		var code int
		got, code = h.remembered(t, "gone")
		return code == http.StatusOK
	})
	if got.Error != "client_gone" || got.Adaptation.Expert != "demo-math" || got.Finish != nil {
		t.Errorf("remembered %+v", got)
	}
	if r, e := h.mark(t, fields{"request": "gone", "right": true}); r.StatusCode != http.StatusConflict || e.Error.Code != "request_not_answered" || !strings.Contains(e.Error.Message, "client_gone") {
		t.Errorf("marked: %s, %+v", r.Status, e.Error)
	}
}

// mark posts an outcome.
func (h *house) mark(t testing.TB, body any) (*http.Response, answer) {
	t.Helper()
	a, r := h.ask(t, contract.PathOutcome, body)
	return r, a
}

// TestOutcomesAreCountedByExpert marks answers of an expert, of a mixture and of the base, and
// looks at them where they are told: in what is remembered, the status and the metrics.
func TestOutcomesAreCountedByExpert(t *testing.T) {
	h := open(t, nil)
	h.swap(t, func() contract.ExpertSet { s := h.set(); s.Strategy = contract.StrategyFixed; return s }())
	marks := map[string]bool{"demo:demo-math": true, "demo:base": false, "demo": true}
	ids := map[string]string{}
	for model, right := range marks {
		a, _ := h.ask(t, contract.PathChatCompletions, chat(model, "x", nil))
		ids[model] = a.ID
		for range 2 { // Once counts.
			if r, _ := h.mark(t, fields{"request": a.ID, "right": right, "comment": "as seen"}); r.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", model, r.Status)
			}
		}
		if got, _ := h.remembered(t, a.ID); got.Outcome == nil || got.Outcome.Right != right || got.Outcome.Comment != "as seen" || time.Since(got.Outcome.Time) > time.Minute {
			t.Errorf("%s: remembered %+v", model, got.Outcome)
		}
	}
	check := func(when string, math, code, base *contract.Outcomes) {
		t.Helper()
		st := h.Status()
		if diff := cmp.Diff([]*contract.Outcomes{math, code, base}, []*contract.Outcomes{st.Experts[0].Outcomes, st.Experts[1].Outcomes, st.BaseOutcomes}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	one := &contract.Outcomes{Right: 1}
	check("marked", &contract.Outcomes{Right: 2}, one, &contract.Outcomes{Wrong: 1})
	h.mark(t, fields{"request": ids["demo"], "right": false})
	check("thought otherwise", &contract.Outcomes{Right: 1, Wrong: 1}, &contract.Outcomes{Wrong: 1}, &contract.Outcomes{Wrong: 1})
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	for _, want := range []string{
		`t2_outcomes{expert="demo-math",outcome="right"} 1`, `t2_outcomes{expert="demo-math",outcome="wrong"} 1`,
		`t2_outcomes{expert="demo-code",outcome="right"} 0`, `t2_outcomes{expert="base",outcome="wrong"} 1`, "\nt2_kept_requests 3\n", "\nt2_kept_request_bytes ",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	// Another version of an expert has nothing to do with what this one answered; that which
	// stays keeps its outcomes.
	next := h.set()
	next.Experts[0].Digest = h.volume.Expert(t, "math", 9).Digest
	h.swap(t, next)
	h.mark(t, fields{"request": ids["demo:demo-math"], "right": false})
	check("another version", nil, &contract.Outcomes{Wrong: 1}, &contract.Outcomes{Wrong: 1})
}

func TestOutcomesThatMakeNoSense(t *testing.T) {
	h := open(t, nil)
	a, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "x", nil))
	for name, c := range map[string]struct {
		body        any
		status      int
		param, code string
		message     string
	}{
		"no JSON":                     {"{", 400, "", "invalid_json", "no JSON"},
		"nothing":                     {"", 400, "", "invalid_json", "ends too early or is empty"},
		"a list":                      {"[]", 400, "", "invalid_json", "must be an object"},
		"no request":                  {fields{"right": true}, 400, "request", "missing_required_parameter", "X-Request-Id"},
		"no verdict":                  {fields{"request": a.ID}, 400, "right", "missing_required_parameter", "true if the answer was right"},
		"a verdict of null":           {`{"request":"x","right":null}`, 400, "right", "missing_required_parameter", "right is missing"},
		"a verdict in words":          {fields{"request": a.ID, "right": "yes"}, 400, "right", "invalid_type", "must be true or false"},
		"an id that is none":          {fields{"request": 7, "right": true}, 400, "request", "invalid_type", "must be a string"},
		"a comment too long":          {fields{"request": a.ID, "right": true, "comment": strings.Repeat("x", 1025)}, 400, "comment", "invalid_value", "1025 bytes, at most 1024"},
		"a field that is none":        {fields{"request": a.ID, "right": true, "score": 0.5}, 400, "score", "unsupported_parameter", "score"},
		"a request that there is not": {fields{"request": "chatcmpl-nobody", "right": true}, 404, "", "request_not_found", "has no request"},
		"a body too large":            {fields{"request": a.ID, "right": true, "comment": strings.Repeat("x", 9000)}, 413, "", "request_too_large", "more than 8192 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r, got := h.mark(t, c.body)
			if e := got.Error; r.StatusCode != c.status || e == nil || e.Param != c.param || e.Code != c.code || !strings.Contains(e.Message, c.message) {
				t.Errorf("%s, %+v", r.Status, e)
			}
		})
	}
	if got, _ := h.remembered(t, a.ID); got.Outcome != nil {
		t.Errorf("one of them was taken: %+v", got.Outcome)
	}
	// The longest comment, escaped as far as JSON can.
	if r, got := h.mark(t, `{"request":"`+a.ID+`","right":true,"comment":"`+strings.Repeat(`\u0078`, 1024)+`"}`); r.StatusCode != http.StatusOK {
		t.Errorf("%s, %+v", r.Status, got.Error)
	}
}

// outcomes lists what was marked.
func (h *house) outcomes(t testing.TB, bearer, query string) (lines []string, code int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.admin.URL+contract.PathOutcomes+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+bearer)
	body, code := do(t, r)
	return strings.FieldsFunc(body, func(r rune) bool { return r == '\n' }), code
}

// TestMarkedAnswersMakeDataSets marks answers and reads the lists of them as a training would.
func TestMarkedAnswersMakeDataSets(t *testing.T) {
	h := open(t, func(c *server.Config) { c.KeepText = true })
	system := fields{"model": "demo:demo-code", "max_tokens": 3, "seed": 1, "messages": []fields{
		{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add two."},
	}}
	var said []string
	for _, c := range []struct {
		path  string
		body  fields
		right bool
	}{
		{contract.PathChatCompletions, chat("demo:demo-math", "What is 2+3?", nil), true},
		{contract.PathChatCompletions, system, true},
		{contract.PathCompletions, fields{"model": "demo:demo-math", "prompt": "Once upon", "max_tokens": 5, "seed": 2}, true},
		{contract.PathChatCompletions, chat("demo:base", "Who are you?", nil), false},
	} {
		a, r := h.ask(t, c.path, c.body)
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %+v", r.Status, a.Error)
		}
		text := a.Choices[0].Text
		if m := a.Choices[0].Message; m != nil {
			text = m.Content
		}
		said = append(said, text)
		h.mark(t, fields{"request": a.ID, "right": c.right})
	}
	// What nobody has marked is not listed, and neither is a stream that was not kept.
	h.ask(t, contract.PathChatCompletions, chat("demo:demo-math", "unmarked", nil))

	for name, c := range map[string]struct {
		query string
		want  []int // By what was asked.
	}{
		"all":                  {"", []int{0, 1, 2, 3}},
		"wrong ones":           {"?right=false", []int{3}},
		"of an expert":         {"?expert=demo-math&format=Records", []int{0, 2}},
		"of the base":          {"?expert=base", []int{3}},
		"chats":                {"?format=Chat", []int{0, 1}},
		"chats that are wrong": {"?format=Chat&right=false", []int{3}},
		"pairs":                {"?format=Pairs", []int{0, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			lines, code := h.outcomes(t, token, c.query)
			if code != http.StatusOK || len(lines) != len(c.want) {
				t.Fatalf("status %d: %s", code, lines)
			}
			for i, line := range lines {
				var l struct {
					Right    *bool
					Messages []struct{ Role, Content string }
					Answer   string
					T2       *contract.Adaptation
				}
				if err := json.Unmarshal([]byte(line), &l); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				text := l.Answer
				if n := len(l.Messages); n > 0 {
					text = l.Messages[n-1].Content
				}
				if l.T2 == nil && (l.Right == nil || text != said[c.want[i]]) {
					t.Errorf("line %s, want the answer %q", line, said[c.want[i]])
				}
			}
			format := map[bool]string{true: contract.FormatChat, false: contract.FormatPairs}[strings.Contains(c.query, "Chat")]
			if !strings.Contains(c.query, "format="+format) {
				return
			}
			file := filepath.Join(t.TempDir(), "marked.jsonl")
			if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			set, err := dataset.Load(t.Context(), contract.DatasetSpec{Path: file, Format: format}, nil)
			if err != nil || len(set.Records) != len(c.want) || set.Records[0].Reference.Answer != said[c.want[0]] {
				t.Errorf("a training reads %+v (%v)", set, err)
			}
		})
	}
}

// TestTextIsKeptOnlyWhereItIsAskedFor marks an answer of a server as it is by default.
func TestTextIsKeptOnlyWhereItIsAskedFor(t *testing.T) {
	h := open(t, nil)
	a, _ := h.ask(t, contract.PathChatCompletions, chat("demo", "my password is hunter2", nil))
	h.mark(t, fields{"request": a.ID, "right": true})
	for query, want := range map[string]int{"": 1, "?format=Chat": 0, "?format=Pairs": 0} {
		lines, code := h.outcomes(t, token, query)
		if code != http.StatusOK || len(lines) != want || strings.Contains(strings.Join(lines, ""), "hunter2") {
			t.Errorf("%q: status %d, %s", query, code, lines)
		}
	}
	if body, _ := get(t, h.api.URL+contract.PathRequests+"/"+a.ID); strings.Contains(body, "hunter2") || strings.Contains(body, a.Choices[0].Message.Content) {
		t.Errorf("what is remembered has the text: %s", body)
	}
}

func TestOutcomesAreNotForEverybody(t *testing.T) {
	h := open(t, nil)
	for name, c := range map[string]struct {
		bearer, query string
		status        int
		message       string
	}{
		"no token":            {"", "", http.StatusUnauthorized, "bearer token"},
		"another token":       {"x", "", http.StatusUnauthorized, "bearer token"},
		"an unknown format":   {token, "?format=CSV", http.StatusBadRequest, "it must be Records, Chat or Pairs"},
		"no verdict":          {token, "?right=maybe", http.StatusBadRequest, "it must be true or false"},
		"another parameter":   {token, "?limit=5", http.StatusBadRequest, "limit is no parameter"},
		"a parameter, twice":  {token, "?expert=a&expert=b", http.StatusBadRequest, "more than once"},
		"none that were made": {token, "", http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			lines, code := h.outcomes(t, c.bearer, c.query)
			if code != c.status || !strings.Contains(strings.Join(lines, ""), c.message) {
				t.Errorf("status %d: %s", code, lines)
			}
		})
	}
	if _, code := get(t, h.api.URL+contract.PathOutcomes); code != http.StatusNotFound {
		t.Errorf("on the API's port: status %d", code)
	}
}
