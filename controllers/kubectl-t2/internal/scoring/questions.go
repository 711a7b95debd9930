// Package scoring reads questions with answers, judges answers, and says what two shares
// of right answers to the same questions tell of each other.
package scoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Message is one of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Question is a conversation that ends with the user's turn, and the right answer to it.
type Question struct {
	// Line is where it stands in its file, from 1.
	Line     int
	Messages []Message
	Answer   string
}

// Formats of a file, one JSON object a line: a subset of those that the runtime reads.
var Formats = []string{contract.FormatPairs, contract.FormatGSM8K, contract.FormatChat}

const (
	maxFile = 64 << 20
	maxText = 1 << 20
)

// record has the fields of all formats.
type record struct {
	Prompt   string    `json:"prompt"`
	Question string    `json:"question"`
	Answer   string    `json:"answer"`
	Messages []Message `json:"messages"`
}

// Read reads the questions of a file, at most so many from its beginning; 0 is all. An
// empty format is told by the first line's fields.
func Read(r io.Reader, format string, most int) ([]Question, string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, "", fmt.Errorf("reading the data set: %w", err)
	}
	if len(b) > maxFile {
		return nil, "", fmt.Errorf("the data set has more than %d bytes", maxFile)
	}
	var questions []Question
	number := 0
	for line := range bytes.Lines(b) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if most > 0 && len(questions) == most {
			break
		}
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			return nil, "", fmt.Errorf("line %d is no JSON object of a data set: %w", number, err)
		}
		if format == "" {
			if format = rec.format(); format == "" {
				return nil, "", fmt.Errorf("line %d has neither prompt, question nor messages: give one JSON object a line, such as {\"prompt\": …, \"answer\": …}", number)
			}
		}
		q, err := rec.question(format)
		if err != nil {
			return nil, "", fmt.Errorf("line %d: %w", number, err)
		}
		q.Line = number
		questions = append(questions, q)
	}
	if len(questions) == 0 {
		return nil, "", errors.New("the data set has no questions")
	}
	return questions, format, nil
}

func (r record) format() string {
	switch {
	case len(r.Messages) > 0:
		return contract.FormatChat
	case r.Question != "":
		return contract.FormatGSM8K
	case r.Prompt != "":
		return contract.FormatPairs
	default:
		return ""
	}
}

func (r record) question(format string) (Question, error) {
	var q Question
	switch format {
	case contract.FormatPairs, contract.FormatGSM8K:
		field, text := "prompt", r.Prompt
		if format == contract.FormatGSM8K {
			field, text = "question", r.Question
		}
		if strings.TrimSpace(text) == "" {
			return q, fmt.Errorf("field %q is missing or empty", field)
		}
		q.Messages, q.Answer = []Message{{"user", text}}, r.Answer
	case contract.FormatChat:
		last := len(r.Messages) - 1
		if last < 1 || r.Messages[last].Role != "assistant" || r.Messages[last-1].Role != "user" {
			return q, errors.New("messages must end with a user's and the assistant's, which is the right answer")
		}
		q.Messages, q.Answer = r.Messages[:last], r.Messages[last].Content
	default:
		return q, fmt.Errorf("format %q is none of %s", format, strings.Join(Formats, ", "))
	}
	if strings.TrimSpace(q.Answer) == "" {
		return q, errors.New("the right answer is missing or empty")
	}
	for _, m := range q.Messages {
		if len(m.Content) > maxText {
			return q, fmt.Errorf("a message has more than %d bytes", maxText)
		}
	}
	return q, nil
}
