package kubeapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

// serve starts a server that wants a client certificate, and returns a client that has one.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	authority, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	serving, err := authority.Server(pki.Request{CommonName: "server", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.Client(pki.Request{CommonName: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(serving.Cert, serving.Key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority.Pair().Cert)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	c, err := New(server.URL, authority.Pair().Cert, client)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGetDecodesAndShowsItsCertificate(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user := r.TLS.PeerCertificates[0].Subject.CommonName; user != "somebody" {
			t.Errorf("user: got %q", user)
		}
		_, _ = io.WriteString(w, `{"kind": "`+r.URL.Path+`"}`)
	})
	var got struct {
		Kind string `json:"kind"`
	}
	if err := c.Get(t.Context(), "/api/v1/nodes/x", &got); err != nil || got.Kind != "/api/v1/nodes/x" {
		t.Errorf("Get() = %+v, %v", got, err)
	}
	if err := c.Get(t.Context(), "/readyz", nil); err != nil {
		t.Errorf("Get() without a target = %v", err)
	}
}

func TestErrorsCarryWhatTheServerSaid(t *testing.T) {
	tests := []struct {
		name, body, want string
		code             int
	}{
		{name: "a status object", code: 403, body: `{"kind":"Status","message":"nodes is forbidden"}`, want: "HTTP 403: nodes is forbidden"},
		{name: "lines of text", code: 500, body: "[-]etcd failed\n[+]ping ok\n", want: "HTTP 500: [-]etcd failed"},
		{name: "a long page", code: 502, body: strings.Repeat("x", 9000), want: "x…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.code)
				_, _ = io.WriteString(w, tt.body)
			})
			err := c.Get(t.Context(), "/x", nil)
			var status *StatusError
			if !errors.As(err, &status) || status.Code != tt.code || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 400 {
				t.Errorf("Get() = %v, want a short StatusError with %q", err, tt.want)
			}
		})
	}
}

func TestEnsureTakesAConflictForDone(t *testing.T) {
	for code, wantError := range map[int]bool{http.StatusCreated: false, http.StatusConflict: false, http.StatusForbidden: true} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err != nil || string(body) != `{"kind":"X"}` || r.Method != http.MethodPost {
				t.Errorf("%s with %q, %v", r.Method, body, err)
			}
			w.WriteHeader(code)
		})
		if err := c.Ensure(t.Context(), "/x", map[string]string{"kind": "X"}); (err != nil) != wantError {
			t.Errorf("Ensure() on %d = %v, want an error: %t", code, err, wantError)
		}
	}
}

func TestServersOfAnotherAuthorityAreNotTrusted(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request went through") })
	other, err := pki.NewAuthority("other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Client(pki.Request{CommonName: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := New(c.server, other.Pair().Cert, pair)
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Get(t.Context(), "/x", nil); err == nil {
		t.Error("a server that the authority did not sign was trusted")
	}
}

func TestNewRefusesWhatIsNoCertificate(t *testing.T) {
	if _, err := New("https://x", []byte("no"), pki.Pair{}); err == nil {
		t.Error("an authority that is none was taken")
	}
}
