package reward

import (
	"errors"
	"regexp"
	"strings"

	"github.com/transformersquared/operator/runtime/train/reward/latex"
)

var (
	// mathForms are tried in this order.
	mathForms = []form{byBox, bySentence, byLabel, byMark}
	// sentenceEnd matches the end of the sentence that states an answer.
	sentenceEnd = regexp.MustCompile(`\.(?:\*\*)?(?:\s|$)`)
	// delimited matches mathematics in a text: $…$, \(…\), \[…\]. A dollar sign
	// that is escaped is matched too, without a group, so that it opens nothing.
	delimited = regexp.MustCompile(`(?s)\\\$|\$\$(.+?)\$\$|\$((?:\\.|[^$\\\n])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]`)
)

// expression returns the mathematics at the beginning of what is stated.
func expression(text string) (string, bool) {
	text = strings.TrimLeft(text, " \t\r\n:*")
	if m := delimited.FindStringSubmatchIndex(text); m != nil && m[0] == 0 && text[0:2] != `\$` {
		// "$1$ and $2$" is one answer: what goes on is taken along up to its end.
		rest, _, _ := strings.Cut(text[m[1]:], "\n")
		if m := sentenceEnd.FindStringIndex(rest); m != nil {
			rest = rest[:m[0]]
		}
		if !strings.Contains(rest, "$") {
			rest = ""
		}
		text = text[:m[1]] + rest
	} else {
		text = firstLine(text)
		if m := sentenceEnd.FindStringIndex(text); m != nil {
			text = text[:m[0]]
		}
	}
	return strings.TrimSpace(text), latex.Normal(text) != ""
}

// mathAnswers returns what a text may give as its answer: what it states, or
// else the last line, the last mathematics in it, and how they were found.
func mathAnswers(answer string) (found []string, how string) {
	text, how, ok := stated(answer, mathForms, expression)
	if ok {
		return []string{text}, how
	}
	if text = lastLine(answer); text != "" {
		found = append(found, text)
	}
	spans := delimited.FindAllStringSubmatch(text, -1)
	for i := len(spans) - 1; i >= 0; i-- {
		if inner := strings.Join(spans[i][1:], ""); inner != "" {
			found = append(found, inner)
			break
		}
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
