package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// gpt2Pattern splits words in ByteLevel pre-tokenisers.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// sentencePieceSpace stands for a space in SentencePiece vocabularies.
const sentencePieceSpace = "▁"

// piece is a part of a text that BPE works on by itself.
type piece struct {
	text string
	// first says that the piece begins the whole text.
	first bool
}

// preTokenizer splits each piece further.
type preTokenizer func([]piece) ([]piece, error)

// parsePreTokenizer returns the steps as one, and the one that there is if it is of
// the kind ByteLevel and in no sequence.
func parsePreTokenizer(raw json.RawMessage) (preTokenizer, *byteLevelStep, error) {
	components, err := flatten(raw, func(c component) []json.RawMessage { return c.PreTokenizers })
	if err != nil {
		return nil, nil, err
	}
	var top component
	if !absent(raw) {
		if err := json.Unmarshal(raw, &top); err != nil {
			return nil, nil, err
		}
	}
	var steps []preTokenizer
	var alone *byteLevelStep
	for _, c := range components {
		if c.Type == "ByteLevel" {
			step, err := byteLevel(c)
			if err != nil {
				return nil, nil, err
			}
			if steps = append(steps, step.split); top.Type == c.Type {
				alone = step
			}
			continue
		}
		step, err := preTokenizerOf(c)
		if err != nil {
			return nil, nil, err
		}
		steps = append(steps, step)
	}
	return func(pieces []piece) ([]piece, error) {
		var err error
		before := totalText(pieces)
		for _, step := range steps {
			if pieces, err = step(pieces); err == nil {
				err = checkGrowth(before, totalText(pieces))
			}
			if err != nil {
				return nil, err
			}
		}
		return pieces, nil
	}, alone, nil
}

func totalText(pieces []piece) int {
	n := 0
	for _, p := range pieces {
		n += len(p.text)
	}
	return n
}

func preTokenizerOf(c component) (preTokenizer, error) {
	switch c.Type {
	case "Split":
		m, err := c.Pattern.compile()
		if err != nil {
			return nil, fmt.Errorf("split: %w", err)
		}
		return splitter(m, c.Behavior, c.Invert)
	case "Digits":
		if c.IndividualDigits {
			return splitter(digits{}, "Isolated", false)
		}
		return splitter(digits{}, "Contiguous", false)
	case "Metaspace":
		return metaspace(c)
	default:
		return nil, fmt.Errorf("pre-tokenizer %q is not supported", c.Type)
	}
}

// digits matches each numeric character.
type digits struct{}

func (digits) find(s string) ([][2]int, error) {
	var spans [][2]int
	for i, r := range s {
		if unicode.IsNumber(r) {
			spans = append(spans, [2]int{i, i + utf8.RuneLen(r)})
		}
	}
	return spans, nil
}

// splitter splits pieces at matches; behavior says what becomes of the matches,
// and invert exchanges matches and what is between them.
func splitter(m matcher, behavior string, invert bool) (preTokenizer, error) {
	switch behavior {
	case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
	default:
		return nil, fmt.Errorf("split behavior %q is not supported", behavior)
	}
	return func(pieces []piece) ([]piece, error) {
		var out []piece
		for _, p := range pieces {
			spans, err := m.find(p.text)
			if err != nil {
				return nil, err
			}
			begin := 0
			for _, end := range cuts(len(p.text), spans, behavior, invert) {
				if end.to > begin && !end.drop {
					out = append(out, piece{text: p.text[begin:end.to], first: p.first && begin == 0})
				}
				begin = end.to
			}
		}
		return out, nil
	}, nil
}

// cut ends a part of a text at byte offset to.
type cut struct {
	to   int
	drop bool
}

// cuts turns matches in a text of n bytes into the ends of its parts.
func cuts(n int, spans [][2]int, behavior string, invert bool) []cut {
	type part struct {
		to    int
		match bool
	}
	var parts []part
	at := 0
	for _, s := range spans {
		if s[0] > at {
			parts = append(parts, part{s[0], invert})
		}
		parts = append(parts, part{s[1], !invert})
		at = s[1]
	}
	if at < n {
		parts = append(parts, part{n, invert})
	}
	var out []cut
	for i, p := range parts {
		join := false // with the part before it
		switch behavior {
		case "MergedWithPrevious":
			join = p.match && i > 0 && !parts[i-1].match
		case "MergedWithNext":
			join = !p.match && i > 0 && parts[i-1].match
		case "Contiguous":
			join = i > 0 && p.match == parts[i-1].match
		}
		if join {
			out[len(out)-1].to = p.to
			continue
		}
		out = append(out, cut{to: p.to, drop: behavior == "Removed" && p.match})
	}
	return out
}

// byteLevelStep splits as GPT-2 does and spells bytes in the byte alphabet.
type byteLevelStep struct {
	words  preTokenizer
	prefix bool // A piece begins with a space.
}

func byteLevel(c component) (*byteLevelStep, error) {
	step := &byteLevelStep{
		words:  func(p []piece) ([]piece, error) { return p, nil },
		prefix: c.AddPrefixSpace == nil || *c.AddPrefixSpace,
	}
	if c.UseRegex == nil || *c.UseRegex {
		m, err := compileRegex(gpt2Pattern)
		if err != nil {
			return nil, err
		}
		if step.words, err = splitter(m, "Isolated", false); err != nil {
			return nil, err
		}
	}
	return step, nil
}

func (b *byteLevelStep) split(pieces []piece) ([]piece, error) {
	if b.prefix {
		for i, p := range pieces {
			if !strings.HasPrefix(p.text, " ") {
				pieces[i].text = " " + p.text
			}
		}
	}
	pieces, err := b.words(pieces)
	for i, p := range pieces {
		pieces[i].text = spellBytes(p.text)
	}
	return pieces, err
}

// metaspace replaces spaces as SentencePiece does.
func metaspace(c component) (preTokenizer, error) {
	replacement := c.Replacement
	if replacement == "" {
		replacement = sentencePieceSpace
	}
	scheme := c.PrependScheme
	if scheme == "" {
		scheme = "always"
		if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
			scheme = "never"
		}
	}
	if len(replacement) > maxInsert {
		return nil, fmt.Errorf("metaspace: replacement has %d bytes", len(replacement))
	}
	if scheme != "always" && scheme != "first" && scheme != "never" {
		return nil, fmt.Errorf("metaspace: prepend_scheme %q is not supported", scheme)
	}
	split := c.Split == nil || *c.Split
	atSpaces, err := splitter(literal(replacement), "MergedWithNext", false)
	if err != nil {
		return nil, err
	}
	return func(pieces []piece) ([]piece, error) {
		for i, p := range pieces {
			text := strings.ReplaceAll(p.text, " ", replacement)
			if (scheme == "always" || scheme == "first" && p.first) && !strings.HasPrefix(text, replacement) {
				text = replacement + text
			}
			pieces[i].text = text
		}
		if split {
			return atSpaces(pieces)
		}
		return pieces, nil
	}, nil
}
