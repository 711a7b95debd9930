// Package tracingtest is a collector of OpenTelemetry's for tests: it takes spans by OTLP over
// HTTP, and reads them by the published definitions of the protocol.
package tracingtest

import (
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"sync"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Receiver takes spans. It is a handler, and may be used by many at a time.
type Receiver struct {
	// Before, where it is set, answers a request before it is read, and returns true if it did.
	Before func(http.ResponseWriter, *http.Request) bool

	mu       sync.Mutex
	requests []*http.Request
	spans    []*tracepb.Span
	resource map[string]string
}

// ServeHTTP implements http.Handler.
func (c *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r)
	before := c.Before
	c.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "a POST of application/x-protobuf is taken", http.StatusUnsupportedMediaType)
		return
	}
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var request collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c.mu.Lock()
	for _, of := range request.GetResourceSpans() {
		c.resource = Attributes(of.GetResource().GetAttributes())
		for _, scope := range of.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer) // A client that has gone does not read it.
}

// Spans returns what has come, in the order in which it began.
func (c *Receiver) Spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(c.spans), func(a, b *tracepb.Span) int {
		return int(int64(a.GetStartTimeUnixNano()) - int64(b.GetStartTimeUnixNano()))
	})
}

// Requests returns the requests that have come, whose bodies have been read.
func (c *Receiver) Requests() []*http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Resource returns the attributes of what sent the last spans.
func (c *Receiver) Resource() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resource
}

// Attributes are attributes as text, those that are no text in the protocol's notation.
func Attributes(list []*commonpb.KeyValue) map[string]string {
	texts := map[string]string{}
	for _, a := range list {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			texts[a.GetKey()] = v.StringValue
		default:
			texts[a.GetKey()] = a.GetValue().String()
		}
	}
	return texts
}
