package sourcetest

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Breaking is a transport whose answers break off after so many bytes each.
type Breaking struct {
	// After is where bodies break off; those that are shorter do not.
	After int64
	// Broken counts them.
	Broken atomic.Int64
	// Between is called after each, if it is set.
	Between func()
}

var errBroken = errors.New("connection reset by the test")

// RoundTrip implements http.RoundTripper.
func (b *Breaking) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = &breakingBody{ReadCloser: response.Body, left: b.After, of: b}
	return response, nil
}

type breakingBody struct {
	io.ReadCloser
	left int64
	of   *Breaking
}

// Read implements io.Reader.
func (b *breakingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.of.Broken.Add(1)
		if b.of.Between != nil {
			b.of.Between()
		}
		return 0, errBroken
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
