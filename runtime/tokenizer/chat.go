package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nikolalohinski/gonja/v2/builtins"
	gonjaconfig "github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"

	"github.com/transformersquared/operator/runtime/artifact"
)

// Message is one turn of a conversation.
type Message struct {
	// Role is system, user, assistant or what else the template knows.
	Role    string
	Content string
}

// ErrNoChatTemplate is what a tokenizer without a chat template answers.
var ErrNoChatTemplate = errors.New("the model has no chat template (chat_template in tokenizer_config.json): it completes text, but does not chat")

// Bounds of chat templates: they come with a model and are programs.
const (
	maxTemplate    = 1 << 20
	maxMessages    = 10_000
	maxLoopRange   = 10_000
	growthPerRune  = 64      // output per byte of input …
	growthConstant = 1 << 20 // … and beyond
)

// mark is put into users' text where it spells a special token, so that the
// rendered text does not. It is a noncharacter, which no text may contain.
const mark = "\uFDD0"

var validRole = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,31}$`)

// chatTemplateSource finds the chat template: chat_template.jinja, or the one
// in tokenizer_config.json, "default" if it has several.
func chatTemplateSource(dir string, c tokenizerConfig) (string, error) {
	b, err := artifact.ReadBounded(filepath.Join(dir, "chat_template.jinja"), maxTemplate)
	if err == nil {
		return string(b), nil
	}
	if !missing(err) {
		return "", err
	}
	if absent(c.ChatTemplate) {
		return "", nil
	}
	var one string
	if json.Unmarshal(c.ChatTemplate, &one) == nil {
		return one, nil
	}
	var many []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(c.ChatTemplate, &many); err != nil {
		return "", fmt.Errorf("tokenizer_config.json: chat_template is neither a string nor a list: %w", err)
	}
	for _, t := range many {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", nil
}

// chatTemplate is a compiled chat template. It runs without files, without
// includes, and with bounded output and loops.
type chatTemplate struct{ template *exec.Template }

func newChatTemplate(source string) (*chatTemplate, error) {
	if len(source) > maxTemplate {
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", len(source), maxTemplate)
	}
	const name = "/chat_template"
	loader, err := loaders.NewMemoryLoader(map[string]string{name: source})
	if err != nil {
		return nil, err
	}
	// As Hugging Face renders them.
	config := gonjaconfig.New()
	config.TrimBlocks, config.LeftStripBlocks = true, true
	globals := exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables).
		Update(exec.NewContext(map[string]any{
			"raise_exception": raiseException, "strftime_now": strftimeNow, "range": boundedRange,
		}))
	t, err := exec.NewTemplate(name, config, loader, &exec.Environment{
		Context: globals, Filters: builtins.Filters, Tests: builtins.Tests,
		ControlStructures: builtins.ControlStructures, Methods: builtins.Methods,
	})
	if err != nil {
		return nil, err
	}
	return &chatTemplate{t}, nil
}

// raiseException is how templates refuse a conversation.
func raiseException(message string) (string, error) {
	return "", fmt.Errorf("the chat template refuses the conversation: %s", message)
}

// strftimeNow formats the present date as templates that state it ask for.
func strftimeNow(format string) string {
	layout := strings.NewReplacer("%d", "02", "%b", "Jan", "%B", "January", "%m", "01", "%Y", "2006", "%y", "06",
		"%H", "15", "%M", "04", "%S", "05", "%A", "Monday", "%a", "Mon").Replace(format)
	return time.Now().UTC().Format(layout)
}

// boundedRange is Jinja's range as a list of bounded length.
func boundedRange(_ *exec.Evaluator, args *exec.VarArgs) ([]int, error) {
	var n []int
	for _, a := range args.Args {
		if !a.IsInteger() {
			return nil, errors.New("range takes integers")
		}
		n = append(n, a.Integer())
	}
	start, stop, step := 0, 0, 1
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, errors.New("range takes one to three integers")
	}
	if step == 0 {
		return nil, errors.New("range with step 0")
	}
	var list []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(list) == maxLoopRange {
			return nil, fmt.Errorf("range of more than %d numbers", maxLoopRange)
		}
		list = append(list, i)
	}
	return list, nil
}

// boundedText collects output up to a limit.
type boundedText struct {
	// Not embedded: its WriteString would be called past the limit.
	text  strings.Builder
	limit int
}

// Write fails when the limit is passed, which ends the template.
func (b *boundedText) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("the chat template writes more than %d bytes", b.limit)
	}
	return b.text.Write(p)
}

// render runs the template on messages whose text was marked.
func (c *chatTemplate) render(t *Tokenizer, messages []Message, addGenerationPrompt bool) (text string, err error) {
	// The engine is reflective; a template that confuses it must not end the
	// process.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("rendering chat template: %v", r)
		}
	}()
	size := 0
	list := make([]any, len(messages))
	for i, m := range messages {
		size += len(m.Content)
		list[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	data := map[string]any{"messages": list, "add_generation_prompt": addGenerationPrompt}
	for name, token := range t.specialNames {
		data[name] = token
	}
	out := &boundedText{limit: growthPerRune*size + growthConstant}
	if err := c.template.Execute(out, exec.NewContext(data)); err != nil {
		return "", fmt.Errorf("rendering chat template: %w", err)
	}
	return out.text.String(), nil
}

// HasChatTemplate reports whether the model can chat.
func (t *Tokenizer) HasChatTemplate() bool { return t.chat != nil }

// ApplyChatTemplate renders a conversation as text for people to look at. To
// compute on it use EncodeChat: in the text alone a user's "<|end|>" cannot be
// told from the template's.
func (t *Tokenizer) ApplyChatTemplate(messages []Message, addGenerationPrompt bool) (string, error) {
	text, err := t.renderMarked(messages, addGenerationPrompt)
	return strings.ReplaceAll(text, mark, ""), err
}

// EncodeChat returns the tokens of a conversation, up to where the assistant's
// next answer begins. Special tokens of the template are recognised, those that
// messages spell are not: they are encoded as plain text.
func (t *Tokenizer) EncodeChat(messages []Message) ([]int32, error) {
	text, err := t.renderMarked(messages, true)
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

func (t *Tokenizer) renderMarked(messages []Message, addGenerationPrompt bool) (string, error) {
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
		marked[i] = Message{Role: m.Role, Content: t.markSpecials(m.Content)}
	}
	return t.chat.render(t, marked, addGenerationPrompt)
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
