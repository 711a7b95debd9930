package server

import (
	"strconv"

	"github.com/transformersquared/operator/runtime/tokenizer"
)

// Types of the items of a conversation in contract.PathResponses, of parts of a message, and
// of tools.
const (
	itemMessage   = "message"
	itemCall      = "function_call"
	itemOutput    = "function_call_output"
	itemCustom    = "custom_tool_call"
	itemReference = "item_reference"
	partInput     = "input_text"
	partOutput    = "output_text"
	toolFunction  = "function"
	toolCustom    = "custom"
	// itemCustomOutput is a result of itemCustom.
	itemCustomOutput = "custom_tool_call_output"
)

const (
	roleSystem    = "system"
	roleAssistant = "assistant"
	fieldCallID   = "call_id"
)

// parseInput reads input: a text, or the items of a conversation.
func parseInput(f *fields, q *query) {
	f.has("input")
	switch kindOf(f.raw["input"]) {
	case "a string":
		q.say("input", tokenizer.Message{Role: "user", Content: f.text("input")})
		return
	case "an array":
	case "nothing", "null":
		f.fail(invalid("input", "missing_required_parameter", "input is missing: give a text, or the items of a conversation"))
		return
	default:
		f.wrongType("input", "a string or an array of items")
		return
	}
	list := f.list("input")
	if len(list) == 0 {
		f.fail(invalid("input", "missing_required_parameter", "input is empty: a conversation needs at least one item"))
	}
	var called callsSoFar
	for i, raw := range list {
		o := f.element("input", i, raw)
		if o == nil {
			return
		}
		parseItem(o, q, "input["+strconv.Itoa(i)+"]", &called)
		f.adopt(o)
		if f.err != nil {
			return
		}
	}
}

// say adds a message of the conversation.
func (q *query) say(place string, m tokenizer.Message) {
	q.messages, q.places = append(q.messages, m), append(q.places, place)
}

// parseItem reads one item. Calls belong to the message of the assistant before them, as
// templates have it.
func parseItem(o *fields, q *query, place string, called *callsSoFar) {
	kind := o.text("type")
	if kind == "" && o.has("role") {
		kind = itemMessage
	}
	switch kind {
	case itemMessage:
		q.say(place, parseItemMessage(o))
	case itemCall, itemCustom:
		call := tokenizer.ToolCall{ID: parseCallID(o, fieldCallID)}
		call.Name, call.Arguments = parseCalled(o, map[string]string{itemCall: toolFunction, itemCustom: toolCustom}[kind])
		called.add(call)
		if n := len(q.messages); n == 0 || q.messages[n-1].Role != roleAssistant {
			q.say(place, tokenizer.Message{Role: roleAssistant})
		}
		last := &q.messages[len(q.messages)-1]
		if last.ToolCalls = append(last.ToolCalls, call); len(last.ToolCalls) > maxToolCalls {
			o.fail(invalid("input", "invalid_value", "%s is the call %d of one answer, at most %d are allowed", place, len(last.ToolCalls), maxToolCalls))
		}
	case itemOutput, itemCustomOutput:
		m := tokenizer.Message{Role: roleTool}
		m.ToolCallID = called.answered(o, fieldCallID, &m.Name)
		if m.Content = parseItemText(o, "output", partInput, partOutput); !o.has("output") {
			o.fail(invalid(o.prefix+"output", "missing_required_parameter", "%soutput is missing", o.prefix))
		}
		q.say(place, m)
	case itemReference:
		o.fail(invalid(o.prefix+"type", "unsupported_value",
			"%stype is %q: this server keeps no items; send the item itself, which clients do when they are told that store is false", o.prefix, kind))
	default:
		o.fail(invalid(o.prefix+"type", "unsupported_value", "%stype is %q: this server reads %s, %s, %s, %s and %s",
			o.prefix, clip(kind), itemMessage, itemCall, itemOutput, itemCustom, itemCustomOutput))
	}
	o.refuseOthers(harmlessOfItems)
}

// parseItemMessage reads a message: what was said, or what the assistant has answered.
func parseItemMessage(o *fields) tokenizer.Message {
	m := tokenizer.Message{Role: o.text("role")}
	switch m.Role {
	case "developer":
		m.Role = roleSystem
	case roleSystem, "user", roleAssistant:
	default:
		o.fail(invalid(o.prefix+"role", "invalid_value", "%srole is %q: it must be system, developer, user or assistant", o.prefix, clip(m.Role)))
	}
	m.Content = parseItemText(o, "content", partInput, partOutput)
	if !o.has("content") {
		o.fail(invalid(o.prefix+"content", "missing_required_parameter", "%scontent is missing", o.prefix))
	}
	return m
}

// parseItemText reads a text, or a list of text parts.
func parseItemText(o *fields, name string, kinds ...string) string {
	if o.has(name) && kindOf(o.raw[name]) == "a string" {
		return o.text(name)
	}
	return parseParts(o, name, kinds...)
}
