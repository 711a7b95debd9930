package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// What is tried again, and for how long: until the context of a batch ends, after 30 s unless
// OTEL_BSP_EXPORT_TIMEOUT says otherwise.
const (
	defaultTimeout = 10 * time.Second
	firstPause     = 500 * time.Millisecond
	longestPause   = 5 * time.Second
	maxResponse    = 64 << 10
)

// client sends spans to a collector. It implements otlptrace.Client. It works in the one goroutine
// of the queue of spans, so that nothing but that waits for it.
type client struct {
	endpoint string
	headers  http.Header
	gzip     bool
	timeout  time.Duration // Of one request.
	http     *http.Client
	log      *slog.Logger
}

// newClient reads how to reach the collector.
func newClient(getenv func(string) string, log *slog.Logger) (*client, error) {
	c := &client{timeout: defaultTimeout, headers: http.Header{}, log: log}
	if p := variable(getenv, suffixProtocol); p.value != "" && p.value != protocol {
		return nil, p.wrong("this exporter speaks %s, which collectors take at port 4318", protocol)
	}
	var err error
	if c.endpoint, err = endpoint(variable(getenv, suffixEndpoint)); err != nil {
		return nil, err
	}
	if err := c.readHeaders(variable(getenv, suffixHeaders)); err != nil {
		return nil, err
	}
	if t := variable(getenv, suffixTimeout); t.value != "" {
		ms, err := strconv.ParseUint(t.value, 10, 31)
		if err != nil {
			return nil, t.wrong("it must be a number of milliseconds")
		}
		c.timeout = time.Duration(ms) * time.Millisecond
	}
	switch z := variable(getenv, suffixCompression); z.value {
	case "", "none":
	case "gzip":
		c.gzip = true
	default:
		return nil, z.wrong("it must be gzip or none")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if transport.TLSClientConfig, err = certificates(getenv); err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: transport}
	return c, nil
}

// endpoint is the address that spans are posted to. What is for all signals has no path of traces.
func endpoint(s setting) (string, error) {
	if s.value == "" {
		s.value = defaultEndpoint
	}
	u, err := url.Parse(s.value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", s.wrong("it must be an address of a collector, such as %s", defaultEndpoint)
	}
	if !s.ofTraces {
		u = u.JoinPath(pathTraces)
	}
	return u.String(), nil
}

// readHeaders reads key=value,key=value, of which the values are escaped as in addresses.
func (c *client) readHeaders(s setting) error {
	for pair := range strings.SplitSeq(s.value, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			s.value = "…" // Headers have credentials.
			return s.wrong("it must be NAME=VALUE, several of them with commas between, with values escaped as in addresses")
		}
		c.headers.Add(key, decoded)
	}
	return nil
}

// certificates reads whom to believe, and what to show.
func certificates(getenv func(string) string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if a := variable(getenv, suffixAuthority); a.value != "" {
		pem, err := os.ReadFile(a.value)
		if err != nil {
			return nil, a.wrong("it cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, a.wrong("the file has no certificate in PEM")
		}
	}
	certificate, key := variable(getenv, suffixCertificate), variable(getenv, suffixKey)
	if certificate.value == "" && key.value == "" {
		return config, nil
	}
	pair, err := tls.LoadX509KeyPair(certificate.value, key.value)
	if err != nil {
		return nil, certificate.wrong("with %s it is no certificate and key: %w", key.name, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// Start implements otlptrace.Client.
func (*client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. What cannot be sent is told to the log, where the SDK
// would tell its global handler of errors.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// It is on the wire what the collector's ExportTraceServiceRequest is, whose package would
	// bring gRPC along.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err == nil {
		err = c.send(ctx, body)
	}
	if err != nil {
		c.log.Warn("Could not send spans, which are lost", "endpoint", c.endpoint, "error", err)
	}
	return nil
}

// send posts a body until the collector takes it, says that it never will, or ctx ends.
func (c *client) send(ctx context.Context, body []byte) error {
	if c.gzip {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(body); err != nil {
			return fmt.Errorf("packing spans: %w", err)
		}
		if err := z.Close(); err != nil {
			return fmt.Errorf("packing spans: %w", err)
		}
		body = packed.Bytes()
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		again, after, err := c.post(ctx, body)
		if err == nil || !again {
			return err
		}
		if after == 0 {
			after = pause/2 + rand.N(pause/2) //nolint:gosec // Spreads load, hides nothing.
		}
		timer := time.NewTimer(after)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		case <-timer.C:
		}
	}
}

// post posts a body once. An error may say that it is to be tried again, and after how long; 0
// where that is not said.
func (c *client) post(ctx context.Context, body []byte) (again bool, after time.Duration, err error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return false, 0, fmt.Errorf("asking the collector: %w", err)
	}
	r.Header = c.headers.Clone()
	r.Header.Set("Content-Type", "application/x-protobuf")
	if c.gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return true, 0, fmt.Errorf("asking the collector: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // Nothing was written.
	// Read to its end, or the connection is not used again.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponse)); err != nil {
		return true, 0, fmt.Errorf("reading the collector's answer: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return false, 0, nil
	}
	err = fmt.Errorf("the collector answers %s", resp.Status)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16) // A date is as good as nothing.
		return true, time.Duration(seconds) * time.Second, err
	}
	return false, 0, err
}
