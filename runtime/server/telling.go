package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// responseFormat is contract.PathResponses.
type responseFormat struct{}

func (responseFormat) prefix() string { return contract.AnswerPrefixResponse }

func (responseFormat) teller(a *reply, e *events) teller { return &telling{reply: a, events: e} }

// whole is the end of what a stream would tell.
func (responseFormat) whole(ctx context.Context, a *reply) error {
	t := &telling{reply: a}
	out, err := a.tell(ctx, t, func() error { return nil })
	if err != nil {
		return err
	}
	a.answered(out)
	if err := t.end(out); err != nil {
		return err
	}
	writeJSON(a.w, http.StatusOK, t.response)
	return nil
}

// Statuses of a response and of its items.
const (
	statusInProgress = "in_progress"
	statusCompleted  = "completed"
	statusIncomplete = "incomplete"
	statusFailed     = "failed"
)

// responseObject is an answer of contract.PathResponses, at any time of its making.
type responseObject struct {
	ID         string             `json:"id"`
	Object     string             `json:"object"`
	CreatedAt  int64              `json:"created_at"`
	Completed  *int64             `json:"completed_at"`
	Status     string             `json:"status"`
	Background bool               `json:"background"`
	Error      *responseError     `json:"error"`
	Incomplete *incompleteDetails `json:"incomplete_details"`

	Instructions    *string              `json:"instructions"`
	MaxOutputTokens *int                 `json:"max_output_tokens"`
	MaxToolCalls    *int                 `json:"max_tool_calls"`
	Model           string               `json:"model"`
	Output          []*responseItem      `json:"output"`
	Parallel        bool                 `json:"parallel_tool_calls"`
	Previous        *string              `json:"previous_response_id"`
	Reasoning       map[string]any       `json:"reasoning"`
	ServiceTier     string               `json:"service_tier"`
	Store           bool                 `json:"store"`
	Temperature     float64              `json:"temperature"`
	Text            json.RawMessage      `json:"text"`
	ToolChoice      json.RawMessage      `json:"tool_choice"`
	Tools           []json.RawMessage    `json:"tools"`
	TopLogprobs     int                  `json:"top_logprobs"`
	TopP            float64              `json:"top_p"`
	Truncation      string               `json:"truncation"`
	Usage           *responseUsage       `json:"usage"`
	User            *string              `json:"user"`
	Metadata        map[string]string    `json:"metadata"`
	Adaptation      *contract.Adaptation `json:"t2,omitempty"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type incompleteDetails struct {
	Reason string `json:"reason"`
}

type responseUsage struct {
	InputTokens   int           `json:"input_tokens"`
	InputDetails  promptDetails `json:"input_tokens_details"`
	OutputTokens  int           `json:"output_tokens"`
	OutputDetails outputDetails `json:"output_tokens_details"`
	TotalTokens   int           `json:"total_tokens"`
}

// outputDetails has no reasoning, which is part of the text.
type outputDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// responseItem is a message, or a call of a tool.
type responseItem struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Status string `json:"status"`
	// Of a message.
	Role    string          `json:"role,omitempty"`
	Content *[]responsePart `json:"content,omitempty"`
	// Of a call.
	CallID    string  `json:"call_id,omitempty"`
	Name      string  `json:"name,omitempty"`
	Arguments *string `json:"arguments,omitempty"`
	Input     *string `json:"input,omitempty"` // Of a custom tool's.
}

// isCall reports whether it is a call of a tool.
func (i *responseItem) isCall() bool { return i.Type == itemCall || i.Type == itemCustom }

type responsePart struct {
	Type        string        `json:"type"`
	Annotations []any         `json:"annotations"`
	Logprobs    []chatLogprob `json:"logprobs"`
	Text        string        `json:"text"`
}

func newResponsePart(text string, probs []chatLogprob) responsePart {
	if probs == nil {
		probs = []chatLogprob{}
	}
	return responsePart{Type: partOutput, Annotations: []any{}, Logprobs: probs, Text: text}
}

// telling words an answer as the events of contract.PathResponses, and puts it together on
// the way. Without events it does the latter alone.
type telling struct {
	*reply
	events   *events
	sequence int
	response *responseObject

	// open is the item that is being told, the last one; nil for none.
	open  *responseItem
	text  strings.Builder // Of the open item: its text, or its arguments.
	probs []chatLogprob   // Of its text.
	// ahead are log-probabilities of tokens whose text has not been told.
	ahead []chatLogprob
	call  int // The open call's index.
}

// event is what all events have, and those of an item.
type event map[string]any

// send numbers an event and sends it.
func (t *telling) send(kind string, e event) error {
	if t.events == nil {
		return nil
	}
	e["type"], e["sequence_number"] = kind, t.sequence
	t.sequence++
	return t.events.sendAs(kind, e)
}

// begun is the response as it is at its beginning.
func (t *telling) begun() *responseObject {
	if t.response != nil {
		return t.response
	}
	asked := t.query.asked
	t.response = &responseObject{
		ID: t.meta.id, Object: "response", CreatedAt: t.meta.created, Status: statusInProgress, Model: t.meta.model,
		Instructions: asked.instructions, MaxOutputTokens: asked.maxOutputTokens, Output: []*responseItem{}, Parallel: asked.parallel,
		Reasoning: map[string]any{"effort": nil, "summary": nil}, ServiceTier: "default", Temperature: asked.temperature,
		Text: asked.text, ToolChoice: asked.toolChoice, Tools: asked.tools, TopLogprobs: asked.topLogprobs, TopP: asked.topP,
		Truncation: "disabled", User: asked.user, Metadata: asked.metadata,
	}
	if t.response.Text == nil {
		t.response.Text = json.RawMessage(`{"format":{"type":"text"},"verbosity":"medium"}`)
	}
	if t.response.ToolChoice == nil {
		t.response.ToolChoice = json.RawMessage(`"auto"`)
	}
	if t.response.Tools == nil {
		t.response.Tools = []json.RawMessage{}
	}
	return t.response
}

func (t *telling) begin() error {
	for _, kind := range []string{"response.created", "response.in_progress"} {
		if err := t.send(kind, event{"response": t.begun()}); err != nil {
			return err
		}
	}
	return nil
}

func (t *telling) chunk(p part) error {
	t.begun()
	if p.probs != nil {
		t.ahead = append(t.ahead, p.probs.spelled()...)
	}
	for _, c := range p.calls {
		if err := t.tellCall(c); err != nil {
			return err
		}
	}
	if p.text == "" {
		return nil
	}
	return t.tellText(p.text)
}

// tellText tells more of a message, or the beginning of one.
func (t *telling) tellText(text string) error {
	if t.open == nil || t.open.Type != itemMessage {
		if err := t.openMessage(); err != nil {
			return err
		}
	}
	probs := t.ahead
	if probs == nil {
		probs = []chatLogprob{}
	}
	t.ahead = nil
	t.text.WriteString(text)
	t.probs = append(t.probs, probs...)
	return t.send("response.output_text.delta", t.inPart(event{"delta": text, "logprobs": probs}))
}

// tellCall tells a piece of a call. Whose tokens they are is not told.
func (t *telling) tellCall(c toolcall.Call) error {
	if t.open == nil || !t.open.isCall() || t.call != c.Index {
		nothing := ""
		item := &responseItem{ID: "fc_" + newID(), Type: itemCall, CallID: c.ID, Name: c.Name, Arguments: &nothing}
		if c.Text {
			item = &responseItem{ID: "ctc_" + newID(), Type: itemCustom, CallID: c.ID, Name: c.Name, Input: &nothing}
		}
		if err := t.openItem(item); err != nil {
			return err
		}
		t.call = c.Index
	}
	t.ahead = nil
	if c.Arguments == "" {
		return nil
	}
	t.text.WriteString(c.Arguments)
	kind := "response.function_call_arguments.delta"
	if c.Text {
		kind = "response.custom_tool_call_input.delta"
	}
	return t.send(kind, t.inItem(event{"delta": c.Arguments}))
}

func (t *telling) openMessage() error {
	item := &responseItem{ID: "msg_" + newID(), Type: itemMessage, Role: roleAssistant, Content: &[]responsePart{}}
	if err := t.openItem(item); err != nil {
		return err
	}
	return t.send("response.content_part.added", t.inPart(event{"part": newResponsePart("", nil)}))
}

// openItem ends the item before and begins one.
func (t *telling) openItem(item *responseItem) error {
	if err := t.closeItem(statusCompleted); err != nil {
		return err
	}
	item.Status = statusInProgress
	t.open = item
	t.response.Output = append(t.response.Output, item)
	return t.send("response.output_item.added", event{"output_index": len(t.response.Output) - 1, "item": item})
}

// inItem adds which item an event is about, inPart which part of it, the only one.
func (t *telling) inItem(e event) event {
	e["item_id"], e["output_index"] = t.open.ID, len(t.response.Output)-1
	return e
}

func (t *telling) inPart(e event) event {
	e["content_index"] = 0
	return t.inItem(e)
}

// closeItem ends the open item, if there is one.
func (t *telling) closeItem(status string) error {
	if t.open == nil {
		return nil
	}
	text := t.text.String()
	t.open.Status = status
	var err error
	switch t.open.Type {
	case itemCall:
		t.open.Arguments = &text
		err = t.send("response.function_call_arguments.done", t.inItem(event{"name": t.open.Name, "arguments": text}))
	case itemCustom:
		t.open.Input = &text
		err = t.send("response.custom_tool_call_input.done", t.inItem(event{"input": text}))
	default:
		part := newResponsePart(text, append(t.probs, t.ahead...))
		t.open.Content = &[]responsePart{part}
		err = t.send("response.output_text.done", t.inPart(event{"text": text, "logprobs": part.Logprobs}))
		if err == nil {
			err = t.send("response.content_part.done", t.inPart(event{"part": part}))
		}
	}
	if err == nil {
		err = t.send("response.output_item.done", event{"output_index": len(t.response.Output) - 1, "item": t.open})
	}
	t.open, t.probs, t.ahead = nil, nil, nil
	t.text.Reset()
	return err
}

func (t *telling) end(out outcome) error {
	r := t.begun()
	if len(r.Output) == 0 { // An answer without text is one.
		if err := t.openMessage(); err != nil {
			return err
		}
	}
	kind := "response.completed"
	r.Status = statusCompleted
	if out.finishes[0] == engine.FinishLength {
		kind, r.Status = "response.incomplete", statusIncomplete
		r.Incomplete = &incompleteDetails{Reason: "max_output_tokens"}
	}
	status := r.Status
	if out.cut[0] { // By a text of stop, which completes the response.
		status = statusIncomplete
	}
	if err := t.closeItem(status); err != nil {
		return err
	}
	if r.Status == statusCompleted {
		now := time.Now().Unix()
		r.Completed = &now
	}
	u := usageOf(out)
	r.Usage = &responseUsage{
		InputTokens: u.PromptTokens, InputDetails: u.PromptDetails, OutputTokens: u.CompletionTokens, TotalTokens: u.TotalTokens,
	}
	r.Adaptation = &out.adaptation
	return t.send(kind, event{"response": r})
}

// fail ends a response that has begun. The open item stays as far as it came.
func (t *telling) fail(e *apiError) error {
	r := t.begun()
	if err := t.closeItem(statusIncomplete); err != nil {
		return err
	}
	r.Status = statusFailed
	r.Error = &responseError{Code: "server_error", Message: e.Message}
	return t.send("response.failed", event{"response": r})
}
