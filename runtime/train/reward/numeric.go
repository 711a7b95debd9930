package reward

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// maxDigits bounds the numbers compared; longer ones are no numbers.
const maxDigits = 400

var (
	// marked matches GSM8K's mark at the start of a line and what follows it.
	marked = regexp.MustCompile(`(?m)^[ \t]*####[ \t]*([^\n]*)$`)
	// bare matches what may follow the number of a line that has nothing else.
	bare = regexp.MustCompile(`^\s*(?:\\?%|\.)?\s*$`)
	// heading matches what follows the number of a heading: "#### 2. Add".
	heading = regexp.MustCompile(`^\s*[.):]`)
	// remark matches words in brackets: "72 hours (rounded to 0 decimals)".
	remark = regexp.MustCompile(`\([^()]*\pL{2,}[^()]*\)`)
	// fraction matches a fraction of LaTeX.
	fraction = regexp.MustCompile(`\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}`)
	// plain takes out what LaTeX puts into or around numbers.
	plain = strings.NewReplacer(`,\!`, ",", "{,}", ",", `\!`, "", `\,`, "", `\$`, "$", "−", "-")
)

// byMark is the final line of GSM8K: "#### 72". The first complete one counts,
// as for the data set's own grader; headings are none.
var byMark = form{name: `after "####"`, find: func(s string) []string {
	var loose []string
	for _, m := range marked.FindAllStringSubmatch(s, -1) {
		text := plain.Replace(m[1])
		found := numbers(text)
		if len(found) == 0 || strings.TrimLeft(text[:found[0].from], " $€£") != "" {
			continue
		}
		switch rest := text[found[0].to:]; {
		case bare.MatchString(rest):
			return []string{m[1]}
		case !heading.MatchString(rest):
			loose = append(loose, m[1])
		}
	}
	return loose[:min(1, len(loose))]
}}

// numericForms are tried in this order.
var numericForms = []form{byBox, byTag, bySentence, byLabel, byMark}

// Number returns the number that an answer gives: the one that it states as
// its answer, or its last one, and how it was found.
func Number(answer string) (n *big.Rat, how string, ok bool) {
	n, how, ok = stated(answer, numericForms, func(text string, _ bool) (*big.Rat, bool) {
		text = plain.Replace(firstLine(text))
		// "The answer is 5. To check: 5 + 2 = 7."
		if s := firstSentence(text); len(numbers(s)) > 0 {
			text = s
		}
		// "the answer is 3 + 4 = 7."
		if i := strings.LastIndexByte(text, '='); i >= 0 && len(numbers(text[i:])) > 0 {
			text = text[i:]
		}
		found := numbers(text)
		if len(found) == 0 {
			return nil, false
		}
		return found[0].value, true
	})
	if ok {
		return n, how, true
	}
	answer = plain.Replace(answer)
	found := numbers(remark.ReplaceAllString(answer, " "))
	if len(found) == 0 {
		if found = numbers(answer); len(found) == 0 {
			return nil, "", false
		}
	}
	return found[len(found)-1].value, "the last number", true
}

// spot is a number of a text and where it is, its sign and currency included.
type spot struct {
	from, to int
	value    *big.Rat
}

// numbers returns the numbers of s from left to right: integers, decimals and
// fractions, with thousands' commas and a sign. Digits of a word (H2O) are none.
func numbers(s string) (found []spot) {
	fractions := fraction.FindAllStringSubmatchIndex(s, -1)
	for i := 0; i < len(s); {
		for len(fractions) > 0 && fractions[0][0] < i {
			fractions = fractions[1:]
		}
		end := i + 1
		var text string
		switch {
		case len(fractions) > 0 && fractions[0][0] == i:
			m := fractions[0]
			text, end = s[m[2]:m[3]]+"/"+s[m[4]:m[5]], m[1]
		case isDigit(s, i) || s[i] == '.' && isDigit(s, i+1) && !isDigit(s, i-1):
			end = numberEnd(s, i)
			text = strings.ReplaceAll(s[i:end], ",", "")
		}
		if text != "" && (i == 0 || !isWord(s[i-1])) {
			from := signStart(s, i)
			if strings.Contains(s[from:i], "-") {
				text = "-" + text
			}
			if value, ok := parseNumber(text); ok {
				found = append(found, spot{from, end, value})
			}
		}
		i = end
	}
	return found
}

// numberEnd returns where the number ends that begins at i.
func numberEnd(s string, i int) int {
	digits := func(i int) int {
		for isDigit(s, i) {
			i++
		}
		return i
	}
	end := digits(i)
	if end-i <= 3 {
		for end < len(s) && s[end] == ',' && digits(end+1) == end+4 {
			end += 4
		}
	}
	if end < len(s) && s[end] == '.' && isDigit(s, end+1) {
		return digits(end + 1)
	}
	// 3/4, but no date.
	if end < len(s) && s[end] == '/' && isDigit(s, end+1) && (i == 0 || s[i-1] != '/') {
		if to := digits(end + 1); to == len(s) || s[to] != '/' {
			return to
		}
	}
	return end
}

// signStart returns where the sign and currency before a number begin: "-$3",
// "$-3". A minus after an operand subtracts and belongs to no number.
func signStart(s string, i int) int {
	signed := false
	for {
		head, ok := s[:i], false
		for _, currency := range []string{"$", "€", "£"} {
			if head, ok = strings.CutSuffix(s[:i], currency); ok {
				break
			}
		}
		if !ok && !signed {
			for _, sign := range []string{"-", "+"} {
				if head, ok = strings.CutSuffix(s[:i], sign); ok {
					if endsInOperand(head) {
						return i
					}
					signed = true
					break
				}
			}
		}
		if !ok {
			return i
		}
		i = len(head)
	}
}

// endsInOperand reports whether a minus after s subtracts instead of negating:
// it does in "7-4", "7 -4" and "x-4", not in "it is -4".
func endsInOperand(s string) bool {
	trimmed := strings.TrimRight(s, " ")
	if trimmed == "" {
		return false
	}
	c := trimmed[len(trimmed)-1]
	if c == ')' || c >= '0' && c <= '9' {
		return true
	}
	return len(trimmed) == len(s) && (c == '.' || isWord(c))
}

func isDigit(s string, i int) bool { return i >= 0 && i < len(s) && s[i] >= '0' && s[i] <= '9' }

func isWord(c byte) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
}

func parseNumber(s string) (*big.Rat, bool) {
	if len(s) > maxDigits {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func checkNumeric(ref Reference) error {
	if _, _, ok := Number(ref.Answer); !ok {
		return fmt.Errorf("%q has no number, which the reward Numeric compares", clip(ref.Answer))
	}
	return nil
}

func judgeNumeric(answer string, ref Reference) Verdict {
	want, _, okWant := Number(ref.Answer)
	got, how, ok := Number(afterThought(answer))
	if !ok || !okWant {
		return Verdict{Why: "there is no number"}
	}
	return compared(got.Cmp(want) == 0, decimal(got), how, decimal(want))
}

// decimal writes a number as people do.
func decimal(n *big.Rat) string {
	if digits, exact := n.FloatPrec(); exact {
		return n.FloatString(digits)
	}
	return n.RatString()
}
