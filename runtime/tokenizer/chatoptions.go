package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// ChatOptions say how a conversation is rendered.
type ChatOptions struct {
	// NoGenerationPrompt leaves out what begins the assistant's answer.
	NoGenerationPrompt bool
	// ContinueFinal leaves the last message open, so that the answer goes on with
	// it. There is no generation prompt then.
	ContinueFinal bool
	// Variables are more variables for the template, such as Qwen 3's
	// enable_thinking: values as encoding/json decodes them. Of those that every
	// conversation has (see CheckVariables) none may be among them.
	Variables map[string]any
	// Tools are what the assistant may call, as templates expect them: JSON objects such as
	// {"type": "function", "function": {"name": …, "description": …, "parameters": …}}.
	Tools []json.RawMessage
}

// EncodeChatWith is EncodeChat with options.
func (t *Tokenizer) EncodeChatWith(messages []Message, o ChatOptions) ([]int32, error) {
	if err := t.CheckVariables(o.Variables); err != nil {
		return nil, err
	}
	text, err := t.renderMarked(messages, o)
	if err != nil {
		return nil, err
	}
	fragments := t.rendered.split(text, true)
	for i, f := range fragments {
		fragments[i].text = strings.ReplaceAll(f.text, mark, "")
	}
	ids, err := t.appendFragments(nil, fragments, false)
	if err != nil {
		return nil, fmt.Errorf("encoding conversation: %w", err)
	}
	return ids, nil
}

// ReservedVariables are the variables of a chat template that options or
// messages set; those of special tokens, such as bos_token, are reserved too.
var ReservedVariables = []string{"messages", "add_generation_prompt", "continue_final_message", "tools", "documents", "chat_template"}

// maxVariables bounds ChatOptions.Variables.
const maxVariables = 64

var validVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// CheckVariables refuses names that a template's variables cannot have.
func (t *Tokenizer) CheckVariables(variables map[string]any) error {
	if len(variables) > maxVariables {
		return fmt.Errorf("%d variables for the chat template, at most %d are allowed", len(variables), maxVariables)
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		_, special := t.specialNames[name]
		switch {
		case !validVariable.MatchString(name):
			return fmt.Errorf("%.40q cannot be a variable of the chat template: a name has letters, digits and underscores", name)
		case special || slices.Contains(ReservedVariables, name):
			return fmt.Errorf("the variable %s of the chat template is not for requests to set", name)
		}
	}
	return nil
}

// maxVariableDepth bounds the nesting of a variable.
const maxVariableDepth = 16

// variable is a value for a template. Text in it is users' text, which must not
// spell special tokens; see markSpecials. work grows with it.
func (t *Tokenizer) variable(v any, work *int) (any, error) {
	return t.nested(v, work, maxVariableDepth)
}

func (t *Tokenizer) nested(v any, work *int, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("it is nested deeper than %d", maxVariableDepth)
	}
	*work += workPerByte
	switch v := v.(type) {
	case nil, bool:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n), nil
		}
		return v.Float64()
	case float64:
		if n := int(v); float64(n) == v {
			return n, nil
		}
		return v, nil
	case string:
		*work += workPerByte * len(v)
		return t.variableText(v), nil
	case []any:
		list := make(jinja.List, len(v))
		for i, x := range v {
			var err error
			if list[i], err = t.nested(x, work, depth-1); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		var pairs []any
		for _, key := range slices.Sorted(maps.Keys(v)) {
			value, err := t.nested(v[key], work, depth-1)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, t.variableText(key), value)
		}
		return jinja.NewDict(pairs...), nil
	default:
		return nil, fmt.Errorf("a %T is no value for a template", v)
	}
}

// word is text that templates compare, such as "high": marks would make it
// another, and within "<think>" the word alone is no token.
var word = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)

func (t *Tokenizer) variableText(s string) string {
	if word.MatchString(s) && !slices.ContainsFunc(t.specialText, func(special string) bool { return strings.Contains(s, special) }) {
		return s
	}
	return t.markSpecials(s)
}

// openEnd is put behind a message that is to be continued, to find its end in
// the rendered text: a noncharacter, and a blank that tells whether the template
// strips what it is given.
const openEnd = "\uFDD1 "

// cutOpenEnd returns the text up to openEnd.
func cutOpenEnd(text string) (string, error) {
	i := strings.LastIndex(text, strings.TrimSpace(openEnd))
	if i < 0 {
		return "", errors.New("the chat template does not show the last message: it cannot be continued")
	}
	if !strings.HasPrefix(text[i:], openEnd) {
		return strings.TrimRightFunc(text[:i], unicode.IsSpace), nil
	}
	return text[:i], nil
}
