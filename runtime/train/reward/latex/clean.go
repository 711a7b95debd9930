package latex

import (
	"regexp"
	"strings"
)

// symbols are characters that stand for commands.
var symbols = strings.NewReplacer(
	"−", "-", "–", "-", "×", `\times `, "·", `\cdot `, "⋅", `\cdot `, "÷", "/", "π", `\pi `, "∞", `\infty `,
	"√", `\sqrt `, "°", `^\circ `, "≤", `\le `, "≥", `\ge `, "≠", `\ne `, "∪", `\cup `, "∈", `\in `, "±", `\pm `,
	"∓", `\mp `, "θ", `\theta `, "²", "^2", "³", "^3", "½", `\frac12`, "¼", `\frac14`, "¾", `\frac34`,
	"⟨", `\langle `, "⟩", `\rangle `, "\u00a0", " ", "\u2009", " ", "’", "'", "∅", `\emptyset `,
	`\$`, "", "$", "", "€", "", "£", "", `\%`, "%", " percent", "%", `\#`, "",
)

// aliases are commands with the same meaning.
var aliases = strings.NewReplacer(`\dfrac`, `\frac`, `\tfrac`, `\frac`, `\cfrac`, `\frac`, `\lbrace`, `\{`, `\rbrace`, `\}`,
	`\leq`, `\le`, `\geq`, `\ge`, `\neq`, `\ne`, `\lt`, `<`, `\gt`, `>`)

var (
	// thousandsComma matches a comma between groups of three digits.
	thousandsComma = regexp.MustCompile(`\d,\d{3}(?:\D|$)`)
	// setComma matches a comma that is set so that it can only be one.
	setComma = regexp.MustCompile(`(\d)(?:\{,\}|,\\[!,])\s*(\d{3})`)
	// spacing matches commands that only set the type.
	spacing = regexp.MustCompile(`\\\\|\\(?:left|right)\s*\.|` +
		`\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad)\b|\\[!,;:> ]|~`)
	// wrapped matches text commands, whose content is what counts.
	wrapped = regexp.MustCompile(`\\(?:text|textbf|textit|textrm|texttt|mbox|mathrm|mathbf|mathit|mathsf|operatorname|rm|bf)\b\s*`)
	// wordUnits matches units at the end of an answer and what they are raised to.
	wordUnits = regexp.MustCompile(`(?i)(\d|\}|\)|\]|pi)\s*(?:(?:` + unitWords + `)\b\s*)+(?:\^\{?\d\}?)?\s*$`)
	// circles matches degrees.
	circles = regexp.MustCompile(`\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)`)
)

// unitWords are the units that are dropped where they are written as plain
// words; in \text any word is. Both spellings of English occur.
//
//nolint:misspell // See above.
const unitWords = `square|sq|cubic|cu|degrees?|deg|cents?|dollars?|inch(?:es)?|in|feet|foot|ft|yards?|miles?|mi|` +
	`meters?|metres?|centimeters?|centimetres?|millimeters?|kilometers?|kilometres?|cm|mm|km|m/s|mph|units?|` +
	`hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?|grams?|kilograms?|kg|pounds?|lbs?|ounces?|oz|` +
	`liters?|litres?|gallons?|people|persons?|students?|points?|times|ways|radians?|rad|per|an?|the`

// clean leaves out what only sets the type.
func clean(s string) string {
	s = strings.TrimSpace(s)
	for _, pair := range [][2]string{{`\(`, `\)`}, {`\[`, `\]`}} {
		if inner, ok := strings.CutPrefix(s, pair[0]); ok {
			if inner, ok = strings.CutSuffix(strings.TrimRight(inner, ". "), pair[1]); ok {
				s = inner
			}
		}
	}
	s = symbols.Replace(s)
	s = aliases.Replace(s)
	for range 4 { // 11,\! 111,\! 111: matches share digits
		t := setComma.ReplaceAllString(s, "$1$2")
		if t == s {
			break
		}
		s = t
	}
	s = circles.ReplaceAllString(s, "")
	s = spacing.ReplaceAllStringFunc(s, func(m string) string {
		if m == `\\` { // between the rows of a matrix
			return m
		}
		return " "
	})
	s = strings.TrimSpace(s)
	for {
		t := strings.TrimRight(s, " ,;:`\"”")
		if strings.HasSuffix(t, ".") {
			t = strings.TrimRight(t, ".")
		}
		t = strings.TrimLeft(strings.Trim(t, "*"), " :`\"“")
		if t == s {
			break
		}
		s = t
	}
	return wordUnits.ReplaceAllString(s, "$1")
}

// Normal returns the text of an answer without what only sets the type: without
// dollar signs, blanks, text commands and units of degree. It is empty where
// nothing is left.
func Normal(s string) string {
	s = wrapped.ReplaceAllString(clean(s), "")
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\n' || r == '\r' {
			return -1
		}
		return r
	}, s)
	// Brackets around a letter or a word: (C), {(C)}.
	for m := bracketed.FindStringSubmatch(s); m != nil; m = bracketed.FindStringSubmatch(s) {
		s = m[1]
	}
	if len(s) > 1 && letters.MatchString(s) {
		s = strings.ToLower(s)
	}
	return s
}

var (
	// letters matches a word.
	letters = regexp.MustCompile(`^\pL+$`)
	// bracketed matches a word in brackets, of any depth.
	bracketed = regexp.MustCompile(`^[({]([({]*\pL+[)}]*)[)}]$`)
)
