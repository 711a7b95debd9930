// Package toolcall lets a model call tools: it knows how the model's chat template shows
// tools, how the model writes calls, and how to tell calls from text.
//
//	format, err := toolcall.Detect(tok)              // Once a model.
//	prompt, err := tok.EncodeChatWith(format.Prepare(messages), tokenizer.ChatOptions{Tools: offer.Tools()})
//	layout := format.Layout(offer, nil)              // nil: the model is free to write what it likes.
//	parser := format.NewParser(offer, false)         // One for each answer.
//	pieces := parser.Push(text)                      // Text, and pieces of calls.
//	pieces = parser.Flush(false)
//
// # How models write calls
//
//	hermes         <tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>, as often as there are calls (Qwen 2.5, Qwen 3, Hermes)
//	qwen-coder     <tool_call>\n<function=f>\n<parameter=a>\n…\n</parameter>\n</function>\n</tool_call>, likewise (Qwen3-Coder, Qwen 3.5)
//	mistral        [TOOL_CALLS] [{"name": "f", "arguments": {…}}, …] (Mistral v2 to v7); ids have nine letters and digits
//	mistral-ids    [TOOL_CALLS]f[CALL_ID]…[ARGS]{…}, as often as there are calls (Mistral v11)
//	mistral-named  [TOOL_CALLS]f[ARGS]{…}, likewise (Mistral v13 and later)
//	llama          {"name": "f", "parameters": {…}} as all of the answer (Llama 3.1 to 3.3)
//	json           {"name": "f", "arguments": {…}} as all of the answer: templates that show tools and leave the rest to the model
//
// Which it is, is found by rendering a conversation that has a call in it with the model's
// own template, so that what the model is asked to write is what it has learnt.
//
// # What a call is
//
// A call is well formed if it is JSON (or elements), names a function that is offered, and has
// an object for arguments. All else stays text, as it is written. So an answer that nothing
// constrains is held back from where a call may begin until it is one, or is none. Where the
// answer is constrained (Layout), what begins as a call is one, and its arguments are handed
// on as they are written. A call that the answer's length cuts off is one, too, with
// arguments that end too early.
//
// # Arguments as text
//
// Qwen3-Coder writes an argument's value between lines, a string as it is and all else as
// JSON, or as Python spells it, which its template shows (True, None, ['a']). Which it is,
// its schema says: type, enum, const, those of anyOf, oneOf and allOf, and what $ref names. As
// in the parser that Qwen publishes, an argument is a string if its schema says nothing, or
// the schema does not list it; a value that is none of its kinds becomes a string, which the
// function may refuse; the last of several values counts. Three things are ambiguous:
//
//   - A value that may be a string or something else (["string", "null"]) is the latter if
//     the text is that in full: null is no string then, and 5 no text of digits. Layout does
//     not let a model write strings that would be misread.
//   - A value ends at the first </parameter> that another parameter or </function> follows, so
//     that a string with exactly these cannot be written; a Layout allows no </parameter> at
//     all in strings, and no names with <, > or line breaks.
//   - One line break at either end is the template's, all others belong to a string.
package toolcall

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/transformersquared/operator/runtime/constrain"
)

// Function is a tool that a model may call.
type Function struct {
	Name, Description string
	// Parameters is the JSON Schema of the arguments, an object; nil for a function without
	// parameters.
	Parameters json.RawMessage
	// Strict says that the arguments have to satisfy Parameters, and Lenient that they need not
	// where Parameters is a schema that cannot be followed.
	Strict, Lenient bool
	// Place is where the schema is in a request, for errors.
	Place string
	// text says that it is a TextFunction.
	text bool
}

// Offer is what a request lets a model call.
type Offer struct {
	Functions []Function
	// Required says that the model must call one.
	Required bool
	// Only is the one function that it must call; empty for any.
	Only string
	// Allowed are the names of those that it may call, of all that it is shown; nil for all.
	Allowed []string
	// Single allows no more than one call in an answer.
	Single bool
}

// noParameters is the schema of a function without parameters.
const noParameters = `{"type": "object", "properties": {}}`

// Tools are the functions as chat templates expect them.
func (o Offer) Tools() []json.RawMessage {
	tools := make([]json.RawMessage, len(o.Functions))
	for i, f := range o.Functions {
		// By hand, since templates show the fields in their order, and the schema as it came.
		description := ""
		if f.Description != "" {
			description = `"description": ` + quote(f.Description) + `, `
		}
		parameters := f.Parameters
		if parameters == nil {
			parameters = json.RawMessage(noParameters)
		}
		tools[i] = fmt.Appendf(nil, `{"type": "function", "function": {"name": %s, %s"parameters": %s}}`, quote(f.Name), description, parameters)
	}
	return tools
}

func quote(text string) string { return constrain.Quote(text) }

// offers reports whether a function may be called.
func (o Offer) offers(name string) bool {
	for _, f := range o.Functions {
		if f.Name == name {
			return (o.Only == "" || o.Only == name) && (o.Allowed == nil || slices.Contains(o.Allowed, name))
		}
	}
	return false
}

// demands reports whether the model must call something.
func (o Offer) demands() bool { return o.Required || o.Only != "" }

// constrained reports whether the model may not write what it likes: a call is demanded, or
// calls have to be as they were ordered.
func (o Offer) constrained() bool {
	if o.demands() || o.Single || o.Allowed != nil {
		return len(o.Functions) > 0
	}
	for _, f := range o.Functions {
		if f.Strict {
			return true
		}
	}
	return false
}

// arguments is the value that a function's arguments are.
func (f Function) arguments() constrain.Value {
	v := constrain.Value{Name: f.Place, Schema: f.Parameters, Object: true, Loose: !f.Strict || f.Lenient}
	if f.Parameters == nil {
		v.Schema = []byte(`{"type": "object", "additionalProperties": false}`)
	}
	return v
}

// Piece is a piece of an answer: text, or a piece of a call.
type Piece struct {
	Text string
	Call *Call
}

// Call is a piece of a call. The first one of a call has its ID and Name; the Arguments of
// all of them together are the call's, a JSON object unless the answer is cut short.
type Call struct {
	// Index counts the calls of an answer.
	Index     int
	ID, Name  string
	Arguments string
	// Text says that it is a call of a TextFunction: Arguments are its text.
	Text bool
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// randomID returns so many random letters and digits.
func randomID(length int) string {
	b := make([]byte, length)
	_, _ = rand.Read(b) // Never fails.
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}
