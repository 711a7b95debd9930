package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// matchTimeout bounds one search for a regular expression, whose engine
// backtracks: expressions come from model files and texts from strangers.
const matchTimeout = 5 * time.Second

// maxPattern bounds a regular expression; GPT-4o's has 300 bytes.
const maxPattern = 16 << 10

// matcher finds all matches in a text, left to right, as byte offsets. Empty
// matches are left out.
type matcher interface {
	find(s string) ([][2]int, error)
}

// compile returns the matcher for a pattern.
func (p *pattern) compile() (matcher, error) {
	switch {
	case p != nil && p.String != nil:
		if *p.String == "" {
			return nil, errors.New("pattern is empty")
		}
		return literal(*p.String), nil
	case p != nil && p.Regex != nil:
		return compileRegex(*p.Regex)
	default:
		return nil, errors.New("pattern is neither a String nor a Regex")
	}
}

type literal string

func (l literal) find(s string) ([][2]int, error) {
	var spans [][2]int
	for at := 0; ; {
		i := strings.Index(s[at:], string(l))
		if i < 0 {
			return spans, nil
		}
		spans = append(spans, [2]int{at + i, at + i + len(l)})
		at += i + len(l)
	}
}

type regex struct{ re *regexp2.Regexp }

// compileRegex compiles an expression with the look-ahead that RE2 has not and
// tokenisers use.
func compileRegex(expression string) (matcher, error) {
	if len(expression) > maxPattern {
		return nil, fmt.Errorf("regular expression has %d bytes, at most %d are allowed", len(expression), maxPattern)
	}
	re, err := regexp2.Compile(expression, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expression, err)
	}
	re.MatchTimeout = matchTimeout
	return regex{re}, nil
}

func (r regex) find(s string) ([][2]int, error) {
	runes := []rune(s)
	var spans [][2]int
	bytes, seen := 0, 0 // the byte offset of rune number seen
	offset := func(index int) int {
		for ; seen < index; seen++ {
			bytes += utf8.RuneLen(runes[seen])
		}
		return bytes
	}
	m, err := r.re.FindRunesMatch(runes)
	for ; m != nil && err == nil; m, err = r.re.FindNextMatch(m) {
		if m.Length > 0 {
			begin := offset(m.Index)
			spans = append(spans, [2]int{begin, offset(m.Index + m.Length)})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("splitting text: %w", err)
	}
	return spans, nil
}

// checkGrowth refuses components that blow a text up: each step of a tokenizer
// may lengthen it a little (a byte spelled as two, a ligature decomposed), but a
// file can chain steps that double it.
func checkGrowth(before, after int) error {
	if after > 16*before+4096 {
		return fmt.Errorf("the tokenizer makes %d bytes of %d: it is no tokenizer of a model", after, before)
	}
	return nil
}
