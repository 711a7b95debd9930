package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// ToolCall is a call of a tool that an assistant made.
type ToolCall struct {
	ID, Name string
	// Arguments are a JSON object.
	Arguments json.RawMessage
}

// turn is a message as templates expect it. Its content was marked.
func (t *Tokenizer) turn(m Message, work *int) (*jinja.Dict, error) {
	*work += workPerMessage + workPerByte*len(m.Content)
	turn := []any{"role", m.Role, "content", m.Content}
	if m.Name != "" {
		*work += workPerByte * len(m.Name)
		turn = append(turn, "name", t.markSpecials(m.Name))
	}
	if m.ToolCallID != "" {
		*work += workPerByte * len(m.ToolCallID)
		turn = append(turn, "tool_call_id", t.variableText(m.ToolCallID))
	}
	if len(m.ToolCalls) == 0 {
		return jinja.NewDict(turn...), nil
	}
	calls := make(jinja.List, len(m.ToolCalls))
	for i, c := range m.ToolCalls {
		*work += workPerMessage + workPerByte*(len(c.ID)+len(c.Name))
		arguments, err := t.ordered(c.Arguments, work)
		if err != nil {
			return nil, fmt.Errorf("the arguments of tool call %d: %w", i, err)
		}
		calls[i] = jinja.NewDict("id", t.variableText(c.ID), "type", "function",
			"function", jinja.NewDict("name", t.variableText(c.Name), "arguments", arguments))
	}
	return jinja.NewDict(append(turn, "tool_calls", calls)...), nil
}

// tools are the tools as templates expect them.
func (t *Tokenizer) tools(tools []json.RawMessage, work *int) (jinja.List, error) {
	list := make(jinja.List, len(tools))
	for i, raw := range tools {
		*work += workPerMessage
		var err error
		if list[i], err = t.ordered(raw, work); err != nil {
			return nil, fmt.Errorf("tool %d: %w", i, err)
		}
	}
	return list, nil
}

// maxToolDepth bounds the nesting of a tool's schema and of a call's arguments.
const maxToolDepth = 128

// ordered is a JSON value for a template, its objects in the order in which they are
// written: models have seen tools that way, and the same request always makes the same
// prompt. As in variables, text must not spell special tokens.
func (t *Tokenizer) ordered(raw json.RawMessage, work *int) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // Templates tell 1 from 1.0.
	v, err := t.orderedNext(d, work, maxToolDepth)
	if err != nil {
		return nil, fmt.Errorf("no JSON for the chat template: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("no JSON for the chat template: something follows it")
	}
	return v, nil
}

func (t *Tokenizer) orderedNext(d *json.Decoder, work *int, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	opened, isDelim := token.(json.Delim)
	if !isDelim {
		return t.nested(token, work, 1)
	}
	if depth == 0 {
		return nil, fmt.Errorf("it is nested deeper than %d", maxToolDepth)
	}
	*work += workPerByte
	var list jinja.List
	var pairs []any
	for d.More() {
		if opened == '{' {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			if key, err = t.nested(key, work, 1); err != nil {
				return nil, err
			}
			pairs = append(pairs, key)
		}
		v, err := t.orderedNext(d, work, depth-1)
		if err != nil {
			return nil, err
		}
		pairs, list = append(pairs, v), append(list, v)
	}
	if _, err := d.Token(); err != nil { // The bracket that closes it.
		return nil, err
	}
	if opened == '{' {
		return jinja.NewDict(pairs...), nil
	}
	return list, nil
}
