// Package kubeapi is the little that bringing a cluster up needs of a Kubernetes client: read an object, create one. The
// real client library would take longer to compile than all the rest of this tool.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

// maxBody bounds what is read of a response.
const maxBody = 8 << 20

// Client talks to one API server.
type Client struct {
	server string
	http   *http.Client
}

// New returns a client of server (https://address:port) that trusts ca and shows the certificate of pair.
func New(server string, ca []byte, pair pki.Pair) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the cluster's authority is not a certificate")
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	return &Client{
		server: strings.TrimSuffix(server, "/"),
		http: &http.Client{
			// A hung server must cost a poll, not the whole wait.
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				// Never by way of a proxy: the cluster is on this machine.
				Proxy:           nil,
				TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
			},
		},
	}, nil
}

// StatusError is an answer other than success.
type StatusError struct {
	Method, Path string
	Code         int
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: HTTP %d: %s", e.Method, e.Path, e.Code, e.Body)
}

// Get reads path and decodes the answer into out, unless out is nil.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("GET %s: decoding the answer: %w", path, err)
	}
	return nil
}

// Ensure creates object at path; that it exists already is no error.
func (c *Client) Ensure(ctx context.Context, path string, object any) error {
	text, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("POST %s: encoding the object: %w", path, err)
	}
	_, err = c.do(ctx, http.MethodPost, path, text)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusConflict {
		return nil
	}
	return err
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written, and all that was wanted has been read
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, &StatusError{Method: method, Path: path, Code: response.StatusCode, Body: firstLine(answer)}
	}
	return answer, nil
}

// firstLine keeps an error message readable when the answer is a page.
func firstLine(body []byte) string {
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return line
}
