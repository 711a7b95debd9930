package server_test

import (
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/tracing"
	"github.com/transformersquared/operator/runtime/tracing/tracingtest"
)

// TestARequestIsATrace asks with the traceparent of a client, and reads what a collector got: a
// span of the request, below the client's, and below it one of each part of the answer.
func TestARequestIsATrace(t *testing.T) {
	collector := &tracingtest.Receiver{}
	receiver := httptest.NewServer(collector)
	defer receiver.Close()
	provider, err := tracing.New(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.URL}[name]
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, func(c *server.Config) { c.Tracer = provider.Tracer("test") })
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	send := func(path string, body fields) {
		t.Helper()
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.api.URL+path, strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Traceparent", traceparent)
		r.Header.Set("X-Request-Id", "mine")
		do(t, r)
	}
	send(contract.PathChatCompletions, chat("demo", "my password is hunter2", fields{"stream": true, "max_tokens": 3, "temperature": 0.5}))
	record, _ := h.remembered(t, "mine")
	send(contract.PathCompletions, fields{"model": "demo:base", "prompt": "x", "max_tokens": 2})
	send(contract.PathChatCompletions, chat("gpt-9", "x", nil))
	get(t, h.api.URL+contract.PathModels)
	h.handled()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := collector.Spans()
	var names []string
	for _, s := range spans {
		names = append(names, s.GetName())
		if id := hex.EncodeToString(s.GetTraceId()); id != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("span %s is of the trace %s", s.GetName(), id)
		}
		if strings.Contains(s.String(), "hunter2") {
			t.Errorf("a span has the prompt: %s", s)
		}
	}
	want := []string{"chat demo", "pass 1", "queue", "pass 2", "text_completion demo:base", "queue", "pass 2", "chat"}
	if !slices.Equal(names, want) {
		t.Fatalf("spans %q, want %q", names, want)
	}
	root := spans[0]
	if hex.EncodeToString(root.GetParentSpanId()) != "b7ad6b7169203331" || root.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
		t.Errorf("the request's span %v", root)
	}
	checkParts(t, root, spans[1:4])
	a := record.Adaptation
	checkAttributes(t, root, map[string]string{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "t2", "gen_ai.request.model": "demo", "gen_ai.response.model": "demo", "gen_ai.response.id": "chatcmpl-mine",
		"gen_ai.request.stream": "bool_value:true", "gen_ai.request.temperature": "double_value:0.5", "gen_ai.usage.output_tokens": "int_value:3",
		"gen_ai.response.finish_reasons": `array_value:{values:{string_value:"length"}}`, "http.response.status_code": "int_value:200", "http.route": "/v1/chat/completions",
		"http.request.method": "POST", "t2.policy": "demo", "t2.strategy": "Prompt", "t2.expert": a.Expert, "t2.expert_set.digest": a.ExpertSetDigest, "t2.request.id": "mine",
	})
	checkAttributes(t, spans[1], map[string]string{"t2.expert": a.Expert, "t2.strategy": "Prompt", "t2.expert_set.digest": a.ExpertSetDigest})
	checkAttributes(t, spans[3], map[string]string{"t2.expert": a.Expert, "gen_ai.usage.output_tokens": "int_value:3"})
	checkAttributes(t, spans[7], map[string]string{"error.type": "model_not_found", "http.response.status_code": "int_value:404"})
	if status := spans[7].GetStatus().GetCode(); status != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("what is the client's fault has the status %v", status)
	}
	if record.TraceID != "0af7651916cd43dd8448eb211c80319c" || strings.Count(h.log.String(), `"trace":"0af7651916cd43dd8448eb211c80319c"`) != 3 {
		t.Errorf("the trace is not in what is remembered (%s), or not in the log", record.TraceID)
	}
}

// checkParts holds the parts of an answer against the span of its request: they are in it, one
// after the other.
func checkParts(t *testing.T, root *tracepb.Span, parts []*tracepb.Span) {
	t.Helper()
	at := root.GetStartTimeUnixNano()
	for _, p := range parts {
		if string(p.GetParentSpanId()) != string(root.GetSpanId()) {
			t.Errorf("%s is no part of the request", p.GetName())
		}
		if p.GetStartTimeUnixNano() < at || p.GetEndTimeUnixNano() < p.GetStartTimeUnixNano() || p.GetEndTimeUnixNano() > root.GetEndTimeUnixNano() {
			t.Errorf("%s is from %d to %d, after %d, of a request until %d", p.GetName(), p.GetStartTimeUnixNano(), p.GetEndTimeUnixNano(), at, root.GetEndTimeUnixNano())
		}
		at = p.GetEndTimeUnixNano()
	}
}

func checkAttributes(t *testing.T, span *tracepb.Span, want map[string]string) {
	t.Helper()
	got := tracingtest.Attributes(span.GetAttributes())
	for key, value := range want {
		if strings.ReplaceAll(got[key], " ", "") != strings.ReplaceAll(value, " ", "") {
			t.Errorf("%s: %s is %q, want %q", span.GetName(), key, got[key], value)
		}
	}
}

// TestATraceThatIsNotSampledIsNone asks with a traceparent that says so.
func TestATraceThatIsNotSampledIsNone(t *testing.T) {
	collector := &tracingtest.Receiver{}
	receiver := httptest.NewServer(collector)
	defer receiver.Close()
	provider, err := tracing.New(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.URL}[name]
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, func(c *server.Config) { c.Tracer = provider.Tracer("test") })
	b, err := json.Marshal(chat("demo", "x", nil))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.api.URL+contract.PathChatCompletions, strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	if body, code := do(t, r); code != http.StatusOK {
		t.Errorf("status %d: %s", code, body)
	}
	h.handled()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spans := collector.Spans(); len(spans) != 0 || strings.Contains(h.log.String(), `"trace"`) {
		t.Errorf("spans %v", spans)
	}
}
