package server

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/toolcall"
)

const roleTool = "tool"

// parseMessages reads the conversation.
func parseMessages(f *fields) []tokenizer.Message {
	list := f.list("messages")
	if len(list) == 0 {
		f.fail(invalid("messages", "missing_required_parameter", "messages is missing or empty: a chat needs at least one message"))
		return nil
	}
	var called callsSoFar
	messages := make([]tokenizer.Message, 0, len(list))
	for i, raw := range list {
		o := f.element("messages", i, raw)
		if o == nil {
			return nil
		}
		m := parseMessage(o, &called)
		f.adopt(o)
		if f.err != nil {
			return nil
		}
		messages = append(messages, m)
	}
	return messages
}

// parseMessage reads one message.
func parseMessage(o *fields, called *callsSoFar) tokenizer.Message {
	m := tokenizer.Message{Role: o.text("role"), Name: o.text("name")}
	switch m.Role {
	case "developer": // OpenAI's newer word for it.
		m.Role = "system"
	case "system", "user":
	case "assistant":
		m.ToolCalls = parseToolCalls(o, called)
	case roleTool:
		m.ToolCallID = called.answered(o, "tool_call_id", &m.Name)
	case "function":
		o.fail(invalid(o.prefix+"role", "unsupported_value", "%srole is \"function\", which OpenAI's API had before tools: use tool_calls, and the role tool", o.prefix))
	default:
		o.fail(invalid(o.prefix+"role", "invalid_value", "%srole is %q: it must be system, developer, user, assistant or tool", o.prefix, clip(m.Role)))
	}
	// First what it has besides its content: that is missing where there are tool
	// calls instead.
	o.known["content"] = true
	o.refuseOthers(harmlessOfMessages)
	m.Content = parseContent(o, m.Role == "assistant")
	return m
}

// callsSoFar are the calls of a conversation that a result may be of.
type callsSoFar struct{ names map[string]string } // By id.

// parseToolCalls reads the calls that an assistant made.
func parseToolCalls(o *fields, called *callsSoFar) []tokenizer.ToolCall {
	list := o.list("tool_calls")
	if len(list) > maxToolCalls {
		o.fail(invalid(o.prefix+"tool_calls", "invalid_value", "%stool_calls has %d calls, at most %d are allowed", o.prefix, len(list), maxToolCalls))
	}
	var calls []tokenizer.ToolCall
	for i, raw := range list {
		call := o.element("tool_calls", i, raw)
		if call == nil {
			return nil
		}
		kind := toolFunction
		if call.has("type") {
			kind = parseToolKind(call)
		}
		c := tokenizer.ToolCall{ID: parseCallID(call, "id")}
		if function := toolObject(call, kind); function != nil {
			c.Name, c.Arguments = parseCalled(function, kind)
			function.refuseOthers(nil)
			call.adopt(function)
		}
		call.known["index"] = true // Of a stream's pieces: clients keep it.
		call.refuseOthers(nil)
		o.adopt(call)
		called.add(c)
		calls = append(calls, c)
	}
	return calls
}

// parseCalled reads which tool of a kind was called with what.
func parseCalled(f *fields, kind string) (name string, arguments json.RawMessage) {
	if name = f.text("name"); !validFunction.MatchString(name) {
		failFunctionName(f, name)
	}
	if kind == toolCustom {
		return name, toolcall.TextArguments(f.text("input"))
	}
	text := f.text("arguments")
	if strings.TrimSpace(text) == "" {
		text = "{}" // Of a function without parameters.
	}
	arguments = json.RawMessage(text)
	if kindOf(arguments) != "an object" || !json.Valid(arguments) {
		f.fail(invalid(f.prefix+"arguments", "invalid_value", "%sarguments is no JSON object: send them as the call had them", f.prefix))
	}
	return name, bytes.TrimSpace(arguments)
}

// parseCallID reads the id of a call.
func parseCallID(f *fields, name string) string {
	id := f.text(name)
	if id == "" || len(id) > maxToolCallID {
		f.fail(invalid(f.prefix+name, "invalid_value", "%s%s has %d bytes: it must have 1 to %d", f.prefix, name, len(id), maxToolCallID))
	}
	return id
}

func (c *callsSoFar) add(call tokenizer.ToolCall) {
	if c.names == nil {
		c.names = map[string]string{}
	}
	c.names[call.ID] = call.Name
}

// answered reads which call a tool's result is of, and fills in the tool's name.
func (c *callsSoFar) answered(o *fields, field string, name *string) string {
	id := parseCallID(o, field)
	called, known := c.names[id]
	if !known {
		calls := "tool_calls of an assistant's message"
		if field == fieldCallID {
			calls = itemCall
		}
		o.fail(invalid(o.prefix+field, "invalid_value", "%s%s is %q: no %s before it has that id", o.prefix, field, clip(id), calls))
	}
	if *name == "" {
		*name = called
	}
	return id
}

// parseContent reads a message's content: text, or a list of text parts. An
// assistant may have said nothing.
func parseContent(o *fields, mayBeNull bool) string {
	switch kindOf(o.raw["content"]) {
	case "a string":
		return o.text("content")
	case "an array":
	case "nothing", "null":
		if !mayBeNull {
			o.fail(invalid(o.prefix+"content", "missing_required_parameter", "%scontent is missing", o.prefix))
		}
		return ""
	default:
		o.wrongType("content", "a string or an array of parts")
		return ""
	}
	return parseParts(o, "content", "text")
}

// parseParts reads a list of text parts, whose type is one of kinds.
func parseParts(o *fields, name string, kinds ...string) string {
	var text strings.Builder
	for i, raw := range o.list(name) {
		part := o.element(name, i, raw)
		if part == nil {
			return ""
		}
		if kind := part.text("type"); !slices.Contains(kinds, kind) {
			part.fail(invalid(part.prefix+"type", "invalid_value", "%stype is %q: this server reads text only", part.prefix, clip(kind)))
		}
		text.WriteString(part.text("text"))
		part.refuseOthers(harmlessOfParts)
		o.adopt(part)
	}
	return text.String()
}
