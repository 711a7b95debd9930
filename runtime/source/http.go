package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// NewClient returns the HTTP client for sources: bounded in every phase but the
// body, whose pace the downloader watches. It follows redirects as net/http
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

type downloader struct {
	client *http.Client
	token  string
	stall  time.Duration
	meter  *meter
}

func newDownloader(o Options, m *meter) *downloader {
	d := &downloader{client: o.Client, token: o.Token, stall: o.StallTimeout, meter: m}
	if d.client == nil {
		d.client = NewClient()
	}
	if d.stall <= 0 {
		d.stall = DefaultStallTimeout
	}
	return d
}

// errStalled is the cause with which a download that stands still is cancelled.
var errStalled = errors.New("the server stopped sending")

// get opens the body of an address. size is -1 if the server does not say. An
// address that does not exist gives an error that satisfies
// errors.Is(err, fs.ErrNotExist), unclassified.
func (d *downloader) get(ctx context.Context, u *url.URL) (body io.ReadCloser, size int64, err error) {
	where := u.Redacted()
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, 0, failure.Permanentf(contract.ReasonUsage, "source %s is no valid address", where)
	}
	request.Header.Set("User-Agent", "t2")
	if d.token != "" {
		request.Header.Set("Authorization", "Bearer "+d.token)
	}
	response, err := d.client.Do(request)
	if err != nil {
		err = unreachable(ctx, where, err) // Before the cancellation that it would report.
		cancel(nil)
		return nil, 0, err
	}
	if err := checkStatus(response, where); err != nil {
		cancel(nil)
		return nil, 0, errors.Join(err, response.Body.Close())
	}
	if response.ContentLength > 0 {
		d.meter.add(0, response.ContentLength)
	}
	b := &watchedBody{body: response.Body, ctx: ctx, cancel: cancel, stall: d.stall, meter: d.meter, where: where}
	b.timer = time.AfterFunc(d.stall, func() { cancel(errStalled) })
	return b, response.ContentLength, nil
}

// unreachable describes a failed request without the address that net/http's
// error repeats, for it may hold a password.
func unreachable(ctx context.Context, where string, err error) error {
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
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return failure.Permanentf(contract.ReasonUnauthorized, "fetching %s: the server answers %s; give a valid token in tokenSecretRef", where, r.Status)
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("fetching %s: the server answers %s: %w", where, r.Status, fs.ErrNotExist)
	default:
		return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: the server answers %s; ask again later, or check the address", where, r.Status)
	}
}

// watchedBody reads a response, counts it, and gives up when nothing comes.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
	meter  *meter
	where  string
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.timer.Reset(b.stall)
	b.meter.add(int64(n), 0)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if errors.Is(context.Cause(b.ctx), errStalled) {
		err = fmt.Errorf("%w for %s", errStalled, b.stall)
	}
	return n, unreachable(b.ctx, b.where, err)
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// httpTree is a folder on a server: files are asked for below base.
type httpTree struct {
	downloader *downloader
	base       *url.URL
}

func (t *httpTree) take(ctx context.Context, name, dst string, limit int64) (err error) {
	u := *t.base
	u.Path, u.RawPath = path.Join(u.Path, name), ""
	return t.takeURL(ctx, &u, dst, limit)
}

func (t *httpTree) takeURL(ctx context.Context, u *url.URL, dst string, limit int64) (err error) {
	body, size, err := t.downloader.get(ctx, u)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if size > limit {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", u.Redacted(), size, limit)
	}
	return write(ctx, dst, body, limit)
}

func (t *httpTree) String() string { return t.base.Redacted() }

func (t *httpTree) close() error { return nil }

// httpFile is a single file on a server.
type httpFile struct{ httpTree }

func (f *httpFile) takeOnly(ctx context.Context, dst string, limit int64) error {
	return f.takeURL(ctx, f.base, dst, limit)
}
