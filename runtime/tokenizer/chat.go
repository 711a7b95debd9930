package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/tokenizer/jinja"
)

// Message is one turn of a conversation.
type Message struct {
	// Role is system, user, assistant, tool or what else the template knows.
	Role    string
	Content string
	// Name says who speaks, for templates that care.
	Name string
	// ToolCalls are what an assistant called.
	ToolCalls []ToolCall
	// ToolCallID says of a tool's result which call it answers.
	ToolCallID string
}

// ErrNoChatTemplate is what a tokenizer without a chat template answers.
var ErrNoChatTemplate = errors.New("the model has no chat template (chat_template in tokenizer_config.json): it completes text, but does not chat")

// maxMessages bounds a conversation.
const maxMessages = 10_000

// What a template may do: so much, and so much for each message and byte of the
// conversation. Published templates need a twentieth of it.
const (
	templateWork    = 2_000_000
	workPerMessage  = 2_000
	workPerByte     = 64
	maxTemplateFile = 1 << 20
)

// mark is put into users' text where it spells a special token, so that the
// rendered text does not. It is a noncharacter, which no text may contain.
const mark = "\uFDD0"

var validRole = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,31}$`)

// chatTemplateSource finds the chat template: chat_template.jinja, or the one
// in tokenizer_config.json, "default" if it has several. withTools is the one for
// conversations with tools, "tool_use", where that is another.
func chatTemplateSource(dir string, c tokenizerConfig) (source, withTools string, err error) {
	b, err := artifact.ReadBounded(filepath.Join(dir, "chat_template.jinja"), maxTemplateFile)
	if err == nil {
		return string(b), "", nil
	}
	if !missing(err) {
		return "", "", err
	}
	if absent(c.ChatTemplate) {
		return "", "", nil
	}
	var one string
	if json.Unmarshal(c.ChatTemplate, &one) == nil {
		return one, "", nil
	}
	var many []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(c.ChatTemplate, &many); err != nil {
		return "", "", fmt.Errorf("tokenizer_config.json: chat_template is neither a string nor a list: %w", err)
	}
	for _, t := range many {
		switch t.Name {
		case "default":
			source = t.Template
		case "tool_use":
			withTools = t.Template
		}
	}
	return source, withTools, nil
}

// render runs the template on messages whose text was marked.
func (t *Tokenizer) render(messages []Message, o ChatOptions) (text string, err error) {
	work := templateWork
	turns := make(jinja.List, len(messages))
	for i, m := range messages {
		if turns[i], err = t.turn(m, &work); err != nil {
			return "", fmt.Errorf("message %d: %w", i, err)
		}
	}
	// Hugging Face always passes these, and templates ask whether they are none.
	variables := map[string]any{"messages": turns, "add_generation_prompt": !o.NoGenerationPrompt && !o.ContinueFinal, "tools": nil, "documents": nil}
	if len(o.Tools) > 0 {
		if variables["tools"], err = t.tools(o.Tools, &work); err != nil {
			return "", err
		}
	}
	for name, token := range t.specialNames {
		variables[name] = token
	}
	for name, value := range o.Variables {
		work += workPerByte * len(name)
		if variables[name], err = t.variable(value, &work); err != nil {
			return "", fmt.Errorf("variable %s of the chat template: %w", name, err)
		}
	}
	template := t.chat
	if len(o.Tools) > 0 && t.chatWithTools != nil {
		template = t.chatWithTools
	}
	if text, err = template.Render(variables, work); err != nil {
		return "", fmt.Errorf("rendering chat template: %w", err)
	}
	return text, nil
}

// HasChatTemplate reports whether the model can chat: whether it has a template, and
// one that can be parsed.
func (t *Tokenizer) HasChatTemplate() bool { return t.chat != nil }

// ApplyChatTemplate renders a conversation as text for people to look at. To
// compute on it use EncodeChat: in the text alone a user's "<|end|>" cannot be
// told from the template's.
func (t *Tokenizer) ApplyChatTemplate(messages []Message, addGenerationPrompt bool) (string, error) {
	return t.ApplyChatTemplateWith(messages, ChatOptions{NoGenerationPrompt: !addGenerationPrompt})
}

// ApplyChatTemplateWith is ApplyChatTemplate with options.
func (t *Tokenizer) ApplyChatTemplateWith(messages []Message, o ChatOptions) (string, error) {
	text, err := t.renderMarked(messages, o)
	return strings.ReplaceAll(text, mark, ""), err
}

// EncodeChat returns the tokens of a conversation, up to where the assistant's
// next answer begins. Special tokens of the template are recognised, those that
// messages spell are not: they are encoded as plain text.
func (t *Tokenizer) EncodeChat(messages []Message) ([]int32, error) {
	return t.EncodeChatWith(messages, ChatOptions{})
}

func (t *Tokenizer) renderMarked(messages []Message, o ChatOptions) (string, error) {
	if t.chatError != nil {
		return "", t.chatError
	}
	if t.chat == nil {
		return "", ErrNoChatTemplate
	}
	if len(messages) == 0 || len(messages) > maxMessages {
		return "", fmt.Errorf("a conversation has 1 to %d messages, this one has %d", maxMessages, len(messages))
	}
	marked := make([]Message, len(messages))
	for i, m := range messages {
		if !validRole.MatchString(m.Role) {
			return "", fmt.Errorf("message %d has role %q: a role is a word such as user", i, m.Role)
		}
		marked[i] = m
		marked[i].Content = t.markSpecials(m.Content)
	}
	if !o.ContinueFinal {
		return t.render(marked, o)
	}
	marked[len(marked)-1].Content += openEnd
	text, err := t.render(marked, o)
	if err != nil {
		return "", err
	}
	return cutOpenEnd(text)
}

// markSpecials puts marks into text so that, wherever a template puts it, it
// takes part in no special token: within each one that it spells, and at its
// ends where it could complete one together with the template's text.
func (t *Tokenizer) markSpecials(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), mark, "\uFFFD")
	var cuts []int // byte offsets at which a mark goes in
	for _, special := range t.specialText {
		_, n := utf8.DecodeRuneInString(special)
		for at := 0; ; {
			i := strings.Index(text[at:], special)
			if i < 0 {
				break
			}
			at += i + n
			cuts = append(cuts, at)
		}
		for k := range overlaps(text, special) { // The text's end begins the token.
			cuts = append(cuts, len(text)-k+n)
		}
		if text != "" && strings.Contains(special, text) {
			cuts = append(cuts, 0)
		}
		for range overlaps(special, text) { // The text's beginning ends it.
			cuts = append(cuts, 0)
		}
	}
	if len(cuts) == 0 {
		return text
	}
	return insertMarks(text, cuts)
}

// overlaps yields the lengths of the suffixes of a that are proper prefixes of
// b.
func overlaps(a, b string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for k := min(len(a), len(b)-1); k > 0; k-- {
			if strings.HasPrefix(b, a[len(a)-k:]) && utf8.RuneStart(b[k]) && !yield(k) {
				return
			}
		}
	}
}

func insertMarks(text string, cuts []int) string {
	wanted := make(map[int]bool, len(cuts))
	for _, c := range cuts {
		wanted[c] = true
	}
	var b strings.Builder
	for i := 0; i <= len(text); i++ {
		if wanted[i] {
			b.WriteString(mark)
		}
		if i < len(text) {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}
