package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// opening asks a server for a file from an offset on. tag is that of the transfer that
// broke off, empty for the first: what goes on with it must be the same bytes.
type opening func(ctx context.Context, from int64, tag string) (transfer, error)

// transfer is a file, or its rest, on the way.
type transfer struct {
	body io.ReadCloser
	// size of the whole file in bytes, -1 if the server does not say.
	size int64
	// tag names these bytes, as a strong ETag does. Without one nothing can go on with
	// them.
	tag string
}

// attempts bounds how often in a row a transfer is gone on with that brings nothing.
const attempts = 5

// errStalled is the cause with which a download that stands still is cancelled.
var errStalled = errors.New("the server stopped sending")

// receiver brings files from servers.
type receiver struct {
	stall time.Duration
	pause time.Duration
	meter *meter
}

func newReceiver(o Options, m *meter) *receiver {
	r := &receiver{stall: o.StallTimeout, pause: o.RetryPause, meter: m}
	if r.stall <= 0 {
		r.stall = DefaultStallTimeout
	}
	if r.pause <= 0 {
		r.pause = time.Second
	}
	return r
}

// receive begins a transfer. where describes it in messages. size is -1 if the server
// does not say.
func (r *receiver) receive(ctx context.Context, open opening, where string) (_ io.ReadCloser, size int64, err error) {
	d := &download{ctx: ctx, by: r, open: open, where: where}
	if err := d.begin(""); err != nil {
		return nil, 0, err
	}
	if d.size > 0 {
		r.meter.add(0, d.size)
	}
	return d, d.size, nil
}

// take receives a file into dst, which must not exist, at most limit bytes.
func (r *receiver) take(ctx context.Context, open opening, where, dst string, limit int64, check func(io.Reader) io.Reader) (err error) {
	body, size, err := r.receive(ctx, open, where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if size > limit {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", where, size, limit)
	}
	if check != nil {
		return write(ctx, dst, check(body), limit)
	}
	return write(ctx, dst, body, limit)
}

// download reads a transfer, counts it, gives up on a server that sends nothing, and goes
// on with what breaks off.
type download struct {
	ctx   context.Context //nolint:containedctx // A reader has no other place for it.
	by    *receiver
	open  opening
	where string

	transfer
	offset   int64
	failures int   // In a row.
	err      error // That ended it.

	attempt context.Context //nolint:containedctx // That of the transfer.
	cancel  context.CancelCauseFunc
	timer   *time.Timer
}

// begin opens the file where it was left.
func (d *download) begin(tag string) error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	timer := time.AfterFunc(d.by.stall, func() { cancel(errStalled) })
	t, err := d.open(ctx, d.offset, tag)
	if err != nil {
		err = d.stalled(ctx, err) // Before the cancellation that it would report.
		timer.Stop()
		cancel(nil)
		return err
	}
	timer.Reset(d.by.stall)
	d.transfer, d.attempt, d.cancel, d.timer = t, ctx, cancel, timer
	return nil
}

// stalled says that a server stopped sending, if that is what ended an attempt.
func (d *download) stalled(attempt context.Context, err error) error {
	if errors.Is(context.Cause(attempt), errStalled) {
		return unreachable(d.ctx, d.where, fmt.Errorf("%w for %s", errStalled, d.by.stall))
	}
	return err
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		n, err := d.body.Read(p)
		d.timer.Reset(d.by.stall)
		d.by.meter.add(int64(n), 0)
		if d.offset += int64(n); n > 0 {
			d.failures = 0
		}
		switch {
		case n > 0 || err == nil:
			return n, nil
		case errors.Is(err, io.EOF) && d.offset >= d.size:
			d.err = io.EOF
			return 0, io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		d.err = d.resume(d.stalled(d.attempt, unreachable(d.attempt, d.where, err)))
	}
	return 0, d.err
}

// resume goes on with a transfer that broke off, and returns why where that cannot be.
func (d *download) resume(cause error) error {
	tag := d.tag
	for ; tag != "" && d.failures < attempts && d.ctx.Err() == nil; d.failures++ {
		d.close()
		pause := time.NewTimer(d.by.pause << d.failures)
		select {
		case <-pause.C:
		case <-d.ctx.Done():
			pause.Stop()
			return cause
		}
		err := d.begin(tag)
		if err == nil {
			d.failures++
			return nil
		}
		if _, permanent := failure.Of(err); permanent || errors.Is(err, errChanged) {
			return err
		}
		cause = err
	}
	return cause
}

// errChanged says that what goes on is not what began.
var errChanged = errors.New("the file changed while it was fetched")

func changed(where string) error {
	return failure.Transientf(contract.ReasonSourceUnreachable, "fetching %s: %w; it is fetched again from its beginning", where, errChanged)
}

func (d *download) close() {
	if d.body == nil {
		return
	}
	d.timer.Stop()
	d.cancel(nil)
	_ = d.body.Close() // What was read of it is kept, the rest comes anew or not at all.
	d.body = nil
}

// Close implements io.Closer.
func (d *download) Close() error {
	d.close()
	return nil
}

// checked reads a file to its end and then compares its hash with what its server says
// that it is.
type checked struct {
	r     io.Reader
	sum   hash.Hash
	want  string // In hex.
	where string
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(c.sum.Sum(nil)); !strings.EqualFold(got, c.want) {
			return n, failure.Transientf(contract.ReasonSourceUnreachable,
				"%s arrived with hash %s where its server says %s: it is damaged there, or on the way", c.where, got, c.want)
		}
	}
	return n, err
}
