package reward

import (
	"regexp"
	"slices"
	"strings"
)

// thoughtEnd closes what a reasoning model thinks before it answers.
const thoughtEnd = "</think>"

// afterThought returns what a model answers after it has thought: what it
// considered on the way is no answer.
func afterThought(answer string) string {
	if i := strings.LastIndex(answer, thoughtEnd); i >= 0 {
		return answer[i+len(thoughtEnd):]
	}
	return answer
}

// form is a way to say which of all that one wrote is the answer.
type form struct {
	// name is what a verdict calls it.
	name string
	// find returns what follows (or is inside) each statement of this form.
	find func(string) []string
	// closed says that what is found has nothing else behind it.
	closed bool
}

var (
	// byBox is the last word in MATH's format: \boxed{5}, \fbox{5}.
	byBox = form{name: "in a box", find: boxes, closed: true}
	// byTag is the form that reasoning models are trained to: <answer>5</answer>.
	byTag = form{name: "in <answer>", find: tagged, closed: true}
	// bySentence is "The final answer is 5".
	bySentence = form{name: `after "answer is"`, find: following(regexp.MustCompile(
		`(?i)\b(?:answer|(?:correct|best|right|most likely) (?:option|choice|letter|one))(?:\*\*)?(?:\s+(?:to|for|of)\s[^.\n:]*?)?\s+` +
			`(?:is|are|would be|should be|must be|will be|has to be|can only be|could only be)\b(?:\s+(?:therefore|thus|then|simply|just|clearly|indeed)\b)?`))}
	// byLabel is "Answer: 5", also as a heading with the answer below.
	byLabel = form{name: `after "Answer:"`, find: following(regexp.MustCompile(
		`(?im)\banswer\s*(?:\*\*|__)?\s*[:=]|^[ \t]*#+[ \t]*(?:the |final )?answer[ \t]*$`))}
)

// Bounds of what is looked at in an answer: the last statements of a form, and
// what follows each of them.
const (
	maxStatements = 32
	maxStatement  = 4096
)

// following returns what stands after each of the last matches.
func following(pattern *regexp.Regexp) func(string) []string {
	return func(s string) (found []string) {
		matches := pattern.FindAllStringIndex(s, -1)
		for _, m := range matches[max(0, len(matches)-maxStatements):] {
			// "The answer is not 60" states nothing.
			if text := s[m[1]:min(len(s), m[1]+maxStatement)]; !denial.MatchString(text) {
				found = append(found, text)
			}
		}
		return found
	}
}

// denial begins what an answer is not.
var denial = regexp.MustCompile(`^\s+(?i:not|neither)\b`)

// tags matches <answer>…</answer>.
var tags = regexp.MustCompile(`(?is)<answer>\s*(.*?)\s*</answer>`)

// tagged returns what stands in the last tags.
func tagged(s string) (found []string) {
	matches := tags.FindAllStringSubmatch(s, -1)
	for _, m := range matches[max(0, len(matches)-maxStatements):] {
		found = append(found, m[1])
	}
	return found
}

// nextQuestion begins a line that no answer has: a model that does not end its
// turn goes on with a question of its own, and answers that.
var nextQuestion = regexp.MustCompile(`(?im)^[ \t]*(?:#+[ \t]*|\*\*)?(?:question|problem|q)[ \t]*\d*[ \t]*[:.]`)

// stated returns what an answer states as its result: by the first of forms
// that it uses, and the last time that it does so, as far as read understands
// it. How is the form's name.
func stated[T any](answer string, forms []form, read func(text string, closed bool) (T, bool)) (result T, how string, ok bool) {
	parts := []string{answer}
	// What comes before an invented question counts if it states something.
	if m := nextQuestion.FindStringIndex(answer); m != nil && strings.TrimSpace(answer[:m[0]]) != "" {
		parts = []string{answer[:m[0]], answer}
	}
	for _, part := range parts {
		for _, f := range forms {
			found := f.find(part)
			for _, one := range slices.Backward(found) {
				if result, ok = read(one, f.closed); ok {
					return result, f.name, true
				}
			}
		}
	}
	return result, "", false
}

// boxMarks begin a boxed answer.
var boxMarks = regexp.MustCompile(`\\(?:boxed|fbox)\s*\{`)

// boxes returns the contents of the complete boxes of s, braces balanced.
func boxes(s string) (found []string) {
	marks := boxMarks.FindAllStringIndex(s, -1)
	for _, m := range marks[max(0, len(marks)-maxStatements):] {
		if end, ok := closing(s[m[1]:]); ok {
			found = append(found, s[m[1]:m[1]+end])
		}
	}
	return found
}

// closing returns where the brace ends that was opened before s.
func closing(s string) (int, bool) {
	depth := 1
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++ // \{ and \} are characters of their own
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i, true
			}
		}
	}
	return 0, false
}

// Boxed returns the content of the last complete \boxed{…} or \fbox{…} of s.
func Boxed(s string) (string, bool) {
	found := boxes(s)
	if len(found) == 0 {
		return "", false
	}
	return found[len(found)-1], true
}

// firstLine returns the first line of s that is not blank.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimLeft(s, " \t\r\n"), "\n")
	return strings.TrimSpace(line)
}

// lastLine returns the last line of s that is not blank.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}
