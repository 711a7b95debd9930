// Package tracing sends spans to a collector of OpenTelemetry's, as the standard environment
// variables say (OTEL_*), by OTLP over HTTP.
//
// The exporter of OpenTelemetry's own Go module brings gRPC along, also where HTTP alone is used:
// eight of twenty-seven megabytes of a binary. What is needed of it is small: see client.go. The
// rest (batches, a bounded queue that drops what is too much, sampling, the encoding) is theirs.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// Environment variables that this package reads; those of the queue (OTEL_BSP_*), of sampling
// (OTEL_TRACES_SAMPLER…), of limits (OTEL_SPAN_*) and of what the process is called
// (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) are OpenTelemetry's SDK's to read.
const (
	envDisabled       = "OTEL_SDK_DISABLED"
	envExporter       = "OTEL_TRACES_EXPORTER"
	envPrefix         = "OTEL_EXPORTER_OTLP_"
	envTracesPrefix   = "OTEL_EXPORTER_OTLP_TRACES_"
	suffixEndpoint    = "ENDPOINT"
	suffixProtocol    = "PROTOCOL"
	suffixHeaders     = "HEADERS"
	suffixTimeout     = "TIMEOUT"
	suffixCompression = "COMPRESSION"
	suffixAuthority   = "CERTIFICATE"
	suffixCertificate = "CLIENT_CERTIFICATE"
	suffixKey         = "CLIENT_KEY"
)

const (
	protocol        = "http/protobuf"
	defaultEndpoint = "http://localhost:4318"
	pathTraces      = "/v1/traces"
)

// serviceName is what the process is called where nobody says otherwise.
const serviceName = "t2"

// ErrConfig wraps what is wrong with the variables.
var ErrConfig = errors.New("tracing")

// New returns what makes and sends spans, nil where the variables do not ask for it: without an
// endpoint, or an exporter, nothing is traced. What it cannot send is told to log, and is lost. The
// caller shuts it down.
func New(getenv func(string) string, log *slog.Logger) (*trace.TracerProvider, error) {
	wanted, err := wanted(getenv)
	if err != nil || !wanted {
		return nil, err
	}
	c, err := newClient(getenv, log)
	if err != nil {
		return nil, err
	}
	// What the environment says comes last, and wins.
	named, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(attribute.String("service.name", serviceName)), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("%w: naming the process: %w", ErrConfig, err)
	}
	log.Info("Sending traces", "endpoint", c.endpoint)
	return trace.NewTracerProvider(trace.WithBatcher(otlptrace.NewUnstarted(c)), trace.WithResource(named)), nil
}

// wanted reports whether anything is to be traced.
func wanted(getenv func(string) string) (bool, error) {
	if off, err := strconv.ParseBool(getenv(envDisabled)); err == nil && off {
		return false, nil
	}
	switch exporter := strings.TrimSpace(getenv(envExporter)); exporter {
	case "none":
		return false, nil
	case "otlp":
		return true, nil
	case "":
		return variable(getenv, suffixEndpoint).value != "", nil
	default:
		return false, fmt.Errorf("%w: %s is %q: this exporter is otlp; none sends nothing", ErrConfig, envExporter, exporter)
	}
}

// setting is what a variable says.
type setting struct {
	name, value string
	// ofTraces says that it is that of traces alone.
	ofTraces bool
}

// wrong says what is wrong with a variable.
func (s setting) wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s is %q: %w", ErrConfig, s.name, s.value, fmt.Errorf(format, args...))
}

// variable reads a variable of the exporter: that of traces alone, or else that of all signals.
func variable(getenv func(string) string, suffix string) setting {
	if value := strings.TrimSpace(getenv(envTracesPrefix + suffix)); value != "" {
		return setting{name: envTracesPrefix + suffix, value: value, ofTraces: true}
	}
	return setting{name: envPrefix + suffix, value: strings.TrimSpace(getenv(envPrefix + suffix))}
}
