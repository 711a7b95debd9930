package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/transformersquared/operator/runtime/contract"
)

// promise is a row of the table of fields in runtime/README.md.
type promise struct {
	field, endpoint, fate string
	values                []json.RawMessage // That are taken, where only some are.
}

var quoted = regexp.MustCompile("`([^`]+)`")

func promises(t *testing.T) []promise {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	tables := strings.Split(string(b), "| field | in | |\n|---|---|---|\n")[1:]
	if len(tables) != 2 {
		t.Fatalf("the README has %d tables of fields, want one of chats and completions, and one of responses", len(tables))
	}
	var all []promise
	for line := range strings.Lines(strings.Join(tables, "")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			continue
		}
		p := promise{endpoint: strings.TrimSpace(cells[1])}
		p.fate, _, _ = strings.Cut(strings.NewReplacer(":", " ", ",", " ", ";", " ").Replace(strings.TrimSpace(cells[2])), " ")
		if p.fate == "only" {
			for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
				p.values = append(p.values, json.RawMessage(m[1]))
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			p.field = m[1]
			all = append(all, p)
		}
	}
	if len(all) < 120 {
		t.Fatalf("only %d fields are in the README's table", len(all))
	}
	return all
}

// bodyWith is a request to an endpoint with a field, or an element of one, set.
func bodyWith(endpoint, field string, value any) (path string, body fields) {
	switch endpoint {
	case "responses":
		path, body = contract.PathResponses, fields{"input": "x", "max_output_tokens": 1}
	case "chat":
		part := fields{"type": "text", "text": "x"}
		message := fields{"role": "assistant", "content": []any{part}}
		path, body = contract.PathChatCompletions, fields{"messages": []any{message}, "max_tokens": 1}
		for prefix, object := range map[string]fields{"messages[0].content[0].": part, "messages[0].": message} {
			if name, ok := strings.CutPrefix(field, prefix); ok && !strings.Contains(name, ".") {
				object[name] = value
				field = ""
			}
		}
	default:
		path, body = contract.PathCompletions, fields{"prompt": "x", "max_tokens": 1}
	}
	body["model"] = "demo:base"
	switch name, nested := strings.CutPrefix(field, "stream_options."); {
	case nested:
		body["stream"], body["stream_options"] = true, fields{name: value}
	case field != "":
		body[field] = value
	}
	return path, body
}

// TestEveryFieldIsHonouredOrRefusedByName reads the README's table of fields and
// tries each of them.
func TestEveryFieldIsHonouredOrRefusedByName(t *testing.T) {
	h := open(t, nil)
	taken := func(t *testing.T, endpoint, field string, value any) {
		t.Helper()
		path, body := bodyWith(endpoint, field, value)
		r, err := post(t.Context(), h.api.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("%v gives %s", body, r.Status)
		}
	}
	refused := func(t *testing.T, endpoint, field string, value any, code string) {
		t.Helper()
		path, body := bodyWith(endpoint, field, value)
		got, resp := h.ask(t, path, body)
		if resp.StatusCode != http.StatusBadRequest || got.Error == nil {
			t.Fatalf("%v gives %s: it is ignored", body, resp.Status)
		}
		// An element of what is wrong is named too, such as messages[0].role.
		if got.Error.Param != field && !strings.HasPrefix(got.Error.Param, field+"[") && !strings.HasPrefix(got.Error.Param, field+".") ||
			code != "" && got.Error.Code != code || !strings.Contains(got.Error.Message, field) {
			t.Errorf("%v gives %+v, want the field %s and the code %q", body, *got.Error, field, code)
		}
	}
	const unsupported = "unsupported_parameter"
	refused(t, "chat", "temperatur", 0.5, unsupported)
	refused(t, "chat", "messages[0].contents", "x", unsupported)
	for _, p := range promises(t) {
		for _, endpoint := range []string{"chat", "completions", "responses"} {
			if p.endpoint != endpoint && (p.endpoint != "both" || endpoint == "responses") {
				continue
			}
			t.Run(endpoint+"/"+p.field, func(t *testing.T) {
				switch p.fate {
				case "honoured": // Who reads a field notices what it cannot be.
					refused(t, endpoint, p.field, []any{[]any{fields{"odd": 1}}}, "")
				case "taken":
					taken(t, endpoint, p.field, "anything")
					taken(t, endpoint, p.field, fields{"any": "thing"})
				case "only":
					for _, value := range p.values {
						taken(t, endpoint, p.field, value)
					}
					refused(t, endpoint, p.field, fields{"type": "other"}, unsupported)
					if len(p.values) == 1 && (string(p.values[0]) == "true" || string(p.values[0]) == "false") {
						refused(t, endpoint, p.field, string(p.values[0]) == "false", unsupported)
					}
				case "refused":
					taken(t, endpoint, p.field, nil)
					for _, value := range []any{"x", 1, 0, true, false, []any{}, fields{}} {
						refused(t, endpoint, p.field, value, unsupported)
					}
				default:
					t.Errorf("the README says %q", p.fate)
				}
			})
		}
	}
}

// TestTheTableHasEveryFieldOfOpenAIsAPI asks the types of OpenAI's own client.
func TestTheTableHasEveryFieldOfOpenAIsAPI(t *testing.T) {
	listed := promises(t)
	for _, c := range []struct {
		endpoint, prefix string
		of               any
	}{
		{"chat", "", openai.ChatCompletionNewParams{}},
		{"completions", "", openai.CompletionNewParams{}},
		{"responses", "", responses.ResponseNewParams{}},
		{"responses", "stream_options.", responses.ResponseNewParamsStreamOptions{}},
		{"chat", "stream_options.", openai.ChatCompletionStreamOptionsParam{}},
		{"chat", "messages[0].", openai.ChatCompletionAssistantMessageParam{}},
		{"chat", "messages[0].", openai.ChatCompletionUserMessageParam{}},
		{"chat", "messages[0].", openai.ChatCompletionToolMessageParam{}},
		{"chat", "messages[0].content[0].", openai.ChatCompletionContentPartTextParam{}},
	} {
		kind := reflect.TypeOf(c.of)
		for field := range kind.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			if !slices.ContainsFunc(listed, func(p promise) bool {
				return p.field == c.prefix+name && (p.endpoint == c.endpoint || p.endpoint == "both" && c.endpoint != "responses")
			}) {
				t.Errorf("the README's table does not say what becomes of %s%s in %s", c.prefix, name, c.endpoint)
			}
		}
	}
}

// TestHonouredFieldsAreTakenInTheirBounds sends each field that is honoured with
// values that it may have, at the bounds where it has some.
func TestHonouredFieldsAreTakenInTheirBounds(t *testing.T) {
	h := open(t, nil)
	for endpoint, values := range map[string]map[string][]any{
		"both": {
			"stream": {false}, "n": {1, 16}, "seed": {0, -1, 1 << 40}, "stop": {"x", []string{"x", "y"}, []string{}}, "max_tokens": {1, 300},
			"logit_bias": {fields{}, fields{"65": -100}}, "temperature": {0, 2, 0.5}, "top_p": {0, 1}, "top_k": {-1, 0, 5}, "min_p": {0, 1, 0.05},
			"frequency_penalty": {-2, 2}, "presence_penalty": {-2, 2}, "repetition_penalty": {0.01, 1, 1.1, 100}, "ignore_eos": {true, false},
			"stream_options.include_usage": {true, false},
		},
		"chat": {
			"max_completion_tokens": {1}, "logprobs": {true, false}, "top_logprobs": {0}, "add_generation_prompt": {true, false},
			"continue_final_message": {true, false}, "chat_template_kwargs": {fields{}, fields{"enable_thinking": false, "list": []any{1, "x", nil}}},
			"messages[0].name": {"ann", ""}, "messages[0].content": {nil, "x", []any{}}, "messages[0].role": {"user", "system", "developer"},
		},
		"responses": {
			"stream": {false}, "seed": {0, 1 << 40}, "stop": {"x"}, "temperature": {0, 2}, "top_p": {0, 1}, "top_k": {5}, "ignore_eos": {true},
			"input": {"x", []fields{{"role": "developer", "content": "x"}}}, "instructions": {"x", ""}, "max_output_tokens": {1, 300}, "user": {"ann"},
			"metadata": {fields{}, fields{"a": "b"}}, "include": {[]string{}, []string{"reasoning.encrypted_content"}}, "top_logprobs": {0}, "tools": {[]any{}},
			"tool_choice": {"none", "auto"}, "parallel_tool_calls": {true, false}, "cache_salt": {"x"}, "chat_template_kwargs": {fields{"a": 1}},
			"text": {fields{}, fields{"format": fields{"type": "text"}, "verbosity": "medium"}}, "add_generation_prompt": {true, false},
		},
		"completions": {
			"logprobs": {0, 20}, "best_of": {1}, "add_special_tokens": {true, false}, "prompt": {"x", []string{"x"}, []int{1, 2}, [][]int{{1, 2}}},
		},
	} {
		for field, list := range values {
			for _, value := range list {
				for _, e := range []string{"chat", "completions", "responses"} {
					if endpoint != e && (endpoint != "both" || e == "responses") {
						continue
					}
					path, body := bodyWith(e, field, value)
					r, err := post(t.Context(), h.api.URL+path, body)
					if err != nil {
						t.Fatal(err)
					}
					_ = r.Body.Close()
					if r.StatusCode != http.StatusOK {
						t.Errorf("%s: %s = %s gives %s", e, field, fmt.Sprint(value), r.Status)
					}
				}
			}
		}
	}
}
