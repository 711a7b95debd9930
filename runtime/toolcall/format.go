package toolcall

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/tokenizer"
)

// ErrNoTools says that a model's chat template does not show tools.
var ErrNoTools = errors.New("the model's chat template knows no tools")

// ErrUnknownForm says that a model's chat template writes calls as this package does not
// know them.
var ErrUnknownForm = errors.New("the model's chat template writes calls of tools in a form that this server does not know " +
	"(it knows those of Hermes and Qwen, Qwen3-Coder, Mistral, Llama 3, and plain JSON)")

// Format is how a model writes calls. It never changes.
type Format struct {
	family
	// single says that the template takes one call a message.
	single bool
	// history says that the template shows calls and their results.
	history bool
	// special are the markers that are special tokens, and what stands for them in a
	// constraint.
	special map[string]mark
}

// family is a way to write calls.
type family struct {
	name string
	form form
	// begin and end are around a call, or around a list of calls; "" where a call is all of
	// the answer.
	begin, end string
	// markers are texts that calls begin with: begin, and what a model writes without it.
	markers []string
	// inner are the marks within a call.
	inner []string
	// arguments is the member that has them, where a call is a JSON object.
	arguments string
	// list says that the calls of an answer are one array.
	list bool
	// idLength is the length of ids where the template demands one; else 0.
	idLength int
}

// form is what a call looks like.
type form int

const (
	formJSON     form = iota // An object that has the name and the arguments.
	formNamed                // A name, and an object that is the arguments.
	formElements             // An element that has one for each argument.
)

var (
	hermes  = family{name: "hermes", begin: "<tool_call>", end: "</tool_call>", markers: []string{"<tool_call>"}, arguments: "arguments"}
	mistral = family{name: "mistral", begin: "[TOOL_CALLS]", markers: []string{"[TOOL_CALLS]"}, arguments: "arguments", list: true, idLength: 9}
	llama   = family{name: "llama", arguments: "parameters"}
	plain   = family{name: "json", arguments: "arguments"}

	mistralNamed = family{
		name: "mistral-named", form: formNamed, begin: "[TOOL_CALLS]", markers: []string{"[TOOL_CALLS]"}, inner: []string{markArguments}, idLength: 9,
	}
	mistralWithIDs = family{
		name: "mistral-ids", form: formNamed, begin: "[TOOL_CALLS]", markers: []string{"[TOOL_CALLS]"}, inner: []string{markID, markArguments}, idLength: 9,
	}
	coder = family{
		name: "qwen-coder", form: formElements, begin: "<tool_call>", end: "</tool_call>", markers: []string{"<tool_call>", beginFunction},
	}
)

// Name is the name of the family in this package's documentation.
func (f *Format) Name() string { return f.name }

// mark is a marker of calls that is a special token.
type mark struct {
	token int32
	// bytes stand for it in a constraint. No text has them.
	bytes string
}

// firstMark is the first of the bytes that no UTF-8 has and that marks are made of.
const firstMark = 0xf8

// Shown are the special tokens that have to be part of the text that a Parser is given.
func (f *Format) Shown() map[int32]bool {
	shown := map[int32]bool{}
	for _, m := range f.special {
		shown[m.token] = true
	}
	return shown
}

// Spelling says how a constraint's vocabulary spells tokens, for answers that may have calls
// of this format; f is nil where there can be none. Special tokens are part of no answer, but
// for those that mark calls.
func (f *Format) Spelling(tok *tokenizer.Tokenizer) func(token int32) []byte {
	marks := map[int32]string{}
	if f != nil {
		for _, m := range f.special {
			marks[m.token] = m.bytes
		}
	}
	return func(token int32) []byte {
		if bytes, ok := marks[token]; ok {
			return []byte(bytes)
		}
		if tok.IsSpecial(token) {
			return nil
		}
		text := tok.TokenBytes(token)
		if slices.ContainsFunc(text, func(b byte) bool { return b >= firstMark }) {
			return nil // It could pass for a mark.
		}
		return text
	}
}

// Names of the tool that Detect renders, and of its argument.
const (
	probeTool     = "t2_probe_tool"
	probeArgument = "t2_probe_argument"
	probeID       = "t2Probe01" // As Mistral's templates want them.
	probeResult   = "t2_probe_result"
)

var probeCalls = regexp.MustCompile(`\{\s*"name":\s*"` + probeTool + `",\s*"(arguments|parameters)":\s*\{\s*"` + probeArgument + `"`)

var probeNamed = regexp.MustCompile(regexp.QuoteMeta(mistralNamed.begin) + probeTool + `(` + regexp.QuoteMeta(markID) + `[^\[]*)?` +
	regexp.QuoteMeta(markArguments) + `\s*\{\s*"` + probeArgument + `"`)

// Detect finds how a model writes calls, from its chat template and vocabulary. An error is
// ErrNoTools or ErrUnknownForm, with the template's own words where it has some.
func Detect(tok *tokenizer.Tokenizer) (*Format, error) {
	tools := Offer{Functions: []Function{{
		Name: probeTool, Description: "Probes.",
		Parameters: json.RawMessage(`{"type": "object", "properties": {"` + probeArgument + `": {"type": "string"}}}`),
	}}}.Tools()
	call := tokenizer.ToolCall{ID: probeID, Name: probeTool, Arguments: json.RawMessage(`{"` + probeArgument + `": "x"}`)}
	result := tokenizer.Message{Role: "tool", Content: probeResult, ToolCallID: probeID}
	question := tokenizer.Message{Role: "user", Content: "x"}
	conversation := func(calls ...tokenizer.ToolCall) []tokenizer.Message {
		m := []tokenizer.Message{question, {Role: "assistant", ToolCalls: calls}}
		for range calls {
			m = append(m, result)
		}
		return m
	}
	shown, err := tok.ApplyChatTemplateWith([]tokenizer.Message{question}, tokenizer.ChatOptions{Tools: tools})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	if !strings.Contains(shown, probeTool) {
		return nil, ErrNoTools
	}
	f := &Format{special: map[string]mark{}}
	called, err := tok.ApplyChatTemplateWith(conversation(call), tokenizer.ChatOptions{Tools: tools})
	f.history = err == nil && strings.Count(called, probeArgument) > strings.Count(shown, probeArgument) && strings.Contains(called, probeResult)
	if f.family, err = familyOf(shown, called); err != nil {
		return nil, err
	}
	if f.history {
		_, err := tok.ApplyChatTemplateWith(conversation(call, call), tokenizer.ChatOptions{Tools: tools})
		f.single = err != nil
	}
	for i, marker := range append([]string{f.begin, f.end}, f.inner...) {
		if id, ok := tok.TokenID(marker); marker != "" && ok && tok.IsSpecial(id) {
			f.special[marker] = mark{token: id, bytes: string([]byte{firstMark + byte(i)})}
		}
	}
	return f, nil
}

// familyOf finds the family by what a template makes of tools, and of a call; the latter is
// empty if it makes nothing of one.
func familyOf(shown, called string) (family, error) {
	if strings.Contains(called, beginFunction+probeTool+endName) && strings.Contains(called, beginParameter+probeArgument+endName) {
		return coder, nil
	}
	if written := probeNamed.FindStringSubmatch(called); written != nil {
		if written[1] != "" {
			return mistralWithIDs, nil
		}
		return mistralNamed, nil
	}
	written := probeCalls.FindStringSubmatchIndex(called)
	if written == nil {
		switch {
		case strings.Count(called, probeTool) > strings.Count(shown, probeTool):
			return family{}, ErrUnknownForm
		case !strings.Contains(shown, hermes.begin):
			return plain, nil
		case strings.Contains(shown, beginFunction):
			return coder, nil
		}
		return hermes, nil // It shows no calls, but says how to write one.
	}
	before := strings.TrimRight(called[:written[0]], " \n[")
	switch {
	case strings.HasSuffix(before, hermes.begin):
		return hermes, nil
	case strings.HasSuffix(before, mistral.begin):
		return mistral, nil
	case called[written[2]:written[3]] == llama.arguments:
		return llama, nil
	}
	return plain, nil
}

// ShowsCalls reports whether the template shows calls and their results: whether a
// conversation can go on after a call.
func (f *Format) ShowsCalls() bool { return f.history }

// newID returns an id for a call.
func (f *Format) newID() string {
	if f.idLength > 0 {
		return randomID(f.idLength)
	}
	return "call_" + randomID(24)
}

// Prepare returns a conversation as the template takes it: ids of other servers become ids
// that it accepts, and of calls that were made at once each is followed by its result where
// it takes one call a message.
func (f *Format) Prepare(messages []tokenizer.Message) []tokenizer.Message {
	prepared := make([]tokenizer.Message, 0, len(messages))
	for i := 0; i < len(messages); i++ {
		m := f.withIDs(messages[i])
		if !f.single || len(m.ToolCalls) < 2 {
			prepared = append(prepared, m)
			continue
		}
		results := i + 1
		for results < len(messages) && messages[results].Role == "tool" {
			results++
		}
		prepared = append(prepared, f.apart(m, messages[i+1:results])...)
		i = results - 1
	}
	return prepared
}

// apart makes a message of each call, followed by its result. Results of none of them come
// last.
func (f *Format) apart(m tokenizer.Message, results []tokenizer.Message) []tokenizer.Message {
	var list []tokenizer.Message
	left := make([]tokenizer.Message, len(results))
	for i, r := range results {
		left[i] = f.withIDs(r)
	}
	for i, call := range m.ToolCalls {
		one := tokenizer.Message{Role: m.Role, Name: m.Name, ToolCalls: []tokenizer.ToolCall{call}}
		if i == 0 {
			one.Content = m.Content
		}
		list = append(list, one)
		for j, r := range left {
			if r.ToolCallID == call.ID {
				list, left = append(list, r), slices.Delete(left, j, j+1)
				break
			}
		}
	}
	return append(list, left...)
}

func (f *Format) withIDs(m tokenizer.Message) tokenizer.Message {
	if f.idLength == 0 {
		return m
	}
	calls := make([]tokenizer.ToolCall, len(m.ToolCalls))
	for i, c := range m.ToolCalls {
		c.ID = f.id(c.ID)
		calls[i] = c
	}
	m.ToolCalls = calls
	if m.ToolCallID != "" {
		m.ToolCallID = f.id(m.ToolCallID)
	}
	return m
}

var lettersAndDigits = regexp.MustCompile(`^[A-Za-z0-9]+$`)

// takes reports whether an id is one that the template demands.
func (f *Format) takes(id string) bool {
	return f.idLength > 0 && len(id) == f.idLength && lettersAndDigits.MatchString(id)
}

// id is an id that the template accepts; equal ones stay equal.
func (f *Format) id(id string) string {
	if f.takes(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	short := make([]byte, f.idLength)
	for i := range short {
		short[i] = letters[int(sum[i])%len(letters)]
	}
	return string(short)
}
