package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/server/requestlog"
)

// maxOutcomeBytes bounds the body of an outcome: a comment of which JSON escapes each byte,
// and the rest.
const maxOutcomeBytes = 8 << 10

// takeOutcome handles contract.PathOutcome.
func (s *Server) takeOutcome(w http.ResponseWriter, r *http.Request) error {
	body, err := s.bodies.readWithin(w, r, maxOutcomeBytes)
	if err != nil {
		return err
	}
	defer body.release()
	report, err := parseOutcome(body.bytes)
	if err != nil {
		return err
	}
	record, state, err := s.kept.Mark(report.Request, *report.Right, report.Comment)
	if err == nil && state == requestlog.Unknown {
		record, state, err = s.kept.Mark(contract.RequestID(report.Request), *report.Right, report.Comment)
	}
	switch {
	case err != nil:
		return err
	case state == requestlog.Unknown:
		return s.notKept(report.Request)
	case state == requestlog.Failed:
		return newError(http.StatusConflict, typeInvalid, "request_not_answered", "request",
			"request %q ended before its answer did (%s): there is nothing that could be right or wrong", clip(report.Request), record.Error)
	}
	writeJSON(w, http.StatusOK, record)
	return nil
}

// parseOutcome reads an outcome.
func parseOutcome(body []byte) (contract.OutcomeReport, error) {
	var o contract.OutcomeReport
	f, err := parseFields(body)
	if err != nil {
		return o, err
	}
	if o.Request = f.text("request"); o.Request == "" {
		f.fail(invalid("request", "missing_required_parameter", "request is missing: give the id of an answer, or what its header %s says", contract.HeaderRequestID))
	}
	if !f.has("right") {
		f.fail(invalid("right", "missing_required_parameter", "right is missing: true if the answer was right, false if it was wrong"))
	}
	right := f.flag("right")
	o.Right = &right
	if o.Comment = f.text("comment"); len(o.Comment) > contract.MaxOutcomeComment {
		f.fail(invalid("comment", "invalid_value", "comment has %d bytes, at most %d are allowed", len(o.Comment), contract.MaxOutcomeComment))
	}
	f.refuseOthers(nil)
	if f.err != nil {
		return o, f.err
	}
	return o, nil
}

// listing is what the query of contract.PathOutcomes asks for.
type listing struct {
	line   func(requestlog.Marked) any // Nil for what the format cannot hold.
	expert string
	right  *bool // Nil for both.
}

func parseListing(values url.Values) (listing, error) {
	var l listing
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return l, invalid(clip(name), "invalid_value", "%s is there more than once", clip(name))
		}
		switch value := values.Get(name); name {
		case "format", "right":
		case "expert":
			l.expert = value
		default:
			return l, invalid(clip(name), "unsupported_parameter", "%s is no parameter of this: there are format, expert and right", clip(name))
		}
	}
	switch format := values.Get("format"); format {
	case "", contract.OutcomeRecords:
		l.line = func(m requestlog.Marked) any { return m.Record }
	case contract.OutcomeChat:
		l.line, l.right = chatLine, new(true)
	case contract.OutcomePairs:
		l.line, l.right = pairLine, new(true)
	default:
		return l, invalid("format", "invalid_value", "format is %q: it must be %s, %s or %s",
			clip(format), contract.OutcomeRecords, contract.OutcomeChat, contract.OutcomePairs)
	}
	if values.Has("right") {
		right, err := strconv.ParseBool(values.Get("right"))
		if err != nil {
			return l, invalid("right", "invalid_value", "right is %q: it must be true or false", clip(values.Get("right")))
		}
		l.right = &right
	}
	return l, nil
}

// wants reports whether a line is made of what was marked.
func (l listing) wants(m requestlog.Marked) bool {
	r := m.Record
	if l.right != nil && r.Outcome.Right != *l.right {
		return false
	}
	if l.expert == "" {
		return true
	}
	_, answered := r.Adaptation.Weights[l.expert]
	return answered || l.expert == contract.BaseName && len(r.Adaptation.Weights) == 0
}

// lineOf is what a line of a data set says beside what its format has.
type lineOf struct {
	Request string `json:"request"`
	Expert  string `json:"expert"`
	Right   bool   `json:"right"`
	Comment string `json:"comment,omitempty"`
}

func newLineOf(r contract.RequestRecord) lineOf {
	return lineOf{Request: r.ID, Expert: r.Adaptation.Expert, Right: r.Outcome.Right, Comment: r.Outcome.Comment}
}

// chatLine is a line of contract.FormatChat: a conversation of which the user had the last
// word, and the answer.
func chatLine(m requestlog.Marked) any {
	if m.Text == nil || len(m.Text.Messages) == 0 || m.Text.Answer == "" {
		return nil
	}
	messages := m.Text.Messages
	for _, said := range messages {
		if said.Content == "" || said.Role != "system" && said.Role != "user" && said.Role != "assistant" {
			return nil
		}
	}
	if messages[len(messages)-1].Role != "user" {
		return nil
	}
	return struct {
		Messages []requestlog.Message `json:"messages"`
		lineOf
	}{append(messages, requestlog.Message{Role: "assistant", Content: m.Text.Answer}), newLineOf(m.Record)}
}

// pairLine is a line of contract.FormatPairs: a text that was completed, or all that a user has
// said, and the answer.
func pairLine(m requestlog.Marked) any {
	if m.Text == nil || m.Text.Answer == "" {
		return nil
	}
	prompt := m.Text.Prompt
	if messages := m.Text.Messages; len(messages) == 1 && messages[0].Role == "user" {
		prompt = messages[0].Content
	}
	if prompt == "" {
		return nil
	}
	return struct {
		Prompt string `json:"prompt"`
		Answer string `json:"answer"`
		lineOf
	}{prompt, m.Text.Answer, newLineOf(m.Record)}
}

// listOutcomes handles contract.PathOutcomes.
func (s *Server) listOutcomes(w http.ResponseWriter, r *http.Request) {
	if e := s.authorise(r); e != nil {
		writeError(w, e)
		return
	}
	l, err := parseListing(r.URL.Query())
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl; charset=utf-8")
	for m, err := range s.kept.Marked() {
		if err == nil {
			if !l.wants(m) {
				continue
			}
			err = writeLine(w, l.line(m))
		}
		if err != nil {
			s.log.Warn("Could not list the outcomes to their end", "error", err)
			return
		}
	}
}

// writeLine writes one line of JSON; nil is none.
func writeLine(w http.ResponseWriter, line any) error {
	if line == nil {
		return nil
	}
	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encoding a line: %w", err)
	}
	return writeInTime(w, append(b, '\n'))
}
