package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
)

// template is what surrounds the tokens of a text when special tokens are
// added.
type template struct{ before, after []int32 }

// parsePostProcessor reads a TemplateProcessing; ok is false if there is none.
func parsePostProcessor(raw json.RawMessage) (t template, ok bool, err error) {
	components, err := flatten(raw, func(c component) []json.RawMessage { return c.Processors })
	if err != nil {
		return t, false, err
	}
	for _, c := range components {
		switch c.Type {
		case "ByteLevel": // It changes offsets only.
		case "TemplateProcessing":
			if ok {
				return t, false, errors.New("several TemplateProcessing post-processors are not supported")
			}
			ok = true
			if t, err = parseTemplate(c); err != nil {
				return t, false, err
			}
		default:
			return t, false, fmt.Errorf("post-processor %q is not supported", c.Type)
		}
	}
	return t, ok, nil
}

func parseTemplate(c component) (template, error) {
	var t template
	seen := false
	for _, p := range c.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A" && !seen:
			seen = true
		case p.SpecialToken != nil:
			special, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return t, fmt.Errorf("template uses special token %q without defining it", p.SpecialToken.ID)
			}
			if seen {
				t.after = append(t.after, special.IDs...)
			} else {
				t.before = append(t.before, special.IDs...)
			}
		default:
			return t, errors.New("template has a piece that is neither a special token nor the one sequence A")
		}
	}
	if !seen {
		return t, errors.New("template has no sequence A")
	}
	return t, nil
}
