package reward

import (
	"fmt"
	"regexp"
	"strings"
)

// MaxChoices is the most answers a question may offer: A to Z.
const MaxChoices = 26

var (
	// stated matches an answer that says so: "The answer is (B)", "Answer: b".
	stated = regexp.MustCompile(`(?i)\b(?:answer|choice|option)(?:\s+(?:is|would be))?\s*[:=]?\s*[("'*]*([A-Z])\b`)
	// standalone matches one letter between what is no letter or digit.
	standalone = regexp.MustCompile(`(?:^|[^\pL\pN'’])([A-Z])(?:$|[^\pL\pN'’])`)
	// article matches an "A" that begins a phrase: "A dog is an animal".
	article = regexp.MustCompile(`^A\s+\p{Ll}`)
)

// Letter returns the letter that an answer names, among the first n of the
// alphabet (all of them if n is 0): the one it states as its answer, or else
// the first that stands alone and is not the article "A".
func Letter(answer string, n int) (byte, bool) {
	if n <= 0 || n > MaxChoices {
		n = MaxChoices
	}
	offered := func(c byte) bool { return c >= 'A' && int(c-'A') < n }
	if m := stated.FindStringSubmatchIndex(answer); m != nil {
		// A lower-case "a" after the words is the article: "the answer is a dog".
		if c := answer[m[2]]; offered(c) && !article.MatchString(answer[m[2]:]) {
			return c, true
		}
	}
	for rest, at := answer, 0; ; rest = answer[at:] {
		m := standalone.FindStringSubmatchIndex(rest)
		if m == nil {
			return 0, false
		}
		if c := rest[m[2]]; offered(c) && !article.MatchString(rest[m[2]:]) {
			return c, true
		}
		at += m[3] // the character after the letter may open the next match
	}
}

func checkChoice(ref Reference) error {
	key := strings.TrimSpace(ref.Answer)
	if len(key) != 1 || key[0] < 'A' || key[0] > 'Z' {
		return fmt.Errorf("the reference answer %q is no letter from A to Z, which the reward MultipleChoice compares", clip(ref.Answer))
	}
	if ref.Choices > 0 && int(key[0]-'A') >= ref.Choices {
		return fmt.Errorf("the reference answer %s is not among the %d choices", key, ref.Choices)
	}
	return nil
}

func choiceCorrect(answer string, ref Reference) bool {
	got, ok := Letter(answer, ref.Choices)
	return ok && string(got) == strings.TrimSpace(ref.Answer)
}
