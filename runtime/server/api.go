package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
)

// Bounds of the body of a request: text for a full context, generously, since
// a token may spell many bytes and JSON may escape each of them.
const (
	minBodyBytes      = 64 << 10
	bytesPerToken     = 64
	endpointChat      = "chat"
	endpointText      = "completions"
	endpointResponses = "responses"
	endpointExplain   = "explain"
	endpointRequests  = "requests"
	endpointOutcome   = "outcome"
	endpointModels    = "models"
	endpointNone      = "none"
)

// API is the handler of contract.PortAPI.
func (s *Server) API() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+contract.PathChatCompletions, s.observed(endpointChat, s.completions(parseChat, choices{contract.AnswerPrefixChat, chatFormat{}})))
	mux.Handle("POST "+contract.PathCompletions, s.observed(endpointText, s.completions(parseCompletion, choices{contract.AnswerPrefixCompletion, textFormat{}})))
	mux.Handle("POST "+contract.PathResponses, s.observed(endpointResponses, s.completions(parseResponses, responseFormat{})))
	mux.Handle(contract.PathResponses+"/{rest...}", s.observed(endpointNone, func(http.ResponseWriter, *http.Request) error {
		return newError(http.StatusNotFound, typeInvalid, "unknown_url", "", "this server keeps no answers: of %s there is POST alone", contract.PathResponses)
	}))
	mux.Handle("POST "+contract.PathExplain, s.observed(endpointExplain, s.explain))
	mux.Handle("GET "+pathRequest, s.observed(endpointRequests, s.showRequest))
	mux.Handle("POST "+contract.PathOutcome, s.observed(endpointOutcome, s.takeOutcome))
	mux.Handle("GET "+contract.PathModels, s.observed(endpointModels, s.listModels))
	mux.Handle("GET "+contract.PathModels+"/{model...}", s.observed(endpointModels, s.showModel))
	if !s.config.NoAPIMetrics {
		// Endpoint pickers of an InferencePool know this port alone.
		mux.Handle("GET "+contract.PathMetrics, s.metrics.handler())
	}
	for path, method := range map[string]string{
		contract.PathChatCompletions: http.MethodPost, contract.PathCompletions: http.MethodPost, contract.PathExplain: http.MethodPost,
		contract.PathResponses: http.MethodPost, contract.PathModels: http.MethodGet,
		pathRequest: http.MethodGet, contract.PathOutcome: http.MethodPost,
	} {
		mux.Handle(path, s.observed(endpointNone, func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Allow", method)
			return newError(http.StatusMethodNotAllowed, typeInvalid, "method_not_allowed", "", "%s takes %s, not %s", path, method, clip(r.Method))
		}))
	}
	mux.Handle("/", s.observed(endpointNone, func(_ http.ResponseWriter, r *http.Request) error {
		return newError(http.StatusNotFound, typeInvalid, "unknown_url", "", "there is nothing at %s %s; the API is at %s, %s, %s, %s, %s, %s and %s",
			clip(r.Method), clip(r.URL.Path), contract.PathChatCompletions, contract.PathCompletions, contract.PathResponses, contract.PathExplain,
			pathRequest, contract.PathOutcome, contract.PathModels)
	}))
	return mux
}

// record is what the log says of a request; its handler fills it in.
type record struct {
	id       string
	begun    time.Time
	answerID string // Empty where nothing is to be answered.
	query    query
	outcome  outcome
	answered bool
	started  bool // The response has begun: its status cannot change any more.
	header   http.Header
	side     string
}

// came says in the response's headers which set the request has come to.
func (r *record) came(t target) {
	if r.header == nil || t.set == nil {
		return
	}
	r.header.Set(contract.HeaderExpertSet, t.set.digest)
	if r.side = t.shown(); r.side != "" {
		r.header.Set(contract.HeaderSide, r.side)
	}
}

type recordKey struct{}

// requestID returns the id of the request that ctx belongs to.
func requestID(ctx context.Context) string { return recordIn(ctx).id }

func recordOf(r *http.Request) *record { return recordIn(r.Context()) }

// recordIn returns the record of the request that ctx belongs to, an empty one where there is
// none.
func recordIn(ctx context.Context) *record {
	if rec, ok := ctx.Value(recordKey{}).(*record); ok {
		return rec
	}
	return &record{}
}

var validID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// newID returns a random id.
func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // Never fails.
	return hex.EncodeToString(b[:])
}

// quiet are endpoints that leave a line in the log only where they refuse.
var quiet = map[string]bool{endpointModels: true, endpointRequests: true}

// observed turns a handler's error into a response, and writes the one line
// and the metrics that a request leaves. Neither has any text of the user's.
func (s *Server) observed(endpoint string, handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &record{id: r.Header.Get(contract.HeaderRequestID), begun: begun, header: w.Header()}
		if !validID.MatchString(rec.id) {
			rec.id = newID()
		}
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, rec))
		r, traced := s.trace(r, endpoint, rec)
		w.Header().Set(contract.HeaderRequestID, rec.id)
		if s.config.Pod != "" {
			w.Header().Set(contract.HeaderPod, s.config.Pod)
		}
		status, err := http.StatusOK, handle(w, r)
		if err != nil {
			apiErr := asAPIError(err)
			if apiErr.status == http.StatusTooManyRequests {
				apiErr.retryAfter = s.comeBack()
			}
			if status = apiErr.status; !rec.started {
				writeError(w, apiErr)
			}
		}
		traced(status, err)
		s.metrics.request(endpoint, status, time.Since(begun))
		if !quiet[endpoint] || err != nil {
			s.logRequest(r.Context(), endpoint, rec, status, time.Since(begun), err)
		}
	})
}

func (s *Server) logRequest(ctx context.Context, endpoint string, rec *record, status int, took time.Duration, err error) {
	attrs := []slog.Attr{
		slog.String("request", rec.id), slog.String("endpoint", endpoint),
		slog.Int("status", status), slog.Float64("seconds", took.Seconds()),
	}
	if rec.side != "" {
		attrs = append(attrs, slog.String("side", rec.side))
	}
	if id := traceID(ctx); id != "" {
		attrs = append(attrs, slog.String("trace", id))
	}
	if rec.answered {
		a, r := rec.outcome.adaptation, rec.outcome.result
		attrs = append(attrs,
			slog.String("strategy", a.Strategy), slog.String("expert", a.Expert), slog.Bool("stream", rec.query.stream),
			slog.Float64("pass1", a.Pass1Seconds), slog.Float64("pass2", a.Pass2Seconds),
			slog.Float64("waited", r.Waited.Seconds()), slog.Float64("firstToken", r.FirstToken.Seconds()),
			slog.Int("promptTokens", r.PromptTokens), slog.Int("tokens", r.Tokens), slog.String("finish", r.Finish))
		if a.Fallback != "" {
			attrs = append(attrs, slog.String("fallback", a.Fallback))
		}
	}
	level, message := slog.LevelInfo, "Answered request"
	if err != nil {
		message = "Refused request"
		attrs = append(attrs, slog.String("error", err.Error()))
		if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
			level, message = slog.LevelError, "Failed request"
		}
	}
	s.log.LogAttrs(ctx, level, message, attrs...)
}

// largestBody is what the text of a full context may take.
func largestBody(contextLength int) int64 { return int64(minBodyBytes + bytesPerToken*contextLength) }

// readBody reads a request's body up to what the context length could need. It is released
// once the request has been answered.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (*body, error) {
	c := s.core.Load()
	if c == nil {
		return nil, errNotLoaded
	}
	context := c.engine.ContextLength()
	read, err := s.bodies.readWithin(w, r, largestBody(context))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, newError(http.StatusRequestEntityTooLarge, typeInvalid, "request_too_large", "",
			"the request has more than %d bytes, which is what the text of a prompt may take where prompt and answer have at most %d tokens: the context length of this server",
			tooLarge.Limit, context)
	}
	return read, err
}

// bodyTimeout bounds how long a client may take to send a body. It is set for
// the body alone, because a server's ReadTimeout also ends answers that take
// longer than it.
const bodyTimeout = time.Minute

// readWithin reads a body of at most limit bytes in at most bodyTimeout.
func (b *bodies) readWithin(w http.ResponseWriter, r *http.Request, limit int64) (*body, error) {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // Else the server would wait for it before it answers.
		return nil, &http.MaxBytesError{Limit: limit}
	}
	control := http.NewResponseController(w)
	deadline := func(at time.Time) error {
		// Recorders in tests have no deadlines.
		if err := control.SetReadDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("reading the request: %w", err)
		}
		return nil
	}
	if err := deadline(time.Now().Add(bodyTimeout)); err != nil {
		return nil, err
	}
	read, err := b.read(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, err
	}
	if err := deadline(time.Time{}); err != nil {
		read.release()
		return nil, err
	}
	return read, nil
}

// unreadable blames the client for a body that did not come as it should.
func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return newError(http.StatusRequestTimeout, typeInvalid, "timeout", "", "the request did not arrive within %v", bodyTimeout)
	}
	return invalid("", "unreadable_body", "the request could not be read: it ends too early")
}

// completions handles the endpoints that answer prompts.
func (s *Server) completions(parse func([]byte) (query, error), f format) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		rec := recordOf(r)
		body, err := s.readBody(w, r)
		if err != nil {
			return err
		}
		defer body.release()
		q, err := parse(body.bytes)
		if err != nil {
			return err
		}
		rec.query, rec.answerID = q, f.prefix()+rec.id
		a := &reply{server: s, format: f, query: q, w: w, record: rec, meta: meta{
			id: rec.answerID, created: time.Now().Unix(), model: q.model, usageFollows: q.includeUsage,
		}}
		if q.stream {
			return a.stream(r.Context())
		}
		return f.whole(r.Context(), a)
	}
}

// modelEntry is one model of contract.PathModels.
type modelEntry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *Server) entry(name string) modelEntry {
	return modelEntry{ID: name, Object: "model", Created: s.created, OwnedBy: "t2"}
}

func (s *Server) listModels(w http.ResponseWriter, _ *http.Request) error {
	entries := []modelEntry{}
	for _, name := range s.modelNames() {
		entries = append(entries, s.entry(name))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": entries})
	return nil
}

func (s *Server) showModel(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	if _, err := s.resolve(name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.entry(name))
	return nil
}

// reply sends one answer.
type reply struct {
	server *Server
	format format
	query  query
	meta   meta
	w      http.ResponseWriter
	record *record
}

// whole sends the answer when it is complete, its choices side by side.
func (a *reply) whole(ctx context.Context, f choiceFormat) error {
	texts := make([]strings.Builder, a.query.choices)
	probs := make([][]engine.Logprob, a.query.choices)
	calls := make([]callsOfChoice, a.query.choices)
	out, err := a.server.answer(ctx, a.query, func(i int, p piece) error {
		text := &texts[i]
		text.WriteString(p.text)
		if p.logprob != nil {
			probs[i] = append(probs[i], *p.logprob)
		}
		calls[i].add(p.call)
		return nil
	})
	if err != nil {
		return err
	}
	a.answered(out)
	parts := make([]part, a.query.choices)
	for i := range parts {
		parts[i] = part{index: i, text: texts[i].String(), calls: calls[i], probs: a.logprobs(probs[i], &position{})}
	}
	writeJSON(a.w, http.StatusOK, f.whole(a.meta, parts, out))
	return nil
}

func (a *reply) answered(out outcome) {
	a.record.outcome, a.record.answered = out, true
	a.meta.fingerprint = fingerprint(out.adaptation.ExpertSetDigest)
}

// fingerprint names, in OpenAI's field for it, the configuration that answered.
func fingerprint(digest string) string {
	const digits = 12
	if len(digest) < len(contract.DigestPrefix)+digits {
		return ""
	}
	return "fp_" + digest[len(contract.DigestPrefix):][:digits]
}
