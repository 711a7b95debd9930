package server

import (
	"context"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// Ask answers a request as the API would, with the body of a chat or of a completion, by all
// passes that its model name means. It returns the text of the first choice, once that is
// complete, and how it was adapted. Who evaluates a set asks so what clients would get.
func (s *Server) Ask(ctx context.Context, body []byte) (string, contract.Adaptation, error) {
	q, err := parseEither(body)
	if err != nil {
		return "", contract.Adaptation{}, err
	}
	var text strings.Builder
	out, err := s.answer(ctx, q, func(choice int, p piece) error {
		if choice == 0 {
			text.WriteString(p.text)
		}
		return nil
	})
	return text.String(), out.adaptation, err
}

// Chats reports whether the model has a chat template.
func (s *Server) Chats() (bool, error) {
	c := s.core.Load()
	if c == nil {
		return false, errNotLoaded
	}
	return c.tok.HasChatTemplate(), nil
}

// Room returns how many tokens the answer to a request could have: less than 1 where its
// prompt leaves none. The body is as for Ask.
func (s *Server) Room(body []byte) (int, error) {
	c := s.core.Load()
	if c == nil {
		return 0, errNotLoaded
	}
	q, err := parseEither(body)
	if err != nil {
		return 0, err
	}
	if err := c.calls.prepare(&q); err != nil {
		return 0, err
	}
	prompt, err := encodePrompt(c, q)
	if err != nil {
		return 0, err
	}
	return c.engine.LongestAnswer(len(prompt)), nil
}
