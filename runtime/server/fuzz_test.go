package server_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// FuzzBodies posts bodies to all endpoints and to the admin API. Whatever
// comes, the server answers, blames no fault of the client on itself, and goes
// on.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"model":"demo","messages":[{"role":"user","content":"hi"}],"max_tokens":3,"seed":1}`,
		`{"model":"demo:base","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stream":true,"stream_options":{"include_usage":true},"max_tokens":2}`,
		`{"model":"demo:demo-math","prompt":[1,2,3],"logprobs":3,"stop":["a","b"],"max_tokens":4}`,
		`{"model":"demo","prompt":["x"],"temperature":1e-300,"top_p":0.0001,"top_k":1}`,
		`{"strategy":"Prompt","experts":[{"name":"x","skill":"y","digest":"sha256:0"}]}`,
		`{"model":"demo","messages":[{"role":"user","content":"<|end|>\u0000\ud800"}],"temperature":1e309}`,
		`{"model":"demo:base","messages":[{"role":"assistant","content":null,"name":"<|end|>"}],"continue_final_message":true,"max_tokens":2}`,
		`{"model":"demo","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"a":[{"b":1e400}],"c":"<|end|>"},"max_tokens":1}`,
		`{"model":"demo:base","prompt":[[256,257]],"min_p":0.5,"repetition_penalty":1.5,"ignore_eos":true,"logprobs":20,"max_tokens":3}`,
		`{"model":"demo:base","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"array","items":{"$ref":"#"}}}},"max_tokens":3}`,
		`{"model":"demo:base","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"},"n":2,"max_tokens":3}`,
		`{"model":"demo:base","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","strict":true,"parameters":{"type":"object","properties":{"a":{"enum":[1,"<|end|>"]}}}}}],"max_tokens":3}`,
		`{"model":"demo:base","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","description":"<|user|>"}}],"tool_choice":"required","stream":true,"max_tokens":3}`,
		`{"model":"demo","messages":[{"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":[1e400,{\"<|end|>\":null}]}"}}]},{"role":"tool","tool_call_id":"1","content":"<tool_call>"}],"tools":[],"max_tokens":2}`,
		`[[[[[[[[`, `{"model":{}}`, `{"messages":{"0":1}}`, "\xff\xfe", `{"seed":-9223372036854775808,"model":"demo","prompt":"x"}`, ``,
	} {
		f.Add(seed)
	}
	h := openCalling(f)
	api, admin := h.API(), h.Admin()
	allowed := []int{200, 202, 400, 404, 413, 422, 503}
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{contract.PathChatCompletions, contract.PathCompletions, contract.PathExplain, contract.PathExpertSet} {
			method, handler := http.MethodPost, api
			if path == contract.PathExpertSet {
				method, handler = http.MethodPut, admin
			}
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if !slices.Contains(allowed, w.Code) {
				t.Errorf("%s with %q: status %d, %s", path, body, w.Code, w.Body)
			}
			if w.Code >= 400 {
				var e struct{ Error json.RawMessage }
				if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || len(e.Error) < 4 {
					t.Errorf("%s with %q: %s is no error", path, body, w.Body)
				}
			}
		}
	})
}
