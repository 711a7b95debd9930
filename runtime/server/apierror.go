package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/engine"
)

// apiError is an error as OpenAI's API words it: clients look at the status,
// the code and the parameter.
type apiError struct {
	status int
	// retryAfter is when to come back, for those that come too early; 0 means
	// leastWait.
	retryAfter time.Duration
	// Message says what is wrong and what to do.
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// Error returns the message.
func (e *apiError) Error() string { return e.Message }

// Values of apiError.Type.
const (
	typeInvalid  = "invalid_request_error"
	typeServer   = "server_error"
	typeTooMany  = "rate_limit_error"
	typeNotFound = "not_found_error"
)

// statusClientGone is nginx' status for a client that did not wait; it is only
// logged and counted, never sent.
const statusClientGone = 499

func newError(status int, kind, code, param, format string, args ...any) *apiError {
	e := &apiError{status: status, Message: fmt.Sprintf(format, args...), Type: kind}
	if param != "" {
		e.Param = &param
	}
	if code != "" {
		e.Code = &code
	}
	return e
}

// invalid is a 400 about a parameter.
func invalid(param, code, format string, args ...any) *apiError {
	return newError(http.StatusBadRequest, typeInvalid, code, param, format, args...)
}

// asAPIError says in the API's words what went wrong. The details of what is
// our fault go to the log, not to the client.
func asAPIError(err error) *apiError {
	var known *apiError
	var tooLong *engine.ContextError
	var tooMuch *engine.CacheError
	var tooLarge *http.MaxBytesError
	var schema *constrain.SchemaError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &tooLong):
		return invalid("", "context_length_exceeded", "%s", tooLong.Error())
	case errors.As(err, &tooMuch):
		return invalid("", "context_length_exceeded", "%s", tooMuch.Error())
	case errors.As(err, &schema) && schema.Schema != "":
		return invalid(schema.Schema, "invalid_json_schema", "%s%s", schema.Schema, strings.TrimPrefix(schema.Error(), "the schema"))
	case errors.As(err, &schema):
		return invalid("response_format", "invalid_json_schema", "response_format.json_schema.%s", strings.TrimPrefix(schema.Error(), "the "))
	case errors.As(err, &tooLarge):
		return newError(http.StatusRequestEntityTooLarge, typeInvalid, "request_too_large", "",
			"the request has more than %d bytes", tooLarge.Limit)
	case errors.Is(err, engine.ErrBusy):
		return newError(http.StatusTooManyRequests, typeTooMany, "rate_limit_exceeded", "",
			"the server has as many requests waiting as it allows: try again after the time that Retry-After says")
	case errors.Is(err, errBodies):
		return newError(http.StatusTooManyRequests, typeTooMany, "rate_limit_exceeded", "",
			"the texts of all requests together are as long as the server allows: try again after the time that Retry-After says")
	case errors.Is(err, engine.ErrClosed), errors.Is(err, backend.ErrDeviceLost): // Another server may answer.
		return newError(http.StatusServiceUnavailable, typeServer, "shutting_down", "", "the server is shutting down: try again")
	case errors.Is(err, errNotLoaded):
		return newError(http.StatusServiceUnavailable, typeServer, "not_ready", "", "%s: try again in a moment", err.Error())
	case errors.Is(err, context.Canceled):
		return newError(statusClientGone, typeInvalid, "client_gone", "", "the client closed the connection")
	default:
		return newError(http.StatusInternalServerError, typeServer, "internal_error", "",
			"the server failed to answer; its log has the details under this request's id")
	}
}

// writeError sends an error object.
func writeError(w http.ResponseWriter, e *apiError) {
	if e.status == statusClientGone {
		return
	}
	if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
		wait := max(e.retryAfter, leastWait)
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		w.Header().Set("Retry-After-Ms", strconv.FormatInt(wait.Milliseconds(), 10)) // OpenAI's clients prefer it.
	}
	writeJSON(w, e.status, map[string]any{"error": e})
}

// writeJSON sends v. A client that has gone, or does not read, is no error of ours.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = writeInTime(w, append(body, '\n'))
}

// writeTimeout is how long a client may take to accept one chunk of an answer, be it
// streamed or not, before its connection is ended; a chunk of an answer that is not has so
// many bytes.
const (
	writeTimeout = 30 * time.Second
	chunkBytes   = 64 << 10
)

// writeInTime writes bytes to a client that reads them. One that stops must not hold its
// connection, and the answer's memory, for ever.
func writeInTime(w http.ResponseWriter, bytes []byte) error {
	control := http.NewResponseController(w)
	for chunk := range slices.Chunk(bytes, chunkBytes) {
		// Recorders in tests have no deadlines.
		if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return errors.Join(errClientGone, err)
		}
		if _, err := w.Write(chunk); err != nil {
			return errors.Join(errClientGone, err)
		}
	}
	return nil
}
