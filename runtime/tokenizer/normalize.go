package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text before it is split.
type normalizer func(string) (string, error)

func parseNormalizer(raw json.RawMessage) (normalizer, error) {
	components, err := flatten(raw, func(c component) []json.RawMessage { return c.Normalizers })
	if err != nil {
		return nil, err
	}
	steps := make([]normalizer, 0, len(components))
	for _, c := range components {
		step, err := normalizerOf(c)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return func(s string) (string, error) {
		var err error
		before := len(s)
		for _, step := range steps {
			if s, err = step(s); err == nil {
				err = checkGrowth(before, len(s))
			}
			if err != nil {
				return "", err
			}
		}
		return s, nil
	}, nil
}

// maxInsert bounds what a component inserts at one place.
const maxInsert = 1024

func normalizerOf(c component) (normalizer, error) {
	if len(c.Prepend) > maxInsert {
		return nil, fmt.Errorf("prepend has %d bytes", len(c.Prepend))
	}
	plain := func(f func(string) string) (normalizer, error) {
		return func(s string) (string, error) { return f(s), nil }, nil
	}
	switch c.Type {
	case "NFC":
		return plain(norm.NFC.String)
	case "NFD":
		return plain(norm.NFD.String)
	case "NFKC":
		return plain(norm.NFKC.String)
	case "NFKD":
		return plain(norm.NFKD.String)
	case "Lowercase":
		return plain(strings.ToLower)
	case "Strip":
		return plain(func(s string) string {
			if c.StripLeft {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if c.StripRight {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		})
	case "Prepend":
		return plain(func(s string) string {
			if s == "" {
				return s
			}
			return c.Prepend + s
		})
	case "Replace":
		return replacer(c)
	default:
		return nil, fmt.Errorf("normalizer %q is not supported", c.Type)
	}
}

// replacer is the Replace of normalisers and decoders.
func replacer(c component) (normalizer, error) {
	if len(c.Content) > maxInsert {
		return nil, fmt.Errorf("replace: content has %d bytes", len(c.Content))
	}
	m, err := c.Pattern.compile()
	if err != nil {
		return nil, fmt.Errorf("replace: %w", err)
	}
	return func(s string) (string, error) {
		spans, err := m.find(s)
		if err != nil {
			return "", err
		}
		var b strings.Builder
		at := 0
		for _, span := range spans {
			b.WriteString(s[at:span[0]])
			b.WriteString(c.Content)
			at = span[1]
		}
		b.WriteString(s[at:])
		return b.String(), nil
	}, nil
}
