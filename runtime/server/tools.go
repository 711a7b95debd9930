package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/toolcall"
)

// Bounds of what a request may offer, and of the calls that it shows.
const (
	maxTools            = 128
	maxToolDescription  = 16 << 10
	maxToolParameters   = 64 << 10  // Bytes of one schema.
	maxToolBytes        = 256 << 10 // Of all tools together.
	maxToolCalls        = 1024      // Of one message.
	maxToolCallID       = 256
	maxFunctionNameSize = 64
)

var validFunction = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9_-]{1,%d}$`, maxFunctionNameSize))

// finishToolCalls is the reason why an answer ends that has calls.
const finishToolCalls = "tool_calls"

// toolChoice is what tool_choice may say.
const (
	choiceAuto     = "auto"
	choiceNone     = "none"
	choiceRequired = "required"
	choiceAllowed  = "allowed_tools"
)

// parseTools reads tools, tool_choice and parallel_tool_calls of a chat. What is offered, but
// must not be called, is not offered.
func parseTools(f *fields) toolcall.Offer {
	var o toolcall.Offer
	for i, raw := range f.list("tools") {
		tool := f.element("tools", i, raw)
		if tool == nil {
			return o
		}
		kind := parseToolKind(tool)
		if function := toolObject(tool, kind); function != nil {
			o.Functions = append(o.Functions, parseTool(function, kind))
			function.refuseOthers(nil)
			tool.adopt(function)
		}
		tool.refuseOthers(nil)
		f.adopt(tool)
	}
	checkTools(f, o.Functions)
	parseToolChoice(f, &o, true)
	return o
}

// parseTool reads what a tool of a kind is, which endpoints have in different places. The
// caller refuses other fields.
func parseTool(f *fields, kind string) toolcall.Function {
	name, description := f.text("name"), f.text("description")
	switch {
	case name == "":
		f.fail(invalid(f.prefix+"name", "missing_required_parameter", "%sname is missing", f.prefix))
	case !validFunction.MatchString(name):
		failFunctionName(f, name)
	case len(description) > maxToolDescription:
		f.fail(invalid(f.prefix+"description", "invalid_value", "%sdescription has %d bytes, at most %d are allowed",
			f.prefix, len(description), maxToolDescription))
	}
	if kind == toolCustom {
		parseCustomFormat(f)
		return toolcall.TextFunction(name, description)
	}
	function := toolcall.Function{Name: name, Description: description, Strict: f.flag("strict"), Place: f.prefix + "parameters"}
	if f.has("parameters") {
		function.Parameters = parseParameters(f)
	}
	return function
}

// parseCustomFormat refuses all but free text as what a custom tool takes.
func parseCustomFormat(f *fields) {
	format := f.object("format")
	if format == nil {
		return
	}
	if kind := format.text("type"); kind != "text" {
		format.fail(invalid(format.prefix+"type", "unsupported_value",
			"%stype is %q: this server knows no grammars of lark and regex; custom tools take any text, and parameters of functions can have a pattern", format.prefix, clip(kind)))
	}
	format.refuseOthers(nil)
	f.adopt(format)
}

// parseToolKind reads the type of a tool, or of a call of one.
func parseToolKind(f *fields) string {
	kind := f.text("type")
	if kind != toolFunction && kind != toolCustom {
		f.fail(invalid(f.prefix+"type", "unsupported_value", "%stype is %q: this server calls functions, and custom tools that take a text", f.prefix, clip(kind)))
	}
	return kind
}

// toolObject is the object in which chats say what a tool of a kind is, nil if it is missing.
func toolObject(f *fields, kind string) *fields {
	o := f.object(kind)
	if o == nil {
		f.fail(invalid(f.prefix+kind, "missing_required_parameter", "%s%s is missing", f.prefix, kind))
	}
	return o
}

// failFunctionName refuses a name that is not validFunction.
func failFunctionName(f *fields, name string) {
	f.fail(invalid(f.prefix+"name", "invalid_value", "%sname is %q: it must have 1 to %d letters, digits, underscores and hyphens",
		f.prefix, clip(name), maxFunctionNameSize))
}

// parseParameters reads the schema of a function's arguments. Whether it can be followed is
// known later, where it has to be.
func parseParameters(f *fields) json.RawMessage {
	raw := f.raw["parameters"]
	schema := f.object("parameters")
	switch {
	case schema == nil:
		return nil
	case len(raw) > maxToolParameters:
		f.fail(invalid(f.prefix+"parameters", "invalid_value", "%sparameters has %d bytes, at most %d are allowed", f.prefix, len(raw), maxToolParameters))
		return nil
	}
	if kind, ok := schema.raw["type"]; ok && !bytes.Equal(bytes.TrimSpace(kind), []byte(`"object"`)) {
		f.fail(invalid(f.prefix+"parameters", "invalid_value", "%sparameters.type is %s: the arguments of a function are an object", f.prefix, clip(string(kind))))
		return nil
	}
	return raw
}

// checkTools checks what is true of all functions together.
func checkTools(f *fields, functions []toolcall.Function) {
	if len(functions) > maxTools {
		f.fail(invalid("tools", "invalid_value", "tools has %d functions, at most %d are allowed", len(functions), maxTools))
	}
	seen := map[string]int{}
	bytes := 0
	for i, function := range functions {
		if first, taken := seen[function.Name]; taken {
			f.fail(invalid("tools", "invalid_value", "tools[%d] and tools[%d] are both named %q: a call could not tell them apart", first, i, function.Name))
		}
		seen[function.Name] = i
		bytes += len(function.Name) + len(function.Description) + len(function.Parameters)
	}
	if bytes > maxToolBytes {
		f.fail(invalid("tools", "invalid_value", "tools has %d bytes of names, descriptions and schemas, at most %d are allowed", bytes, maxToolBytes))
	}
}

// parseToolChoice reads tool_choice and parallel_tool_calls into an offer that has its
// functions. nested says that what is said of a tool has an object of its own, as in chats.
func parseToolChoice(f *fields, o *toolcall.Offer, nested bool) {
	parallel := f.flag("parallel_tool_calls")
	o.Single = f.has("parallel_tool_calls") && !parallel
	if !f.has("tool_choice") {
		return
	}
	if kindOf(f.raw["tool_choice"]) == "a string" {
		switch choice := f.text("tool_choice"); {
		case choice == choiceNone:
			o.Functions = nil
		case choice == choiceAuto:
		case choice == choiceRequired && len(o.Functions) > 0:
			o.Required = true
		case choice == choiceRequired:
			f.fail(invalid("tool_choice", "invalid_value", "tool_choice is required, and tools is empty: there is nothing to call"))
		default:
			f.fail(invalid("tool_choice", "invalid_value", "tool_choice is %q: it must be auto, none, required, or an object that names functions", clip(choice)))
		}
		return
	}
	choice := f.object("tool_choice")
	if choice == nil {
		return
	}
	if kind := choice.text("type"); kind == choiceAllowed {
		parseAllowedTools(choice, o, nested)
	} else {
		o.Only = parseNamedTool(choice, kind, o, nested)
	}
	choice.refuseOthers(nil)
	f.adopt(choice)
}

// parseNamedTool reads which of the offered functions an object of this type names.
func parseNamedTool(f *fields, kind string, o *toolcall.Offer, nested bool) string {
	place := strings.TrimSuffix(f.prefix, ".")
	if kind != toolFunction && kind != toolCustom {
		f.fail(invalid(f.prefix+"type", "unsupported_value", "%stype is %q: it must be function or custom, or of tool_choice %s", f.prefix, clip(kind), choiceAllowed))
	}
	name := ""
	if !nested {
		name = f.text("name")
	} else if function := f.object(kind); function != nil {
		name = function.text("name")
		function.refuseOthers(nil)
		f.adopt(function)
	}
	switch {
	case name == "":
		f.fail(invalid(place, "missing_required_parameter", "%s names no function", place))
	case !slices.ContainsFunc(o.Functions, func(offered toolcall.Function) bool {
		return offered.Name == name && offered.IsText() == (kind == toolCustom)
	}):
		f.fail(invalid(place, "invalid_value", "%s names the %s %q, which is none of tools", place, kind, clip(name)))
	}
	return name
}

// parseAllowedTools reads which of the functions that a model is shown it may call, or must.
func parseAllowedTools(choice *fields, o *toolcall.Offer, nested bool) {
	f := choice
	if nested {
		if f = choice.object(choiceAllowed); f == nil {
			choice.fail(invalid("tool_choice."+choiceAllowed, "missing_required_parameter", "tool_choice.%s is missing: it has the mode and the tools", choiceAllowed))
			return
		}
		defer func() {
			f.refuseOthers(nil)
			choice.adopt(f)
		}()
	}
	switch mode := f.text("mode"); mode {
	case choiceAuto:
	case choiceRequired:
		o.Required = true
	default:
		f.fail(invalid(f.prefix+"mode", "invalid_value", "%smode is %q: it must be auto or required", f.prefix, clip(mode)))
	}
	list := f.list("tools")
	if len(list) == 0 {
		f.fail(invalid(f.prefix+"tools", "missing_required_parameter", "%stools is missing or empty: tool_choice none forbids all calls", f.prefix))
	}
	for i, raw := range list {
		tool := f.element("tools", i, raw)
		if tool == nil {
			return
		}
		o.Allowed = append(o.Allowed, parseNamedTool(tool, tool.text("type"), o, nested))
		tool.refuseOthers(nil)
		f.adopt(tool)
	}
}

// calling is how one model calls tools.
type calling struct {
	format *toolcall.Format // nil if it cannot.
	err    error            // Why it cannot.
}

func newCalling(tok *tokenizer.Tokenizer) calling {
	format, err := toolcall.Detect(tok)
	return calling{format, err}
}

// prepare puts the tools, and the calls of a conversation, as the model's template takes
// them.
func (c calling) prepare(q *query) error {
	called := -1
	for i, m := range q.messages {
		if len(m.ToolCalls) > 0 || m.Role == "tool" {
			called = i
			break
		}
	}
	if called < 0 && len(q.offer.Functions) == 0 {
		return nil
	}
	if c.format == nil {
		param := "tools"
		if len(q.offer.Functions) == 0 {
			param = q.placeOfCalls(called)
		}
		what := ": this model cannot call tools"
		if errors.Is(c.err, tokenizer.ErrNoChatTemplate) {
			what = ""
		}
		return invalid(param, "unsupported_parameter", "%s: %s%s", param, c.err.Error(), what)
	}
	if called >= 0 && !c.format.ShowsCalls() {
		return invalid(q.placeOfCalls(called), "unsupported_parameter",
			"%s: the model's chat template shows no calls of tools and no results of them: this model cannot go on after a call", q.placeOfCalls(called))
	}
	q.messages = c.format.Prepare(q.messages)
	q.chat.Tools = q.offer.Tools()
	return nil
}

// layout is what an answer has to look like, where tools or a structure ask for something;
// nil if neither does.
func (c calling) layout(q query) constrain.Layout {
	if len(q.offer.Functions) == 0 {
		return nil
	}
	return c.format.Layout(q.offer, q.structure.layout())
}

// piece is a piece of an answer.
type piece struct {
	text    string
	call    *toolcall.Call // nil for none.
	logprob *engine.Logprob
}

// empty reports whether there is nothing to be told.
func (p piece) empty() bool { return p.text == "" && p.call == nil && p.logprob == nil }

// callsOfChoice puts the calls of a choice together.
type callsOfChoice []toolcall.Call

// add takes the next piece; nil is none.
func (c *callsOfChoice) add(piece *toolcall.Call) {
	switch {
	case piece == nil:
	case piece.Index == len(*c):
		*c = append(*c, *piece)
	default:
		(*c)[piece.Index].Arguments += piece.Arguments
	}
}

// ending is how a choice ends.
type ending struct {
	called bool // It has calls.
	cut    bool // The last one's arguments end too early.
}

// divide returns what takes the answers to q apart into text and calls, one function for
// each choice, and what hands on the rest of one once it has ended by this reason, and says how.
func (c calling) divide(q query, emit func(choice int, p piece) error) (take func(int, engine.Delta) error, end func(int, string) (ending, error)) {
	if len(q.offer.Functions) == 0 {
		take = func(i int, d engine.Delta) error { return emit(i, piece{text: d.Text, logprob: d.Logprob}) }
		return take, func(int, string) (ending, error) { return ending{}, nil }
	}
	parsers := make([]*toolcall.Parser, q.choices)
	for i := range parsers {
		parsers[i] = c.format.NewParser(q.offer, q.structure.kind != "")
	}
	send := func(i int, pieces []toolcall.Piece) error {
		for _, p := range pieces {
			if err := emit(i, piece{text: p.Text, call: p.Call}); err != nil {
				return err
			}
		}
		return nil
	}
	take = func(i int, d engine.Delta) error {
		if d.Logprob != nil { // Of a token whose text may be held back.
			if err := emit(i, piece{logprob: d.Logprob}); err != nil {
				return err
			}
		}
		return send(i, parsers[i].Push(d.Text))
	}
	end = func(i int, finish string) (ending, error) {
		err := send(i, parsers[i].Flush(finish == engine.FinishLength))
		return ending{called: parsers[i].Calls() > 0, cut: parsers[i].Cut()}, err
	}
	return take, end
}
