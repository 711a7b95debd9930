package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/transformersquared/operator/runtime/contract"
)

// operations are the endpoints whose requests are traced, by what OpenTelemetry's semantic
// conventions for generative AI call what they do; an explanation is nothing that these know.
var operations = map[string]string{
	endpointChat: "chat", endpointResponses: "chat", endpointText: "text_completion", endpointExplain: "explain",
}

// Spans of the parts of an answer.
const (
	spanPass1 = "pass 1"
	spanQueue = "queue"
	spanPass2 = "pass 2"
)

// trace begins the span of a request, which belongs to the client's where it says so (W3C's
// traceparent). What it returns ends it.
func (s *Server) trace(r *http.Request, endpoint string, rec *record) (traced *http.Request, end func(status int, err error)) {
	operation := operations[endpoint]
	if s.config.Tracer == nil || operation == "" {
		return r, func(int, error) {}
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.config.Tracer.Start(ctx, operation, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(rec.begun))
	return r.WithContext(ctx), func(status int, err error) {
		defer span.End()
		if !span.IsRecording() {
			return
		}
		_, route, _ := strings.Cut(r.Pattern, " ")
		span.SetAttributes(
			attribute.String("http.request.method", r.Method), attribute.String("http.route", route),
			attribute.Int("http.response.status_code", status), attribute.String("t2.request.id", rec.id),
			attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.provider.name", "t2"),
			attribute.String("t2.policy", s.config.Name),
		)
		if err != nil {
			kind := strconv.Itoa(status)
			if code := asAPIError(err).Code; code != nil {
				kind = *code
			}
			span.SetAttributes(attribute.String("error.type", kind))
			if status >= http.StatusInternalServerError { // What is the client's fault is no error of a server.
				span.SetStatus(codes.Error, kind)
			}
		}
		if rec.answered {
			rec.describe(span, operation)
		}
	}
}

// describe says how a request was answered. The model's name is one that there is then, so that
// spans have few names.
func (rec *record) describe(span trace.Span, operation string) {
	a, r, q := rec.outcome.adaptation, rec.outcome.result, rec.query
	if q.model != "" {
		span.SetName(operation + " " + q.model)
		span.SetAttributes(
			attribute.String("gen_ai.request.model", q.model), attribute.String("gen_ai.response.model", q.model),
			attribute.Bool("gen_ai.request.stream", q.stream), attribute.Int("gen_ai.request.choice.count", q.choices),
			attribute.Float64("gen_ai.request.temperature", q.request.Sampling.Temperature), attribute.Float64("gen_ai.request.top_p", q.request.Sampling.TopP),
			attribute.String("gen_ai.response.id", rec.answerID), attribute.StringSlice("gen_ai.response.finish_reasons", rec.outcome.finishes),
			attribute.Int("gen_ai.usage.output_tokens", r.Tokens), attribute.Int("gen_ai.usage.cache_read.input_tokens", r.CachedTokens),
		)
	}
	span.SetAttributes(attribute.Int("gen_ai.usage.input_tokens", r.PromptTokens))
	span.SetAttributes(choice(a)...)
}

// choice are the attributes of what was chosen.
func choice(a contract.Adaptation) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("t2.strategy", a.Strategy), attribute.String("t2.expert", a.Expert), attribute.String("t2.expert_set.digest", a.ExpertSetDigest),
	}
	if a.Fallback != "" {
		list = append(list, attribute.String("t2.fallback", a.Fallback))
	}
	return list
}

// tracePasses makes the spans of an answer's parts, once it has ended: pass 1, if there was one,
// the time in which pass 2 waited to be computed, and pass 2.
func (s *Server) tracePasses(ctx context.Context, chosenAt, begun time.Time, out outcome) {
	if s.config.Tracer == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	part := func(name string, from, to time.Time, attributes ...attribute.KeyValue) {
		_, span := s.config.Tracer.Start(ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attributes...))
		span.End(trace.WithTimestamp(to))
	}
	a, r := out.adaptation, out.result
	if a.Pass1Seconds > 0 {
		took := time.Duration(a.Pass1Seconds * float64(time.Second))
		part(spanPass1, chosenAt, chosenAt.Add(took), append(choice(a), attribute.Int("gen_ai.usage.input_tokens", out.chosen.pass1Tokens))...)
	}
	computed := begun.Add(r.Waited)
	part(spanQueue, begun, computed)
	part(spanPass2, computed, begun.Add(time.Duration(a.Pass2Seconds*float64(time.Second))),
		attribute.String("t2.expert", a.Expert), attribute.Int("gen_ai.usage.input_tokens", r.PromptTokens),
		attribute.Int("gen_ai.usage.cache_read.input_tokens", r.CachedTokens), attribute.Int("gen_ai.usage.output_tokens", r.Tokens),
		attribute.Float64("t2.first_token_seconds", r.FirstToken.Seconds()))
}

// traceID is that of the trace that ctx belongs to, as text; empty where nothing is traced.
func traceID(ctx context.Context) string {
	if c := trace.SpanContextFromContext(ctx); c.IsSampled() {
		return c.TraceID().String()
	}
	return ""
}
