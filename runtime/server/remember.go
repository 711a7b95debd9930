package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server/requestlog"
)

// pathRequest is where one request of contract.PathRequests is.
const pathRequest = contract.PathRequests + "/{id}"

// chosen is what is remembered of a choice, beside what its answer says of it.
type chosen struct {
	why         string
	pass1Tokens int
	tallies     []*requestlog.Tally // Of all that answer, and of their side.
}

// reasons says what is remembered of a decision about a conversation of so many turns.
func (s *Server) reasons(t target, d adapt.Decision, turns int) chosen {
	c := chosen{why: t.why(d, turns)}
	if d.Reading != nil && !d.Remembered {
		c.pass1Tokens = d.Reading.Tokens
	}
	for name := range d.Weights {
		if name == contract.BaseName {
			c.tallies = append(c.tallies, &s.base)
		} else if t.set != nil && t.set.experts[name] != nil {
			c.tallies = append(c.tallies, t.set.experts[name].outcomes)
		}
	}
	if len(d.Weights) == 0 {
		c.tallies = append(c.tallies, &s.base)
	}
	if t.division != nil {
		c.tallies = append(c.tallies, t.division.counts.outcomes[t.side])
	}
	return c
}

// remember keeps how a request was answered, for showRequest. It is called before a client can
// have read the end of its answer.
func (s *Server) remember(ctx context.Context, q query, out outcome, written *written, failed error) {
	rec := recordIn(ctx)
	if rec.answerID == "" {
		return
	}
	r := contract.RequestRecord{
		Object: contract.RequestObject, ID: rec.id, AnswerID: rec.answerID, Pod: s.config.Pod, Time: rec.begun.UTC(), Side: rec.side, Model: q.model,
		Why: out.chosen.why, Adaptation: out.adaptation, Finish: out.finishes,
		PromptTokens: out.result.PromptTokens, CachedTokens: out.result.CachedTokens, Pass1Tokens: out.chosen.pass1Tokens, Tokens: out.result.Tokens,
		TraceID:       traceID(ctx),
		QueuedSeconds: out.result.Waited.Seconds(), FirstTokenSeconds: out.result.FirstToken.Seconds(),
	}
	if failed != nil {
		r.Finish = nil
		if code := asAPIError(failed).Code; code != nil {
			r.Error = *code
		}
	}
	if err := s.kept.Add(r, written.told(), out.chosen.tallies); err != nil {
		s.log.Warn("Could not keep what a request was answered with", "request", rec.id, "error", err)
	}
}

// showRequest handles pathRequest.
func (s *Server) showRequest(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	record, state, err := s.kept.Find(id)
	if err == nil && state == requestlog.Unknown {
		record, state, err = s.kept.Find(contract.RequestID(id))
	}
	switch {
	case err != nil:
		return err
	case state == requestlog.Unknown:
		return s.notKept(id)
	}
	writeJSON(w, http.StatusOK, record)
	return nil
}

// notKept says that this pod does not have a request, and which ones it would have.
func (s *Server) notKept(id string) *apiError {
	pod := "this pod"
	if s.config.Pod != "" {
		pod += ", " + s.config.Pod + ","
	}
	return newError(http.StatusNotFound, typeInvalid, "request_not_found", "",
		"%s has no request %q: it keeps %s; what was refused is not kept, and each pod knows only what it has answered, which is what answers say in the header %s",
		pod, clip(id), s.kept.Limits(), contract.HeaderPod)
}

// written collects the text of a request and of its first choice; nil collects nothing.
type written struct {
	text   requestlog.Text
	answer strings.Builder
	unfit  bool // It is more than is kept, or no text alone.
}

// keepText begins to collect the text of a request, if that is to be kept.
func (s *Server) keepText(c *core, q query) *written {
	if !s.config.KeepText {
		return nil
	}
	w := &written{}
	size := 0
	for _, m := range q.messages {
		w.text.Messages = append(w.text.Messages, requestlog.Message{Role: m.Role, Content: m.Content})
		size += len(m.Content)
		w.unfit = w.unfit || len(m.ToolCalls) > 0
	}
	switch {
	case q.messages != nil:
	case q.tokens != nil:
		w.text.Prompt = c.tok.Decode(q.tokens, true)
	default:
		w.text.Prompt = q.text
	}
	w.unfit = w.unfit || size+len(w.text.Prompt) > requestlog.MaxText
	return w
}

// of has pieces collected before they go on.
func (w *written) of(emit func(int, piece) error) func(int, piece) error {
	if w == nil {
		return emit
	}
	return func(i int, p piece) error {
		if i == 0 {
			w.unfit = w.unfit || p.call != nil || w.answer.Len()+len(p.text) > requestlog.MaxText
			if !w.unfit {
				w.answer.WriteString(p.text)
			}
		}
		return emit(i, p)
	}
}

// told returns what was collected; nil where it is nothing that is kept.
func (w *written) told() *requestlog.Text {
	if w == nil || w.unfit {
		return nil
	}
	w.text.Answer = w.answer.String()
	return &w.text
}
