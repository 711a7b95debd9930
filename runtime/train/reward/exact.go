package reward

import (
	"errors"
	"strings"
)

// boxMark begins the final answer in MATH's format: \boxed{…}.
const boxMark = `\boxed{`

// Boxed returns the content of the last \boxed{…} of s, braces balanced.
func Boxed(s string) (string, bool) {
	i := strings.LastIndex(s, boxMark)
	if i < 0 {
		return "", false
	}
	s = s[i+len(boxMark):]
	depth := 1
	for j := range len(s) {
		switch s[j] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return s[:j], true
			}
		}
	}
	return "", false
}

// normalize trims, and makes one space of any run of blanks.
func normalize(s string) string { return strings.Join(strings.Fields(s), " ") }

func checkExact(ref Reference) error {
	if normalize(ref.Answer) == "" {
		return errors.New("the reference answer is empty, so no answer could be right")
	}
	return nil
}

// exactCorrect compares the whole answer, or what it puts in a box where the
// reference has none.
func exactCorrect(answer string, ref Reference) bool {
	want := normalize(ref.Answer)
	if normalize(answer) == want {
		return true
	}
	boxed, ok := Boxed(answer)
	return ok && !strings.Contains(want, boxMark) && normalize(boxed) == want
}
