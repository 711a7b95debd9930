package reward

import (
	"errors"
	"fmt"
	"strings"
)

// normalize trims, and makes one space of any run of blanks.
func normalize(s string) string { return strings.Join(strings.Fields(s), " ") }

func checkExact(ref Reference) error {
	if normalize(ref.Answer) == "" {
		return errors.New("the reference answer is empty, so no answer could be right")
	}
	return nil
}

// judgeExact compares the whole answer, or what it puts in a box where the
// reference has none.
func judgeExact(answer string, ref Reference) Verdict {
	want, got, how := normalize(ref.Answer), normalize(afterThought(answer)), "the whole answer"
	if got != want && !boxMarks.MatchString(want) {
		for _, f := range []form{byBox, byTag} {
			if found := f.find(afterThought(answer)); len(found) > 0 {
				got, how = normalize(found[len(found)-1]), f.name
				break
			}
		}
	}
	return compared(got == want, got, how, want)
}

// compared is the verdict about an answer that was found, and how.
func compared(right bool, extracted, how, want string) Verdict {
	v := Verdict{Right: right, Extracted: extracted, Why: fmt.Sprintf("%s: equal to %q", how, clip(want))}
	if !right {
		v.Why = fmt.Sprintf("%s: not equal to %q", how, clip(want))
	}
	return v
}

// clip keeps messages short.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
