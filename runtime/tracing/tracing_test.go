package tracing_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/server/servertest"
	"github.com/transformersquared/operator/runtime/tracing"
	"github.com/transformersquared/operator/runtime/tracing/tracingtest"
)

// environment is that of a process.
type environment map[string]string

func (e environment) get(name string) string { return e[name] }

// discard is a log of nothing.
var discard = slog.New(slog.DiscardHandler)

// TestNothingIsTracedUnlessSomebodyAsksForIt goes through what turns traces on and off.
func TestNothingIsTracedUnlessSomebodyAsksForIt(t *testing.T) {
	for name, c := range map[string]struct {
		vars environment
		on   bool
	}{
		"nothing":                      {nil, false},
		"an endpoint":                  {environment{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, true},
		"an endpoint of traces":        {environment{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:1/x"}, true},
		"an exporter":                  {environment{"OTEL_TRACES_EXPORTER": "otlp"}, true},
		"no exporter":                  {environment{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, false},
		"no SDK":                       {environment{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, false},
		"a name alone":                 {environment{"OTEL_SERVICE_NAME": "x"}, false},
		"an endpoint of other signals": {environment{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := tracing.New(c.vars.get, discard)
			if err != nil || (p != nil) != c.on {
				t.Fatalf("%v, %v", p, err)
			}
			if p != nil {
				if err := p.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestWhatIsWrongWithTheVariables(t *testing.T) {
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		vars environment
		want string
	}{
		"another exporter": {environment{"OTEL_TRACES_EXPORTER": "zipkin"}, `OTEL_TRACES_EXPORTER is "zipkin": this exporter is otlp`},
		"gRPC":             {environment{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc": this exporter speaks http/protobuf, which collectors take at port 4318`},
		"gRPC for traces":  {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"},
		"no address":       {environment{"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, `OTEL_EXPORTER_OTLP_ENDPOINT is "localhost:4318": it must be an address`},
		"no headers":       {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": "secret"}, `OTEL_EXPORTER_OTLP_HEADERS is "…": it must be NAME=VALUE`},
		"no escape":        {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": "a=%zz"}, "with values escaped"},
		"no time":          {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "it must be a number of milliseconds"},
		"no compression":   {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "it must be gzip or none"},
		"no authority":     {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"}, "it cannot be read"},
		"no PEM":           {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CERTIFICATE": noPEM}, "the file has no certificate in PEM"},
		"no certificate":   {environment{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CLIENT_KEY": noPEM}, "OTEL_EXPORTER_OTLP_CLIENT_KEY it is no certificate and key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tracing.New(c.vars.get, discard)
			if !errors.Is(err, tracing.ErrConfig) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestSpansArrive sends spans to a collector in each way that the variables know.
func TestSpansArrive(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=demo-7") // Read by the SDK.
	for name, c := range map[string]struct {
		tls  bool
		vars func(address string) environment
		path string
	}{
		"to an endpoint of all signals": {false, func(a string) environment { return environment{"OTEL_EXPORTER_OTLP_ENDPOINT": a + "/otlp/"} }, "/otlp/v1/traces"},
		"to one of traces": {false, func(a string) environment {
			return environment{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": a + "/mine", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}
		}, "/mine"},
		"packed": {false, func(a string) environment {
			return environment{"OTEL_EXPORTER_OTLP_ENDPOINT": a, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
		}, "/v1/traces"},
		"by TLS": {true, func(a string) environment { return environment{"OTEL_EXPORTER_OTLP_ENDPOINT": a} }, "/v1/traces"},
	} {
		t.Run(name, func(t *testing.T) {
			collector := &tracingtest.Receiver{}
			s := httptest.NewUnstartedServer(collector)
			vars := environment{}
			if c.tls {
				s.StartTLS()
			} else {
				s.Start()
			}
			defer s.Close()
			maps.Copy(vars, c.vars(s.URL))
			vars["OTEL_EXPORTER_OTLP_HEADERS"] = "authorization=Bearer%20x, x-tenant=demo"
			if c.tls {
				ca := filepath.Join(t.TempDir(), "ca.pem")
				if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
					t.Fatal(err)
				}
				vars["OTEL_EXPORTER_OTLP_CERTIFICATE"] = ca
			}
			p, err := tracing.New(vars.get, discard)
			if err != nil {
				t.Fatal(err)
			}
			ctx, parent := p.Tracer("test").Start(t.Context(), "parent")
			_, child := p.Tracer("test").Start(ctx, "child")
			child.End()
			parent.End()
			if err := p.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			spans := collector.Spans()
			if len(spans) != 2 || spans[0].GetName() != "parent" || spans[1].GetName() != "child" || !bytes.Equal(spans[1].GetParentSpanId(), spans[0].GetSpanId()) {
				t.Fatalf("spans %v", spans)
			}
			r := collector.Requests()[0]
			if r.URL.Path != c.path || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("X-Tenant") != "demo" || (r.Header.Get("Content-Encoding") == "gzip") != (name == "packed") {
				t.Errorf("%s with %v", r.URL.Path, r.Header)
			}
			if named := collector.Resource(); named["service.name"] != "t2" || named["k8s.pod.name"] != "demo-7" {
				t.Errorf("sent by %v", named)
			}
		})
	}
}

// TestWhatIsTriedAgain has a collector that is busy at first, and one that never wants any.
func TestWhatIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		status, times int
		spans         int
		asked         int
		logged        string
	}{
		"a busy one":        {http.StatusServiceUnavailable, 1, 1, 2, ""},
		"one that will not": {http.StatusUnauthorized, 100, 0, 1, "401 Unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			collector := &tracingtest.Receiver{Before: func(w http.ResponseWriter, _ *http.Request) bool {
				if int(asked.Add(1)) > c.times {
					return false
				}
				w.WriteHeader(c.status)
				return true
			}}
			s := httptest.NewServer(collector)
			defer s.Close()
			log := &servertest.Log{}
			p, err := tracing.New(environment{"OTEL_EXPORTER_OTLP_ENDPOINT": s.URL}.get, slog.New(slog.NewJSONHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			_, span := p.Tracer("test").Start(t.Context(), "x")
			span.End()
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if len(collector.Spans()) != c.spans || len(collector.Requests()) != c.asked || !strings.Contains(log.String(), c.logged) {
				t.Errorf("%d spans of %d requests; the log says %s", len(collector.Spans()), len(collector.Requests()), log.String())
			}
		})
	}
}

// TestADeadCollectorDelaysNobody makes more spans than the queue takes while the collector does
// not answer: they are dropped, and whoever makes them does not wait, or the test would never
// end.
func TestADeadCollectorDelaysNobody(t *testing.T) {
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "36000000")
	release := make(chan struct{})
	collector := &tracingtest.Receiver{Before: func(http.ResponseWriter, *http.Request) bool { <-release; return false }}
	s := httptest.NewServer(collector)
	defer s.Close()
	defer close(release)
	p, err := tracing.New(environment{"OTEL_EXPORTER_OTLP_ENDPOINT": s.URL, "OTEL_EXPORTER_OTLP_TIMEOUT": "36000000"}.get, discard)
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		_, span := p.Tracer("test").Start(t.Context(), "x")
		span.End()
	}
	ending, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ending); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shut down with %v", err)
	}
}
