package latex

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind says what a token is.
type tokenKind int

const (
	end     tokenKind = iota
	number            // text has digits and at most one dot
	word              // a letter, or several that belong together
	command           // text is its name, without the backslash
	quoted            // the content of \text{…}
	sign              // one character, or "\\" between a matrix' rows
)

type token struct {
	kind tokenKind
	text string
}

// errSyntax is any reason why something is no mathematics.
var errSyntax = errors.New("no expression")

func syntaxf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errSyntax}, args...)...)
}

// functions are the names of functions of one argument.
var functions = map[string]bool{
	"sin": true, "cos": true, "tan": true, "cot": true, "sec": true, "csc": true, "arcsin": true, "arccos": true,
	"arctan": true, "sinh": true, "cosh": true, "tanh": true, "log": true, "ln": true, "lg": true, "exp": true,
}

// known are the commands with a meaning, beside functions.
var known = map[string]bool{
	"frac": true, "sqrt": true, "binom": true, "cdot": true, "times": true, "div": true, "pm": true, "mp": true,
	"cup": true, "in": true, "le": true, "ge": true, "ne": true, "infty": true, "pi": true, "circ": true,
	"text": true, "mbox": true, "textbf": true, "textit": true, "textrm": true, "mathrm": true, "mathbf": true,
	"operatorname": true, "boxed": true, "fbox": true, "overline": true, "begin": true, "end": true,
	"langle": true, "rangle": true, "lfloor": true, "rfloor": true, "lceil": true, "rceil": true, "emptyset": true,
	"alpha": true, "beta": true, "gamma": true, "delta": true, "theta": true, "lambda": true, "mu": true,
	"omega": true, "phi": true, "rho": true, "sigma": true, "tau": true, "epsilon": true, "varphi": true, "vert": true,
	"mid": true, "approx": true, "equiv": true, "ldots": true, "dots": true, "cdots": true, "lvert": true, "rvert": true,
}

// textual are the commands whose group is text.
var textual = map[string]bool{
	"text": true, "mbox": true, "textbf": true, "textit": true, "textrm": true, "texttt": true, "mathrm": true,
	"operatorname": true,
}

// lex splits s, which clean has seen, into tokens.
func lex(s string, thousands bool) ([]token, error) {
	var tokens []token
	depth := 0
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case unicode.IsSpace(r):
			i += size
		case r == '\\':
			next, n, err := lexCommand(s[i:])
			if err != nil {
				return nil, err
			}
			tokens = append(tokens, next)
			i += n
		case r >= '0' && r <= '9' || r == '.' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			n := digits(s[i:], thousands && depth == 0)
			tokens = append(tokens, token{number, strings.ReplaceAll(s[i:i+n], ",", "")})
			i += n
		case unicode.IsLetter(r):
			n := strings.IndexFunc(s[i:], func(r rune) bool { return !unicode.IsLetter(r) })
			if n < 0 {
				n = len(s) - i
			}
			tokens = append(tokens, splitWord(s[i:i+n])...)
			i += n
		default:
			switch r {
			case '(', '[':
				depth++
			case ')', ']':
				depth--
			}
			tokens = append(tokens, token{sign, s[i : i+size]})
			i += size
		}
		if len(tokens) > maxNodes {
			return nil, syntaxf("more than %d parts", maxNodes)
		}
	}
	return tokens, nil
}

// lexCommand reads a command, and the content of a textual one.
func lexCommand(s string) (token, int, error) {
	n := 1
	for n < len(s) && (s[n]|0x20 >= 'a' && s[n]|0x20 <= 'z') {
		n++
	}
	if n == 1 {
		if len(s) < 2 {
			return token{}, 0, syntaxf("a backslash at the end")
		}
		return token{sign, s[:2]}, 2, nil // \{ \} \\ \|
	}
	name := s[1:n]
	// Without blanks \cot x is \cotx: the longest command that is known counts.
	for m := len(name); m > 1 && !known[name] && !functions[name]; m-- {
		if known[name[:m]] || functions[name[:m]] {
			name, n = name[:m], m+1
		}
	}
	if !textual[name] {
		return token{command, name}, n, nil
	}
	rest := strings.TrimLeft(s[n:], " ")
	if !strings.HasPrefix(rest, "{") {
		return token{}, 0, syntaxf("\\%s without a group", name)
	}
	n = len(s) - len(rest) + 1
	depth := 1
	for i := range len(rest) - 1 {
		switch rest[i+1] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth == 0 {
			return token{quoted, strings.TrimSpace(rest[1 : i+1])}, n + i + 1, nil
		}
	}
	return token{}, 0, syntaxf("\\%s without an end", name)
}

// digits returns the length of the number at the beginning of s.
func digits(s string, thousands bool) int {
	run := func(i int) int {
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i
	}
	n := run(0)
	if thousands && n >= 1 && n <= 3 {
		for n < len(s) && s[n] == ',' && run(n+1) == n+4 {
			n += 4
		}
	}
	if n < len(s) && s[n] == '.' && (run(n+1) > n+1 || strings.HasPrefix(s[n+1:], `\overline`)) {
		n = run(n + 1)
	}
	return n
}

// words are written without a backslash in plain text.
var words = map[string]token{
	"sqrt": {command, "sqrt"}, "pi": {command, "pi"}, "inf": {command, "infty"}, "infinity": {command, "infty"},
	"oo": {command, "infty"}, "and": {sign, ","}, "or": {sign, ","}, "theta": {command, "theta"},
}

// splitWord makes tokens of a run of letters: a function, a word, or a product
// of variables ("xy").
func splitWord(s string) []token {
	if t, ok := words[s]; ok {
		return []token{t}
	}
	if functions[s] {
		return []token{{command, s}}
	}
	if utf8.RuneCountInString(s) > 2 {
		return []token{{word, s}}
	}
	var split []token
	for _, r := range s {
		split = append(split, token{word, string(r)})
	}
	return split
}

// decimal returns the value of digits with at most one dot.
func decimal(s string) (*big.Rat, error) {
	if strings.HasSuffix(s, ".") {
		s += "0"
	}
	v, ok := new(big.Rat).SetString(s)
	if !ok || v.Num().BitLen() > maxBits || v.Denom().BitLen() > maxBits {
		return nil, syntaxf("%q is no number", s)
	}
	return v, nil
}
