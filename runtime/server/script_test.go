package server_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
)

// act is a server on a model that follows a script; there is demo:base.
func act(t testing.TB, s checkpointtest.Script) *house {
	t.Helper()
	dir := t.TempDir()
	s.Write(t, dir)
	return serve(t, dir)
}

// serve is a server on the model in dir.
func serve(t testing.TB, dir string) *house {
	t.Helper()
	h := &house{Server: server.New(server.Config{
		Name: "demo", ModelDir: dir, Threads: 1, MaxBatch: 2, Log: slog.New(slog.NewJSONHandler(io.Discard, nil)),
	})}
	if err := h.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	h.api = httptest.NewServer(h.API())
	t.Cleanup(h.api.Close)
	return h
}

// after asks to complete the prompt that a token is, greedily.
func after(t testing.TB, s checkpointtest.Script, token string, more fields) fields {
	t.Helper()
	f := fields{"model": "demo:base", "prompt": []int{s.ID(t, token)}, "temperature": 0, "max_tokens": 20}
	maps.Copy(f, more)
	return f
}

// chatAfter asks the same in a chat, whose template shows the text alone.
func chatAfter(message string, more fields) fields {
	f := fields{"model": "demo:base", "messages": []fields{{"role": "user", "content": message}}, "temperature": 0, "max_tokens": 20}
	maps.Copy(f, more)
	return f
}

// both asks whole and streamed, and returns the answer's text, which must be the same.
func (h *house) both(t testing.TB, path string, body fields) (text, finish string) {
	t.Helper()
	whole, resp := h.ask(t, path, body)
	if resp.StatusCode != http.StatusOK || len(whole.Choices) != 1 {
		t.Fatalf("status %s: %+v", resp.Status, whole.Error)
	}
	text, finish = whole.Choices[0].Text, *whole.Choices[0].Finish
	if m := whole.Choices[0].Message; m != nil {
		text = m.Content
	}
	body["stream"] = true
	chunks, done := h.stream(t, path, body)
	streamed, streamedFinish := "", ""
	for _, p := range chunks {
		for _, c := range p.Choices {
			streamed += c.Text
			if c.Delta != nil {
				streamed += c.Delta.Content
			}
			if c.Finish != nil {
				streamedFinish = *c.Finish
			}
		}
	}
	if !done || streamed != text || streamedFinish != finish {
		t.Errorf("streamed %q (%s), whole %q (%s)", streamed, streamedFinish, text, finish)
	}
	return text, finish
}

func TestBadBytesLoseNothingOfAnAnswer(t *testing.T) {
	script := checkpointtest.Says(t, []string{":", "▁I", "<0xE2>", "<0x9D>", "<0xA4>", "<0xEF>", "▁love", "▁you"}, "▁", "x")
	h := act(t, script)
	const all = "I❤\uFFFD love you"
	for _, c := range []struct{ name, stop, chat, text, finish string }{
		{"to its end", "never", all, " " + all, "stop"},
		{"to a stop text behind the bad byte", " you", "I❤\uFFFD love", " I❤\uFFFD love", "stop"},
		{"to a stop text across it", "❤\uFFFD l", "I", " I", "stop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if text, finish := h.both(t, contract.PathChatCompletions, chatAfter("x", fields{"stop": c.stop})); text != c.chat || finish != c.finish {
				t.Errorf("chat: %q (%s), want %q (%s)", text, finish, c.chat, c.finish)
			}
			if text, finish := h.both(t, contract.PathCompletions, after(t, script, ":", fields{"stop": c.stop})); text != c.text || finish != c.finish {
				t.Errorf("completion: %q (%s), want %q (%s)", text, finish, c.text, c.finish)
			}
		})
	}
	// Cut in the midst of a character.
	if text, finish := h.both(t, contract.PathChatCompletions, chatAfter("x", fields{"max_tokens": 3})); text != "I\uFFFD\uFFFD" || finish != "length" {
		t.Errorf("cut: %q (%s)", text, finish)
	}
}

func TestCompletionsGoOnBehindThePrompt(t *testing.T) {
	script := checkpointtest.Says(t, []string{"a", "▁time", ",", "▁there"}, "▁", "O", "n", "c", "e", "u", "p", "o", ":")
	h := act(t, script)
	if text, _ := h.both(t, contract.PathCompletions, after(t, script, "a", fields{"prompt": "Once upon a"})); text != " time, there" {
		t.Errorf("completed by %q", text)
	}
	// A message that is to be continued is such a prompt, too.
	body := chatAfter("Once", fields{"continue_final_message": true, "messages": []fields{
		{"role": "user", "content": "p"}, {"role": "assistant", "content": "Once upon a"},
	}})
	if text, _ := h.both(t, contract.PathChatCompletions, body); text != " time, there" {
		t.Errorf("continued by %q", text)
	}
	// Without a generation prompt the template ends in the message.
	if text, _ := h.both(t, contract.PathChatCompletions, chatAfter("a", fields{"add_generation_prompt": false})); text != "time, there" {
		t.Errorf("without a generation prompt: %q", text)
	}
	// And with a variable that the template knows.
	if text, _ := h.both(t, contract.PathChatCompletions, chatAfter("p", fields{
		"add_generation_prompt": false, "chat_template_kwargs": fields{"shout": "a"},
	})); text != "time, there" {
		t.Errorf("with a variable: %q", text)
	}
	// One list of tokens is one prompt, and an assistant may have said nothing.
	if text, _ := h.both(t, contract.PathCompletions, after(t, script, "a", fields{"prompt": [][]int{{script.ID(t, "a")}}})); text != " time, there" {
		t.Errorf("a list of one prompt is completed by %q", text)
	}
	for _, nothing := range []fields{{"role": "assistant", "content": nil}, {"role": "assistant"}} {
		body := chatAfter("", fields{"add_generation_prompt": false, "messages": []fields{{"role": "user", "content": "a"}, nothing}})
		if text, _ := h.both(t, contract.PathChatCompletions, body); text != "time, there" {
			t.Errorf("after %v: %q", nothing, text)
		}
	}
}

// spoken has the fields of log-probabilities as they are sent.
type spoken struct {
	Choices []struct {
		Logprobs json.RawMessage `json:"logprobs"`
	} `json:"choices"`
}

func (h *house) logprobs(t *testing.T, path string, body fields) string {
	t.Helper()
	r, err := post(t.Context(), h.api.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var got spoken
	if err := json.NewDecoder(r.Body).Decode(&got); err != nil || len(got.Choices) != 1 {
		t.Fatalf("%s: %+v, %v", r.Status, got, err)
	}
	return string(got.Choices[0].Logprobs)
}

func TestLogprobsSpellTokensAsTheyAreWritten(t *testing.T) {
	script := checkpointtest.Says(t, []string{":", "▁true", "<0xE2>", "<0x9D>", "<0xA4>", "true"}, "<0x61>", "a", "▁", "x")
	// Two tokens that differ by a blank, and two that are spelled alike.
	script.Follows[":"] = map[string]float64{"▁true": 3, "true": 2, "a": 1, "<0x61>": 1}
	h := act(t, script)
	for _, c := range []struct {
		name, path string
		body       fields
		want       string
	}{
		{"without alternatives there is an empty list", contract.PathChatCompletions, chatAfter("x", fields{"logprobs": true}),
			`{"content":[` +
				`{"token":" true","logprob":0,"bytes":[32,116,114,117,101],"top_logprobs":[]},` +
				`{"token":"\\xe2","logprob":0,"bytes":[226],"top_logprobs":[]},` +
				`{"token":"\\x9d","logprob":0,"bytes":[157],"top_logprobs":[]},` +
				`{"token":"\\xa4","logprob":0,"bytes":[164],"top_logprobs":[]},` +
				`{"token":"true","logprob":0,"bytes":[116,114,117,101],"top_logprobs":[]}],"refusal":null}`},
		{"tokens that differ by a blank are two", contract.PathChatCompletions, chatAfter("x", fields{"logprobs": true, "top_logprobs": 2, "max_tokens": 1}),
			`{"content":[{"token":" true","logprob":0,"bytes":[32,116,114,117,101],"top_logprobs":[` +
				`{"token":" true","logprob":0,"bytes":[32,116,114,117,101]},{"token":"true","logprob":0,"bytes":[116,114,117,101]}]}],"refusal":null}`},
		{"in the older form, too, and those spelled alike", contract.PathCompletions, after(t, script, ":", fields{"logprobs": 4, "max_tokens": 1}),
			`{"text_offset":[0],"token_logprobs":[0],"tokens":[" true"],"top_logprobs":[{" true":0,"a":0,"token_id:8":0,"true":0}]}`},
		{"offsets count characters", contract.PathCompletions, after(t, script, ":", fields{"logprobs": 0}),
			`{"text_offset":[0,5,5,5,6],"token_logprobs":[0,0,0,0,0],"tokens":[" true","bytes:\\xe2","bytes:\\x9d","bytes:\\xa4","true"],` +
				`"top_logprobs":[{" true":0},{"bytes:\\xe2":0},{"bytes:\\x9d":0},{"bytes:\\xa4":0},{"true":0}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got, want any
			if err := json.Unmarshal([]byte(h.logprobs(t, c.path, c.body)), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			// Only how likely they are is told elsewhere.
			if diff := cmp.Diff(want, zeroed(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	// The values: logits are factors times √11, the size of the vocabulary.
	var got struct {
		Content []struct {
			Logprob float64 `json:"logprob"`
		} `json:"content"`
	}
	if err := json.Unmarshal([]byte(h.logprobs(t, contract.PathChatCompletions, chatAfter("x", fields{"logprobs": true}))), &got); err != nil {
		t.Fatal(err)
	}
	root, size := math.Sqrt(float64(len(script.Tokens))), float64(len(script.Tokens))
	want := 3*root - math.Log(math.Exp(3*root)+math.Exp(2*root)+2*math.Exp(root)+size-4)
	if math.Abs(got.Content[0].Logprob-want) > 1e-4 {
		t.Errorf("log-probability %v, want %v", got.Content[0].Logprob, want)
	}
}

// zeroed sets the numbers of log-probabilities to 0.
func zeroed(v any) any {
	var walk func(key string, v any) any
	walk = func(key string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if _, isNumber := x.(float64); isNumber {
					v[k] = 0.0
				} else {
					v[k] = walk(k, x)
				}
			}
		case []any:
			for i, x := range v {
				if _, isNumber := x.(float64); isNumber && key == "token_logprobs" {
					v[i] = 0.0
				} else {
					v[i] = walk(key, x)
				}
			}
		}
		return v
	}
	return walk("", v)
}

func TestStreamsHaveUsageAsNullUntilItComes(t *testing.T) {
	script := checkpointtest.Says(t, []string{":", "▁a", "b"}, "▁", "x")
	h := act(t, script)
	for path, body := range map[string]fields{
		contract.PathChatCompletions: chatAfter("x", nil), contract.PathCompletions: after(t, script, ":", nil),
	} {
		for _, asked := range []bool{true, false} {
			body["stream"], body["stream_options"] = true, fields{"include_usage": asked}
			r, err := post(t.Context(), h.api.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			events := strings.Split(strings.TrimSpace(string(all)), "\n\n")
			for i, event := range events[:len(events)-1] {
				want := asked && i < len(events)-2
				if has := strings.Contains(event, `"usage":null`); has != want {
					t.Errorf("%s, asked %v: event %d of %d is %s", path, asked, i, len(events), event)
				}
			}
			if last := events[len(events)-2]; strings.Contains(last, `"total_tokens":`) != asked {
				t.Errorf("%s, asked %v: the last is %s", path, asked, last)
			}
		}
	}
}

func TestSamplingFieldsChangeTheAnswer(t *testing.T) {
	script := checkpointtest.Says(t, []string{":", "a"}, "b", "c", "▁", "x")
	script.Follows[":"] = map[string]float64{"a": 1, "b": .9}
	script.Follows["a"] = map[string]float64{"a": 1, "b": .9}
	script.Follows["b"] = map[string]float64{"c": 1}
	script.Follows["c"] = map[string]float64{checkpointtest.ScriptEnd: 1}
	h := act(t, script)
	ask := func(more fields) string {
		t.Helper()
		text, _ := h.both(t, contract.PathCompletions, after(t, script, ":", more))
		return text
	}
	if got := ask(fields{"max_tokens": 4}); got != "aaaa" {
		t.Fatalf("without any: %q", got)
	}
	// a has been written once: 1/2 is below 0.9. The prompt's ":" is penalised, too.
	if got := ask(fields{"repetition_penalty": 2}); got != "abc" {
		t.Errorf("a repetition penalty gives %q", got)
	}
	if got := ask(fields{"repetition_penalty": 2, "prompt": []int{script.ID(t, "a"), script.ID(t, ":")}}); got != "bc" {
		t.Errorf("a repetition penalty for the prompt gives %q", got)
	}
	// At any temperature, min-p 1 leaves the most likely token.
	for seed := range 5 {
		if got := ask(fields{"max_tokens": 4, "temperature": 2, "min_p": 1, "seed": seed}); got != "aaaa" {
			t.Errorf("min-p 1 gives %q", got)
		}
	}
	if got := ask(fields{"max_tokens": 6, "repetition_penalty": 2, "ignore_eos": true}); !strings.HasPrefix(got, "abc") || got == "abc" {
		t.Errorf("an answer that goes on behind its end is %q", got)
	}
}

func TestWhatNobodyAskedForIsNoReasonToRefuse(t *testing.T) {
	script := checkpointtest.Says(t, []string{"a", "b"}, "▁", "x")
	h := act(t, script)
	// The context has 256 tokens; 16 more, the default, would not fit.
	prompt := make([]int, 250)
	for i := range prompt {
		prompt[i] = script.ID(t, "a")
	}
	got, resp := h.ask(t, contract.PathCompletions, fields{"model": "demo:base", "prompt": prompt, "temperature": 0})
	if resp.StatusCode != http.StatusOK || got.Choices[0].Text != "b" {
		t.Errorf("status %s: %+v", resp.Status, got)
	}
}
