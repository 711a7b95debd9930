package reward

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/train/reward/latex"
)

var (
	// mathForms are tried in this order.
	mathForms = []form{byBox, byTag, bySentence, byLabel, byMark}
	// hedge matches words between "the answer is" and the answer.
	hedge = regexp.MustCompile(`^(?i:(?:approximately|about|exactly|equal to|given by)\b\s*)+`)
	// sentenceEnd matches the end of the sentence that states an answer.
	sentenceEnd = regexp.MustCompile(`\.(?:\*\*)?(?:\s|$)`)
	// delimited matches mathematics in a text: $…$, \(…\), \[…\]. A dollar sign
	// that is escaped is matched too, without a group, so that it opens nothing.
	delimited = regexp.MustCompile(`(?s)\\\$|\$\$(.+?)\$\$|\$((?:\\.|[^$\\\n])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]`)
)

// expressions returns the mathematics at the beginning of what is stated, or in
// the sentence that states it.
func expressions(text string, closed bool) (found []string, ok bool) {
	if closed {
		return []string{text}, latex.Normal(text) != ""
	}
	text = strings.TrimLeft(text, " \t\r\n:*")
	text = strings.TrimLeft(text[len(hedge.FindString(text)):], " \t\r\n:*")
	if m := delimited.FindStringSubmatchIndex(text); m != nil && m[0] == 0 && !strings.HasPrefix(text, `\$`) {
		// "$1$ and $2$" is one answer: what goes on is taken along up to its end.
		if rest := firstSentence(text[m[1]:]); strings.Contains(rest, "$") {
			text = text[:m[1]] + rest
		} else {
			text = inside(text, m)
		}
		return []string{strings.TrimSpace(text)}, latex.Normal(text) != ""
	}
	text = strings.TrimSpace(firstSentence(text))
	return append([]string{text}, lastSpan(text)...), latex.Normal(text) != ""
}

// firstSentence returns s up to the end of its first sentence, or line.
func firstSentence(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if m := sentenceEnd.FindStringIndex(s); m != nil {
		s = s[:m[0]]
	}
	return s
}

// joined matches the end of what belongs to the same list as what follows.
var joined = regexp.MustCompile(`(?:[\d$)}]\s*,?\s*or|\d\s*,?\s*and|\d\s*,)\s*$`)

// lastSpan returns the last mathematics that a text has between delimiters.
func lastSpan(text string) []string {
	spans := delimited.FindAllStringSubmatchIndex(text, -1)
	// "3 or $5$" is one answer, and no choice of two.
	if n := len(spans); n > 0 && joined.MatchString(text[:spans[n-1][0]]) {
		return nil
	}
	for _, span := range slices.Backward(spans) {
		if inner := inside(text, span); inner != "" {
			return []string{inner}
		}
	}
	return nil
}

// inside returns the group of a match of delimited that took part, empty for an
// escaped dollar sign.
func inside(s string, match []int) string {
	for i := 2; i < len(match); i += 2 {
		if match[i] >= 0 {
			return s[match[i]:match[i+1]]
		}
	}
	return ""
}

// mathAnswers returns what a text may give as its answer: what it states, or
// else the last line or the last mathematics in it, and how they were found.
func mathAnswers(answer string) (found []string, how string) {
	found, how, ok := stated(answer, mathForms, expressions)
	if ok {
		return found, how
	}
	if text := lastLine(answer); text != "" {
		found = append([]string{text}, lastSpan(text)...)
	}
	return found, "the last line"
}

func checkMath(ref Reference) error {
	if want, _ := mathAnswers(ref.Answer); len(want) == 0 || latex.Normal(want[0]) == "" {
		return errors.New("it is empty, so no answer could be right for the reward Math")
	}
	return nil
}

func judgeMath(answer string, ref Reference) Verdict {
	want, _ := mathAnswers(ref.Answer)
	got, how := mathAnswers(afterThought(answer))
	if len(got) == 0 || len(want) == 0 {
		return Verdict{Why: "there is no answer"}
	}
	for _, text := range got {
		if latex.Equal(text, want[0]) {
			return compared(true, text, how, want[0])
		}
	}
	return compared(false, got[len(got)-1], how, want[0])
}
