package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// spec is how a value is formatted: the common part of "%-5d" and "{:<5d}".
type spec struct {
	fill      string
	align     byte // '<', '>', '^' or '=', 0 for the type's own.
	sign      byte // '+', '-' or ' '.
	alternate bool
	zero      bool
	comma     bool
	width     int
	precision int // -1 for none.
	verb      byte
}

// maxWidth bounds widths and precisions.
const maxWidth = 10_000

// percent is Python's format % values.
func (r *run) percent(format string, values any) (string, error) {
	args, isTuple := values.(Tuple)
	if !isTuple {
		args = Tuple{values}
	}
	named, _ := values.(*Dict)
	var b strings.Builder
	used := 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		name, hasName := "", false
		if i < len(format) && format[i] == '(' {
			end := strings.IndexByte(format[i:], ')')
			if end < 0 {
				return "", errors.New("incomplete format key")
			}
			name, hasName = format[i+1:i+end], true
			i += end + 1
		}
		s, n, err := parsePercent(format[i:])
		if err != nil {
			return "", err
		}
		i += n - 1
		if s.verb == '%' {
			b.WriteByte('%')
			continue
		}
		var v any
		switch {
		case hasName:
			var ok bool
			if v, ok = named.get(name); !ok {
				return "", fmt.Errorf("the format's key %q is not there", name)
			}
		case used < len(args):
			v = args[used]
			used++
		default:
			return "", errors.New("not enough arguments for format string")
		}
		out, err := r.format(v, s, true)
		if err != nil {
			return "", err
		}
		b.WriteString(out)
		if err := r.spend(len(out)); err != nil {
			return "", err
		}
	}
	if used < len(args) && named == nil {
		return "", errors.New("not all arguments converted during string formatting")
	}
	return b.String(), nil
}

// parsePercent reads what follows "%" and returns how many bytes it has.
func parsePercent(f string) (spec, int, error) {
	s := spec{fill: " ", precision: -1, align: '>'}
	i := 0
flags:
	for ; i < len(f); i++ {
		switch f[i] {
		case '-':
			s.align = '<'
		case '+', ' ':
			s.sign = f[i]
		case '0':
			s.zero = true
		case '#':
			s.alternate = true
		default:
			break flags
		}
	}
	var err error
	if s.width, i, err = digits(f, i); err != nil {
		return s, i, err
	}
	if i < len(f) && f[i] == '.' {
		if s.precision, i, err = digits(f, i+1); err != nil {
			return s, i, err
		}
	}
	if i == len(f) {
		return s, i, errors.New("incomplete format")
	}
	if s.verb = f[i]; !strings.ContainsRune("sdiurxXofFeEgGc%", rune(s.verb)) {
		return s, i, fmt.Errorf("unsupported format character %q", s.verb)
	}
	if s.zero && s.align == '>' && s.verb != 's' && s.verb != 'r' && s.verb != 'c' {
		s.fill, s.align = "0", '='
	}
	return s, i + 1, nil
}

// digits reads a number of at most maxWidth.
func digits(f string, i int) (n, end int, err error) {
	for ; i < len(f) && f[i] >= '0' && f[i] <= '9'; i++ {
		if n = n*10 + int(f[i]-'0'); n > maxWidth {
			return 0, i, fmt.Errorf("a width of more than %d", maxWidth)
		}
	}
	return n, i, nil
}

// formatMethod is Python's "{} {0} {name}".format, with the attributes and items that
// templates may read.
func formatMethod(s string, p parameters) (any, error) {
	var b strings.Builder
	next := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			b.WriteByte(c)
			i++
		case c == '}':
			return nil, errors.New("single '}' encountered in format string")
		case c != '{':
			b.WriteByte(c)
		default:
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return nil, errors.New("expected '}' before end of string")
			}
			out, err := p.field(s[i+1:i+end], &next)
			if err != nil {
				return nil, err
			}
			b.WriteString(out)
			if err := p.r.spend(len(out)); err != nil {
				return nil, err
			}
			i += end
		}
	}
	return b.String(), nil
}

// field formats one replacement field; next is the index of the next one without.
func (p parameters) field(field string, next *int) (string, error) {
	if strings.ContainsAny(field, "{[") {
		return "", fmt.Errorf("the format field {%s} is not supported", field)
	}
	field, format, _ := strings.Cut(field, ":")
	field, conversion, _ := strings.Cut(field, "!")
	name, path, _ := strings.Cut(field, ".")
	v, err := p.argument(name, next)
	if err != nil {
		return "", err
	}
	for part := range strings.SplitSeq(path, ".") {
		if path == "" {
			break
		}
		if v, err = p.r.attribute(v, part); err != nil {
			return "", err
		}
	}
	switch conversion {
	case "":
	case "r":
		if err := p.r.walk(v); err != nil {
			return "", err
		}
		v = repr(v)
	case "s":
		if v, err = p.r.text(v); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("the conversion !%s is not supported", conversion)
	}
	s, err := parseSpec(format)
	if err != nil {
		return "", err
	}
	return p.r.format(v, s, false)
}

// argument returns what a field names.
func (p parameters) argument(name string, next *int) (any, error) {
	at, err := strconv.Atoi(name)
	if name == "" {
		at, err = *next, nil
		*next++
	}
	if err != nil {
		v, ok := p.kwargs.get(name)
		if !ok {
			return nil, fmt.Errorf("the format's field %q is not given", name)
		}
		return v, nil
	}
	if at < 0 || at >= len(p.args) {
		return nil, fmt.Errorf("replacement index %d out of range", at)
	}
	return p.args[at], nil
}

// parseSpec reads [[fill]align][sign][#][0][width][,][.precision][type].
func parseSpec(f string) (spec, error) {
	s := spec{fill: " ", precision: -1}
	_, n := utf8.DecodeRuneInString(f)
	isAlign := func(at int) bool { return at < len(f) && strings.IndexByte("<>^=", f[at]) >= 0 }
	i := 0
	switch {
	case n > 0 && isAlign(n):
		s.fill, s.align, i = f[:n], f[n], n+1
	case isAlign(0):
		s.align, i = f[0], 1
	}
	if i < len(f) && strings.IndexByte("+- ", f[i]) >= 0 {
		s.sign = f[i]
		i++
	}
	if i < len(f) && f[i] == '#' {
		s.alternate = true
		i++
	}
	if i < len(f) && f[i] == '0' {
		s.zero = true
		if s.align == 0 {
			s.fill, s.align = "0", '='
		}
		i++
	}
	var err error
	if s.width, i, err = digits(f, i); err != nil {
		return s, err
	}
	if i < len(f) && f[i] == ',' {
		s.comma = true
		i++
	}
	if i < len(f) && f[i] == '.' {
		if s.precision, i, err = digits(f, i+1); err != nil {
			return s, err
		}
	}
	if i < len(f) {
		s.verb = f[i]
		i++
	}
	if i < len(f) || s.verb != 0 && strings.IndexByte("sdxXobcfFeEgG%", s.verb) < 0 {
		return s, fmt.Errorf("the format specification %q is not supported", f)
	}
	return s, nil
}

// format formats one value; percent says that it is for the operator, which converts
// where the method refuses.
func (r *run) format(v any, s spec, percent bool) (string, error) {
	_, isNumber := number(v)
	_, isBool := v.(bool)
	if s.verb == 0 {
		s.verb = 's'
		if _, isInt := v.(int); isInt {
			s.verb = 'd'
		} else if _, isFloat := v.(float64); isFloat && s.precision >= 0 {
			s.verb = 'g'
		}
	}
	if s.align == 0 {
		s.align = '<'
		if isNumber && !isBool {
			s.align = '>'
		}
	}
	var body, sign string
	switch s.verb {
	case 's', 'r':
		if !percent && s.verb == 's' && isNumber && !isBool && s.width+s.precision > -1 {
			if _, isFloat := v.(float64); !isFloat {
				return "", fmt.Errorf("unknown format code 's' for a number")
			}
		}
		if err := r.walk(v); err != nil {
			return "", err
		}
		if body = text(v); s.verb == 'r' {
			body = repr(v)
		}
		if runes := []rune(body); s.precision >= 0 && s.precision < len(runes) {
			body = string(runes[:s.precision])
		}
	case 'c':
		if str, ok := v.(string); ok && percent && utf8.RuneCountInString(str) == 1 {
			body = str
		} else if i, ok := integer(v); ok && i >= 0 && i <= utf8.MaxRune {
			body = string(rune(i))
		} else {
			return "", errors.New("%c needs a character")
		}
	default:
		if !isNumber {
			return "", fmt.Errorf("a number is needed for the format %q, not %s", s.verb, typeName(v))
		}
		var err error
		if body, err = formatNumber(v, s, percent); err != nil {
			return "", err
		}
		if strings.HasPrefix(body, "-") {
			sign, body = "-", body[1:]
		} else if s.sign == '+' || s.sign == ' ' {
			sign = string(s.sign)
		}
	}
	return justify(sign, body, s), nil
}

func justify(sign, body string, s spec) string {
	n := s.width - utf8.RuneCountInString(sign+body)
	if n <= 0 {
		return sign + body
	}
	switch s.align {
	case '<':
		return sign + body + strings.Repeat(s.fill, n)
	case '^':
		return strings.Repeat(s.fill, n/2) + sign + body + strings.Repeat(s.fill, n-n/2)
	case '=':
		return sign + strings.Repeat(s.fill, n) + body
	}
	return strings.Repeat(s.fill, n) + sign + body
}

func formatNumber(v any, s spec, percent bool) (string, error) {
	f, _ := number(v)
	i, isInt := integer(v)
	base := map[byte]int{'d': 10, 'i': 10, 'u': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[s.verb]
	if base != 0 {
		if !isInt {
			if !percent || base != 10 || math.IsNaN(f) || f > 1<<62 || f < -1<<62 {
				return "", fmt.Errorf("an integer is needed for the format %q, not %s", s.verb, typeName(v))
			}
			i = int(f)
		}
		out := strconv.FormatInt(int64(i), base)
		if s.alternate && base != 10 {
			prefix := map[int]string{16: "0x", 8: "0o", 2: "0b"}[base]
			out = strings.Replace(prefix+out, prefix+"-", "-"+prefix, 1)
		}
		if s.verb == 'X' {
			out = strings.ToUpper(out)
		}
		return thousands(out, s), nil
	}
	precision := s.precision
	if precision < 0 {
		precision = 6
	}
	switch s.verb {
	case 'g', 'G':
		out := strconv.FormatFloat(f, s.verb, max(precision, 1), 64)
		if s.verb == 'G' {
			out = strings.ToUpper(out)
		}
		return out, nil
	case '%':
		return thousands(strconv.FormatFloat(f*100, 'f', precision, 64), s) + "%", nil
	case 'F':
		s.verb = 'f'
	}
	return thousands(strconv.FormatFloat(f, s.verb, precision, 64), s), nil
}

// thousands puts commas in, if they are asked for.
func thousands(out string, s spec) string {
	if !s.comma {
		return out
	}
	sign := ""
	if strings.HasPrefix(out, "-") {
		sign, out = "-", out[1:]
	}
	whole, fraction, point := strings.Cut(out, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + fraction
	}
	return sign + whole
}
