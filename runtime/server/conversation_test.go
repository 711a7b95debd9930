package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// talk is a conversation with the model demo.
type talk struct {
	h        *house
	messages []fields
	more     fields
}

// say asks the next turn and hears the answer.
func (c *talk) say(t *testing.T, text string) answer {
	t.Helper()
	c.messages = append(c.messages, fields{"role": "user", "content": text})
	body := chat("demo", "", c.more)
	body["messages"] = c.messages
	got, r := c.h.ask(t, contract.PathChatCompletions, body)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("status %s: %+v", r.Status, got.Error)
	}
	c.messages = append(c.messages, fields{"role": "assistant", "content": got.Choices[0].Message.Content})
	return got
}

// TestKeptExpertsHaveOnePass1 goes on with a conversation whose expert stays. Each turn
// finds what the one before has read.
func TestKeptExpertsHaveOnePass1(t *testing.T) {
	h := open(t, nil)
	set := h.rivals("otherb", "otherc")
	set.Conversation = &contract.Conversation{Mode: contract.ConversationKeep}
	h.swap(t, set)
	c := talk{h: h, more: fields{"max_tokens": 4}}
	first := c.say(t, "What is 2+3?")
	if a := first.Adaptation; a.Turn != 1 || a.Pass1Seconds == 0 || a.Fallback != "" || first.Usage.Details.Cached != 0 {
		t.Fatalf("the first turn: %+v, usage %+v", a, first.Usage)
	}
	read := first.Usage.Prompt
	for turn := 2; turn <= 4; turn++ {
		got := c.say(t, fmt.Sprint("And now ", turn, "?"))
		if a := got.Adaptation; a.Expert != first.Adaptation.Expert || a.Turn != 1 || a.Pass1Seconds != 0 {
			t.Errorf("turn %d: %+v, want the expert of the first", turn, a)
		}
		if cached := got.Usage.Details.Cached; cached < read || cached >= got.Usage.Prompt {
			t.Errorf("turn %d: %d of %d tokens of the prompt were in the cache, and %d had been read", turn, cached, got.Usage.Prompt, read)
		}
		read = got.Usage.Prompt
	}
	metrics, _ := get(t, h.admin.URL+contract.PathMetrics)
	if want := `t2_pass_duration_seconds_count{pass="1",strategy="Prompt"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("no %s in\n%s", want, metrics)
	}
	body := chat("demo", "", nil)
	body["messages"] = c.messages[:3]
	e := h.explain(t, body)
	if want := "the choice of the user's turn 1 of 2 stays: pass 1 finds"; e.Turn != 1 || !strings.HasPrefix(e.Why, want) {
		t.Errorf("explanation %+v, want %q", e, want)
	}
}

// TestSaltsShareNothing asks the same with two salts and without: each finds its own.
func TestSaltsShareNothing(t *testing.T) {
	h := open(t, nil)
	h.swap(t, h.rivals("otherb", "otherc"))
	text := ""
	for _, salt := range []any{nil, "a", "b"} {
		for again := range 2 {
			got, r := h.ask(t, contract.PathChatCompletions, chat("demo", "What is 2+3?", fields{"cache_salt": salt}))
			if r.StatusCode != http.StatusOK {
				t.Fatalf("status %s: %+v", r.Status, got.Error)
			}
			if cached := got.Usage.Details.Cached; (cached > 0) != (again > 0) || (got.Adaptation.Pass1Seconds > 0) != (again == 0) {
				t.Errorf("salt %v, asked %d times before: %d tokens were in the cache, pass 1 took %v s", salt, again, cached, got.Adaptation.Pass1Seconds)
			}
			if now := got.Choices[0].Message.Content; text == "" {
				text = now
			} else if now != text {
				t.Errorf("salt %v changes the answer from %q to %q", salt, text, now)
			}
		}
	}
	for _, salt := range []any{"", strings.Repeat("x", 257)} {
		if got, r := h.ask(t, contract.PathChatCompletions, chat("demo", "x", fields{"cache_salt": salt})); r.StatusCode != http.StatusBadRequest || got.Error.Param != "cache_salt" {
			t.Errorf("a salt of %d bytes: %s, %+v", len(salt.(string)), r.Status, got.Error)
		}
	}
}
