// Package tunnel dials ports of pods through the API server, as `kubectl port-forward`
// does: the connection ends in the pod's own network namespace, so that no network policy
// and no address of the cluster is in the way. It needs the right to create
// pods/portforward and nothing else; nothing listens on this machine.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// dialTimeout bounds how long the API server and the kubelet may take to open a tunnel.
const dialTimeout = 15 * time.Second

// maxReason bounds what a kubelet may say of a port that it could not reach.
const maxReason = 4 << 10

// Dialer dials ports of pods. It is safe for concurrent use.
type Dialer struct {
	config *rest.Config
	client rest.Interface

	mu    sync.Mutex
	links map[types.NamespacedName]*link
	next  int
}

// link is the one connection to a pod, which whoever holds its turn makes or looks at.
type link struct {
	turn chan struct{}
	conn httpstream.Connection
}

// New returns a Dialer for a cluster.
func New(config *rest.Config) (*Dialer, error) {
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/api", &corev1.SchemeGroupVersion
	c.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	return &Dialer{config: c, client: client, links: map[types.NamespacedName]*link{}}, nil
}

// Close closes all connections. Nobody may dial then.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for name, l := range d.links {
		if l.conn != nil {
			errs = append(errs, l.conn.Close())
		}
		delete(d.links, name)
	}
	return errors.Join(errs...)
}

// Dial connects to a port of a pod. The connections to a pod share one stream to the API
// server.
func (d *Dialer) Dial(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error) {
	c, err := d.connection(ctx, pod)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.next++
	request := d.next
	d.mu.Unlock()
	conn, err := open(c, pod, port, request)
	if err != nil {
		_ = c.Close() // It is broken: the next attempt makes another.
		return nil, fmt.Errorf("connecting to port %d of pod %s: %w", port, pod, err)
	}
	return conn, nil
}

// connection returns the one to a pod, which it makes where there is none that works.
func (d *Dialer) connection(ctx context.Context, pod types.NamespacedName) (httpstream.Connection, error) {
	d.mu.Lock()
	l := d.links[pod]
	if l == nil {
		l = &link{turn: make(chan struct{}, 1)}
		d.links[pod] = l
	}
	d.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("opening a tunnel to pod %s: %w", pod, context.Cause(ctx))
	}
	if l.conn != nil {
		select {
		case <-l.conn.CloseChan():
		default:
			return l.conn, nil
		}
	}
	c, err := d.upgrade(ctx, pod)
	if err == nil {
		l.conn = c
	}
	return c, err
}

// upgrade asks the API server for a tunnel to a pod: by WebSocket, or by SPDY where the
// server or a proxy before it has none.
func (d *Dialer) upgrade(ctx context.Context, pod types.NamespacedName) (httpstream.Connection, error) {
	url := d.client.Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(d.config)
	if err != nil {
		return nil, fmt.Errorf("preparing a tunnel: %w", err)
	}
	dialer := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	webSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, d.config)
	if err != nil {
		return nil, fmt.Errorf("preparing a tunnel: %w", err)
	}
	dialer = portforward.NewFallbackDialerForStreaming(webSocket, dialer, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	type result struct {
		conn httpstream.Connection
		err  error
	}
	// The dialer takes no context: what it opens too late is closed.
	done := make(chan result, 1)
	go func() {
		c, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- result{c, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("the API server did not open a tunnel within %s", dialTimeout))
	defer cancel()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("opening a tunnel to pod %s: %w", pod, explain(r.err))
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, fmt.Errorf("opening a tunnel to pod %s: %w", pod, context.Cause(ctx))
	}
}

// explain adds what to do where rights are missing.
func explain(err error) error {
	if text := err.Error(); strings.Contains(text, "forbidden") || strings.Contains(text, "Forbidden") {
		return fmt.Errorf("%w: you need the right to create pods/portforward, which the ClusterRoles edit and admin have", err)
	}
	return err
}

// open opens a stream of data, and one that says what went wrong.
func open(c httpstream.Connection, pod types.NamespacedName, port, request int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(request))
	failures, err := c.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	_ = failures.Close() // Nothing is written to it.
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := c.CreateStream(headers)
	if err != nil {
		c.RemoveStreams(failures)
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	s := &stream{Stream: data, owner: c, failures: failures, pod: pod, port: port, failed: make(chan struct{})}
	go s.watch() // Ends with the stream of failures, which Close resets.
	return s, nil
}

// stream is a connection to a port of a pod.
type stream struct {
	httpstream.Stream
	owner    httpstream.Connection
	failures httpstream.Stream
	pod      types.NamespacedName
	port     int

	reason string // Why it failed, once failed is closed.
	failed chan struct{}
	closed sync.Once

	mu       sync.Mutex
	deadline *time.Timer
	late     bool
}

// watch reads what the kubelet says of a connection that it could not make.
func (s *stream) watch() {
	b, _ := io.ReadAll(io.LimitReader(s.failures, maxReason)) // What was read counts.
	s.reason = strings.TrimSpace(string(b))
	close(s.failed)
	if s.reason != "" {
		_ = s.Reset()
	}
}

// Read reads what the pod has sent.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	return n, s.why(err)
}

// Write sends to the pod.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	if err != nil {
		err = s.why(err)
	}
	return n, err
}

// why replaces the end of a stream by its reason.
func (s *stream) why(err error) error {
	s.mu.Lock()
	late := s.late
	s.mu.Unlock()
	if late {
		return os.ErrDeadlineExceeded
	}
	select {
	case <-s.failed:
	case <-time.After(100 * time.Millisecond): // It may be on its way.
		return err
	}
	if s.reason == "" {
		return err
	}
	return fmt.Errorf("port %d of pod %s: %s", s.port, s.pod, s.reason)
}

// Close gives the stream up; what was not sent is dropped.
func (s *stream) Close() error {
	var err error
	s.closed.Do(func() {
		s.setDeadline(time.Time{})
		err = errors.Join(s.Stream.Close(), s.Reset(), s.failures.Reset())
		s.owner.RemoveStreams(s.Stream, s.failures)
	})
	return err
}

// LocalAddr and RemoteAddr are names: a stream has no address of its own.
func (s *stream) LocalAddr() net.Addr { return address("kubectl-t2") }

// RemoteAddr is the pod and the port.
func (s *stream) RemoteAddr() net.Addr { return address(s.pod.String() + ":" + strconv.Itoa(s.port)) }

// SetDeadline ends the connection at t.
func (s *stream) SetDeadline(t time.Time) error {
	s.setDeadline(t)
	return nil
}

// SetReadDeadline is SetDeadline: a stream that is late in one direction is of no use.
func (s *stream) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

// SetWriteDeadline is SetDeadline.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.SetDeadline(t) }

func (s *stream) setDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadline != nil {
		s.deadline.Stop()
		s.deadline = nil
	}
	if t.IsZero() {
		return
	}
	s.deadline = time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		s.late = true
		s.mu.Unlock()
		_ = s.Reset()
	})
}

type address string

func (address) Network() string  { return "portforward" }
func (a address) String() string { return string(a) }
