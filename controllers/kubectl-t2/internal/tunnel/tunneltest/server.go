// Package tunneltest is an API server of which nothing works but pods/portforward: for
// tests of what goes through a tunnel. It speaks SPDY, and WebSockets as the API server
// does, by the API server's own translation.
package tunneltest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Server is the stand-in.
type Server struct {
	// Config connects to it.
	Config *rest.Config
	// NoWebSockets makes it as old as those that know SPDY alone.
	NoWebSockets bool
	// Forbid refuses tunnels.
	Forbid bool

	mu    sync.Mutex
	ports map[string]string
	dials int
}

// New starts one that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{ports: map[string]string{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	s.Config = &rest.Config{Host: server.URL}
	return s
}

// Listen says that a port of a pod is at an address, such as that of an
// httptest.Server's listener.
func (s *Server) Listen(namespace, pod string, port int, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[namespace+"/"+pod+":"+strconv.Itoa(port)] = address
}

// Tunnels counts those that were opened.
func (s *Server) Tunnels() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// ServeHTTP answers as the API server does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 7 || parts[2] != "namespaces" || parts[4] != "pods" || parts[6] != "portforward" {
		http.NotFound(w, r)
		return
	}
	if s.Forbid {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"p\" is forbidden: User \"eve\" cannot create resource \"pods/portforward\"","reason":"Forbidden","code":403}`)
		return
	}
	pod := parts[3] + "/" + parts[5]
	forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.forward(w, r, pod) })
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		if s.NoWebSockets {
			http.Error(w, "unable to upgrade: no WebSockets here", http.StatusBadRequest)
			return
		}
		// The API server takes WebSockets apart and speaks SPDY with the kubelet.
		kubelet := httptest.NewServer(forward)
		defer kubelet.Close()
		at, err := url.Parse(kubelet.URL)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		upgrade := apiproxy.NewUpgradeAwareHandler(at, nil, false, true, responder{})
		proxy.NewTunnelingHandler(upgrade).ServeHTTP(w, r)
		return
	}
	forward.ServeHTTP(w, r)
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// forward is what a kubelet does.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, pod string) {
	s.mu.Lock()
	s.dials++
	s.mu.Unlock()
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 16)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	errors := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case stream := <-streams:
			id := stream.Headers().Get(corev1.PortForwardRequestIDHeader)
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				errors[id] = stream
				continue
			}
			go s.pipe(r.Context(), pod, stream, errors[id])
		}
	}
}

func (s *Server) pipe(ctx context.Context, pod string, data, failures httpstream.Stream) {
	defer func() { _ = failures.Close() }()
	defer func() { _ = data.Close() }()
	key := pod + ":" + data.Headers().Get(corev1.PortHeader)
	s.mu.Lock()
	address, known := s.ports[key]
	s.mu.Unlock()
	if !known {
		_, _ = fmt.Fprintf(failures, "failed to connect to %s inside namespace: connection refused", key)
		return
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		_, _ = fmt.Fprint(failures, err)
		return
	}
	defer func() { _ = conn.Close() }()
	go func() {
		_, _ = io.Copy(conn, data)
		_ = conn.Close()
	}()
	_, _ = io.Copy(data, conn)
}
