package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// NewClient returns the HTTP client for sources: bounded in every phase but the
// body, whose pace the download watches. It follows redirects as net/http
// does, which drops the token when they lead to another host.
func NewClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		// Weights do not compress, and a compressed transfer hides its size.
		DisableCompression: true,
	}}
}

// web asks servers by http and https.
type web struct {
	*receiver
	client *http.Client
	token  string
	// explain returns what a refusal means, nil where checkStatus knows it.
	explain func(r *http.Response, where string) error
}

func newWeb(o Options, m *meter) *web {
	d := &web{receiver: newReceiver(o, m), client: o.Client, token: o.Token}
	if d.client == nil {
		d.client = NewClient()
	}
	return d
}

// do sends a GET. The response is one of those that are wanted: 200, or 206 where a range
// is asked for. An address that does not exist gives an error that satisfies
// errors.Is(err, fs.ErrNotExist), unclassified.
func (d *web) do(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	where := shown(u)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, failure.Permanentf(contract.ReasonUsage, "source %s is no valid address", where)
	}
	request.Header = header
	request.Header.Set("User-Agent", "t2")
	if d.token != "" {
		request.Header.Set("Authorization", "Bearer "+d.token)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return nil, unreachable(ctx, where, err)
	}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusPartialContent && header.Get("Range") != "" {
		return response, nil
	}
	if d.explain != nil {
		err = d.explain(response, where)
	}
	if err == nil {
		err = checkStatus(response, where)
	}
	return nil, errors.Join(err, response.Body.Close())
}

// opening returns how the file at an address is asked for.
func (d *web) opening(u *url.URL) opening {
	return func(ctx context.Context, from int64, tag string) (transfer, error) {
		header := http.Header{}
		if from > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-", from))
			header.Set("If-Range", tag)
		}
		response, err := d.do(ctx, u, header)
		if err != nil {
			return transfer{}, err
		}
		t := transfer{body: response.Body, size: response.ContentLength, tag: response.Header.Get("ETag")}
		if strings.HasPrefix(t.tag, "W/") {
			t.tag = "" // A weak one does not promise equal bytes.
		}
		if from > 0 {
			begins, size := contentRange(response.Header.Get("Content-Range"))
			if response.StatusCode != http.StatusPartialContent || begins != from || t.tag != tag {
				return transfer{}, errors.Join(changed(shown(u)), response.Body.Close())
			}
			t.size = size
		}
		return t, nil
	}
}

// contentRange reads "bytes 5-9/10", whose size may be "*"; what is none begins at -1.
func contentRange(s string) (from, size int64) {
	span, whole, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, _, dashed := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dashed || err != nil {
		return -1, -1
	}
	if size, err = strconv.ParseInt(whole, 10, 64); err != nil {
		return from, -1
	}
	return from, size
}

// unreachable describes a failed request without the address that net/http's
// error repeats, for it may hold a password.
func unreachable(ctx context.Context, where string, err error) error {
	if _, ok := errors.AsType[*failure.Error](err); ok {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errStalled) {
		return fmt.Errorf("fetching %s: %w", where, cause)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: %w; check the address and the network", where, err)
}

func checkStatus(r *http.Response, where string) error {
	switch r.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return failure.Permanentf(contract.ReasonUnauthorized, "fetching %s: the server answers %s; give a valid token in tokenSecretRef", where, r.Status)
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("fetching %s: the server answers %s: %w", where, r.Status, fs.ErrNotExist)
	default:
		return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: the server answers %s; ask again later, or check the address", where, r.Status)
	}
}

func openHTTP(ctx context.Context, h contract.HTTPSource, scratch string, o Options, m *meter) (tree, error) {
	u, err := parseAddress(h.URL, "source")
	if err != nil {
		return nil, err
	}
	d := newWeb(o, m)
	switch {
	case o.file || isExpertFile(u.Path):
		return &httpFile{httpTree{web: d, base: u}}, nil
	case !isArchive(u.Path):
		return &httpTree{web: d, base: u}, nil
	}
	return receiveArchive(ctx, d.receiver, d.opening(u), u.Path, shown(u), scratch)
}

// parseAddress checks that an address is one of http or https. what is it called in
// messages.
func parseAddress(address, what string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		// The parser's error repeats the address, which may hold a password.
		return nil, failure.Permanentf(contract.ReasonUsage, "%s is no valid URL", what)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, failure.Permanentf(contract.ReasonUsage, "%s %s is no http or https address", what, shown(u))
	}
	return u, nil
}

// shown is an address as messages have it: without a password, and without a query, in
// which a signed address has its signature.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// receiveArchive unpacks an archive as it comes. name's suffix says whether it is
// compressed.
func receiveArchive(ctx context.Context, r *receiver, open opening, name, where, scratch string) (_ tree, err error) {
	body, _, err := r.receive(ctx, open, where)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.Transient(contract.ReasonSourceNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	t, err := unpack(ctx, body, name, where, scratch)
	return t, errors.Join(err, body.Close())
}

// httpTree is a folder on a server: files are asked for below base.
type httpTree struct {
	*web
	base *url.URL
}

func (t *httpTree) take(ctx context.Context, name, dst string, limit int64) error {
	u := *t.base
	u.Path, u.RawPath = path.Join(u.Path, name), ""
	return t.takeURL(ctx, &u, dst, limit)
}

func (t *httpTree) takeURL(ctx context.Context, u *url.URL, dst string, limit int64) error {
	return t.receiver.take(ctx, t.opening(u), shown(u), dst, limit, nil)
}

func (t *httpTree) String() string { return shown(t.base) }

func (t *httpTree) revision() string { return "" }

func (t *httpTree) close() error { return nil }

// httpFile is a single file on a server.
type httpFile struct{ httpTree }

func (f *httpFile) takeOnly(ctx context.Context, dst string, limit int64) error {
	return f.takeURL(ctx, f.base, dst, limit)
}
