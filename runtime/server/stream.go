package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// writeTimeout is how long a client may take to accept one chunk of a stream
// before its request is ended.
const writeTimeout = 30 * time.Second

// errClientGone wraps what a write to a client failed with.
var errClientGone = fmt.Errorf("writing to the client: %w", context.Canceled)

// stream sends the answer in chunks, as server-sent events. Until the
// first chunk an error is a proper HTTP error; after it, an event.
func (a *reply) stream(ctx context.Context) error {
	events := &events{w: a.w, control: http.NewResponseController(a.w)}
	positions := make([]position, a.query.choices)
	begin := func() error {
		if a.record.started {
			return nil
		}
		a.record.started = true
		h := a.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // nginx would hold the chunks back.
		a.w.WriteHeader(http.StatusOK)
		for i := range a.query.choices {
			if err := events.send(a.format.first(a.meta, i)); err != nil {
				return err
			}
		}
		return nil
	}
	out, err := a.server.answer(ctx, a.query, func(i int, p piece) error {
		if err := begin(); err != nil {
			return err
		}
		if p.empty() {
			return nil
		}
		chunk := part{index: i, text: p.text}
		var probs []engine.Logprob
		if p.logprob != nil {
			probs = append(probs, *p.logprob)
		}
		chunk.probs = a.logprobs(probs, &positions[i])
		if p.call != nil {
			chunk.calls = []toolcall.Call{*p.call}
		}
		return events.send(a.format.chunk(a.meta, chunk))
	})
	if err == nil {
		err = begin() // An answer may be empty.
	}
	if err != nil {
		if apiErr := asAPIError(err); a.record.started && apiErr.status != statusClientGone {
			return errors.Join(err, events.send(map[string]any{"error": apiErr}))
		}
		return err
	}
	a.answered(out)
	for i := range a.query.choices {
		if err := events.send(a.format.last(a.meta, i, out)); err != nil {
			return err
		}
	}
	if a.query.includeUsage {
		if err := events.send(a.format.usage(a.meta, out)); err != nil {
			return err
		}
	}
	return events.done()
}

// events writes server-sent events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send writes one event; nil is none.
func (e *events) send(v any) error {
	if v == nil {
		return nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	return e.write(body)
}

func (e *events) done() error { return e.write([]byte("[DONE]")) }

func (e *events) write(data []byte) error {
	// A client that stops reading must not hold its slot for ever. Recorders in
	// tests have no deadlines.
	if err := e.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errors.Join(errClientGone, err)
	}
	if _, err := fmt.Fprintf(e.w, "data: %s\n\n", data); err != nil {
		return errors.Join(errClientGone, err)
	}
	if err := e.control.Flush(); err != nil {
		return errors.Join(errClientGone, err)
	}
	return nil
}
