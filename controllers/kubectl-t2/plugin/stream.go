package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// maxEvent bounds an event of a stream.
const maxEvent = 1 << 20

// chunk is what a streamed completion sends.
type chunk struct {
	Choices []struct {
		Delta        message `json:"delta"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
	Adaptation *contract.Adaptation      `json:"t2"`
	Error      *struct{ Message string } `json:"error"`
}

// completion is an answer, as far as it came.
type completion struct {
	text       string
	finish     string
	adaptation *contract.Adaptation
}

var errCutOff = errors.New("the stream ended before the answer did")

// stream asks for a chat completion and tells its text as it comes.
func (e *endpoint) stream(ctx context.Context, request map[string]any, tell func(string)) (completion, error) {
	var c completion
	request["stream"] = true
	body, err := json.Marshal(request)
	if err != nil {
		return c, fmt.Errorf("encoding the request: %w", err)
	}
	resp, err := e.send(ctx, http.MethodPost, contract.PathChatCompletions, body)
	if err != nil {
		return c, err
	}
	defer func() { _ = resp.Body.Close() }()
	var text strings.Builder
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 16<<10), maxEvent)
	for lines.Scan() {
		data, isData := strings.CutPrefix(lines.Text(), "data:")
		if !isData {
			continue
		}
		data = strings.TrimSpace(data)
		if data == "[DONE]" {
			c.text = text.String()
			return c, nil
		}
		var part chunk
		if err := json.Unmarshal([]byte(data), &part); err != nil {
			return c, fmt.Errorf("%s does not stream as t2 does: %w", e.name, err)
		}
		if part.Error != nil {
			return c, fmt.Errorf("%s broke off: %s", e.name, part.Error.Message)
		}
		if part.Adaptation != nil {
			c.adaptation = part.Adaptation
		}
		for _, choice := range part.Choices {
			if choice.Delta.Content != "" {
				text.WriteString(choice.Delta.Content)
				c.text = text.String()
				tell(choice.Delta.Content)
			}
			if choice.FinishReason != "" {
				c.finish = choice.FinishReason
			}
		}
	}
	err = lines.Err()
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCutOff
	}
	return c, fmt.Errorf("reading the answer of %s: %w", e.name, err)
}
