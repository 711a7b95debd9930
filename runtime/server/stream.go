package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// errClientGone wraps what a write to a client failed with.
var errClientGone = fmt.Errorf("writing to the client: %w", context.Canceled)

// teller words a stream.
type teller interface {
	// begin is what comes before the first chunk; it is called before each.
	begin() error
	chunk(p part) error
	end(out outcome) error
	// fail tells what went wrong behind the beginning.
	fail(e *apiError) error
}

// stream sends the answer in chunks, as server-sent events. Until the
// first chunk an error is a proper HTTP error; after it, an event.
func (a *reply) stream(ctx context.Context) error {
	events := &events{w: a.w, control: http.NewResponseController(a.w)}
	t := a.format.teller(a, events)
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
		return t.begin()
	}
	out, err := a.tell(ctx, t, begin)
	if err == nil {
		err = begin() // An answer may be empty.
	}
	if err != nil {
		if apiErr := asAPIError(err); a.record.started && apiErr.status != statusClientGone {
			return errors.Join(err, t.fail(apiErr))
		}
		return err
	}
	a.answered(out)
	return t.end(out)
}

// tell has a teller word the chunks of an answer, as they come.
func (a *reply) tell(ctx context.Context, t teller, begin func() error) (outcome, error) {
	positions := make([]position, a.query.choices)
	return a.server.answer(ctx, a.query, func(i int, p piece) error {
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
		return t.chunk(chunk)
	})
}

// chunks is the teller of answers that have choices.
type chunks struct {
	*reply
	events *events
	format choiceFormat
}

func (c *chunks) begin() error {
	for i := range c.query.choices {
		if err := c.events.send(c.format.first(c.meta, i)); err != nil {
			return err
		}
	}
	return nil
}

func (c *chunks) chunk(p part) error { return c.events.send(c.format.chunk(c.meta, p)) }

func (c *chunks) end(out outcome) error {
	for i := range c.query.choices {
		if err := c.events.send(c.format.last(c.meta, i, out)); err != nil {
			return err
		}
	}
	if c.query.includeUsage {
		if err := c.events.send(c.format.usage(c.meta, out)); err != nil {
			return err
		}
	}
	return c.events.done()
}

func (c *chunks) fail(e *apiError) error { return c.events.send(map[string]any{"error": e}) }

// events writes server-sent events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send writes one event without a name; nil is none.
func (e *events) send(v any) error {
	if v == nil {
		return nil
	}
	return e.sendAs("", v)
}

// sendAs writes one event.
func (e *events) sendAs(name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	return e.write(name, body)
}

func (e *events) done() error { return e.write("", []byte("[DONE]")) }

func (e *events) write(head string, data []byte) error {
	if err := writeInTime(e.w, fmt.Appendf(nil, "%sdata: %s\n\n", head, data)); err != nil {
		return err
	}
	if err := e.control.Flush(); err != nil {
		return errors.Join(errClientGone, err)
	}
	return nil
}
