// Package latex says whether two final answers of mathematics mean the same,
// as people and models write them: in LaTeX or as plain text.
//
//	Equal(`\dfrac{1}{2}`, "0.5")          // true
//	Equal(`x \in [-2,7]`, `\left[-2,7\right]`) // true
//	Equal("(a+5)(b+2)", "ab+2a+5b+10")    // true
//
// Two answers are equal if they are the same text once what only sets the type
// is left out (dollar signs, \left, blanks, \text, units), or if both can be
// read and have the same value: numbers exactly, expressions with variables at
// several points, intervals, tuples, sets and matrices by their parts. Where
// people leave something out, either side may: "x=5" is 5, "90^\circ" is 90,
// "50\%" is 50 or 1/2.
//
// What is compared is untrusted. Its length, depth, size and numbers are
// bounded; what is beyond the bounds is compared as text.
package latex

import "strings"

// Bounds of what is read.
const (
	maxLength = 2000 // bytes of an answer
	maxDepth  = 40   // of nested groups
	maxNodes  = 1000 // of an expression
	maxItems  = 64   // of a list
	maxBits   = 1 << 13
	maxWork   = 20_000 // comparisons of parts
)

// Equal reports whether two answers mean the same.
func Equal(a, b string) bool {
	if len(a) > maxLength || len(b) > maxLength {
		return strings.TrimSpace(a) == strings.TrimSpace(b) && strings.TrimSpace(a) != ""
	}
	x, y := Normal(a), Normal(b)
	if x == "" || y == "" {
		return false
	}
	if x == y {
		return true
	}
	// Commas separate thousands or the parts of a list: "10,080" is both.
	xs, ys := readings(a), readings(b)
	work := maxWork
	for _, p := range xs {
		for _, q := range ys {
			if same(p, q, &work) {
				return true
			}
		}
	}
	return false
}

// Valid reports whether s can be read as mathematics, and not only compared as
// text.
func Valid(s string) bool { return len(s) <= maxLength && len(readings(s)) > 0 }

// readings returns the ways to read s.
func readings(s string) (found []*node) {
	s = clean(s)
	for _, thousands := range []bool{true, false} {
		n, err := parse(s, thousands)
		if err != nil {
			continue
		}
		found = append(found, n)
		if !thousandsComma.MatchString(s) {
			break
		}
	}
	return found
}
