package reward

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxChoices is the most answers a question may offer: A to Z.
const MaxChoices = 26

var (
	// opening matches a letter at the beginning of what is stated, past quotes,
	// brackets, markup and the word for it: "**(B)", "option B", "$\boxed{\text{B}}$".
	opening = regexp.MustCompile("^(?:[\\s:=(\"'“‘*_$`\\[{]|\\\\(?:text|textbf|textrm|mathrm|mathbf|boxed|fbox|\\()|" +
		"(?i:(?:the\\s+)?(?:correct\\s+)?(?:option|choice|letter|answer)\\b))*([A-Za-z])(?:$|[^\\pL\\pN'’])")
	// ends matches what may follow a small letter that names a choice: in "the
	// answer is a dog" it names none.
	ends = regexp.MustCompile(`^\s*(?:$|[\n.,:;!)\]}*"'$])`)
	// praised matches "B is correct" and "Option B is the best answer".
	praised = regexp.MustCompile(`(?:^|[^\pL\pN])(?:[Nn]or\s+[A-Z]|([A-Z]))[)*"']*\s+(?:is|must be|would be|seems)\s+` +
		`(?:(?:clearly|therefore|thus|the|most|likely)\s+)*(?:correct|right|best|true|answer)\b`)
	// chosen matches "it's B" and "I choose B", not "it is A dog".
	chosen = regexp.MustCompile(`(?i:\b(?:it['’]s|it is|choose|pick|select|go (?:with|for)|(?:likely|best|correct|right) one is|leaves)\s+` +
		`(?:(?:the\s+)?(?:option|choice|letter)\s+)?)[*(]*(?:([B-Z])(?:$|[^\pL\pN'’])|(A)(?:$|[^\pL\pN'’ ]| (?:$|[^\p{Ll}]|(?:as|because|since|for|is|and|over)\b)))`)
	// alone matches an answer of one letter and nothing else.
	alone = regexp.MustCompile(`^[^\pL\pN]*([A-Za-z])[^\pL\pN]*$`)
	// labelled matches a line that gives a choice as the question does: "B. a cat".
	labelled = regexp.MustCompile(`(?m)^[ \t]*[(*]*([A-Z])[*]*[).:][*]*(?:[ \t]|$)`)
	// phrase matches an "A" that begins a phrase, and the word after it.
	phrase = regexp.MustCompile(`^A[ \t]+(\p{Ll}+)`)
)

// verbs go on after the name of a choice ("A is", "A because"), never after an
// article.
var verbs = map[string]bool{
	"and": true, "as": true, "because": true, "best": true, "can": true, "cannot": true, "could": true,
	"describes": true, "does": true, "explains": true, "fits": true, "for": true, "has": true, "is": true,
	"makes": true, "matches": true, "must": true, "or": true, "seems": true, "shows": true, "since": true,
	"states": true, "was": true, "will": true, "would": true,
}

// choiceForms are tried in this order. Each finds texts that begin with a letter.
var choiceForms = []form{
	bySentence, byLabel, byBox, byTag,
	{name: "the whole answer", find: letters(alone)},
	{name: "called correct", find: letters(praised)},
	{name: "the one line with a label", find: func(s string) []string {
		if found := letters(labelled)(s); len(found) == 1 {
			return found
		}
		return nil
	}},
	{name: "the one that is chosen", find: letters(chosen)},
}

// letters returns the group of each match that took part, if any.
func letters(pattern *regexp.Regexp) func(string) []string {
	return func(s string) (found []string) {
		for _, m := range pattern.FindAllStringSubmatch(s, -1) {
			found = append(found, strings.Join(m[1:], ""))
		}
		return found
	}
}

// Letter returns the letter that an answer names, among the first n of the
// alphabet (all of them if n is 0): the one that it states as its answer, or
// else the last that stands alone, and how it was found.
func Letter(answer string, n int) (letter byte, how string, ok bool) {
	if n <= 0 || n > MaxChoices {
		n = MaxChoices
	}
	offered := func(c byte) bool { return c >= 'A' && int(c-'A') < n }
	letter, how, ok = stated(answer, choiceForms, func(text string, _ bool) (byte, bool) {
		m := opening.FindStringSubmatchIndex(text)
		if m == nil {
			return 0, false
		}
		c := text[m[2]]
		if c >= 'a' {
			if !ends.MatchString(text[m[3]:]) {
				return 0, false
			}
			c -= 'a' - 'A'
		}
		return c, offered(c)
	})
	if ok {
		return letter, how, true
	}
	letter, ok = lastLone(answer, offered)
	return letter, "the last letter that stands alone", ok
}

// lastLone returns the last capital letter of s with no letter, digit or
// apostrophe beside it, if it is no article.
func lastLone(s string, offered func(byte) bool) (letter byte, ok bool) {
	glued := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '\'' || r == '’' }
	for i := len(s) - 1; i >= 0; i-- {
		if !offered(s[i]) || s[i] > 'Z' {
			continue
		}
		before, _ := utf8.DecodeLastRuneInString(s[:i])
		after, _ := utf8.DecodeRuneInString(s[i+1:])
		if i > 0 && glued(before) || i+1 < len(s) && glued(after) {
			continue
		}
		if m := phrase.FindStringSubmatch(s[i:min(len(s), i+40)]); m != nil && !verbs[m[1]] {
			continue
		}
		return s[i], true
	}
	return 0, false
}

func checkChoice(ref Reference) error {
	key := strings.TrimSpace(ref.Answer)
	if len(key) != 1 || key[0] < 'A' || key[0] > 'Z' {
		return fmt.Errorf("%q is no letter from A to Z, which the reward MultipleChoice compares", clip(ref.Answer))
	}
	if ref.Choices > 0 && int(key[0]-'A') >= ref.Choices {
		return fmt.Errorf("%s is not among the %d choices, which the reward MultipleChoice compares", key, ref.Choices)
	}
	return nil
}

func judgeChoice(answer string, ref Reference) Verdict {
	letter, how, ok := Letter(afterThought(answer), ref.Choices)
	if !ok {
		return Verdict{Why: "no letter of a choice is stated or stands alone"}
	}
	want := strings.TrimSpace(ref.Answer)
	return compared(string(letter) == want, string(letter), how, want)
}
