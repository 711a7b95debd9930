package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// method calls a method of a value; ok is false if it has none of this name.
func (r *run) method(object any, name string, args []any, kwargs *Dict) (result any, ok bool, err error) {
	if changes(object, name) {
		return nil, false, fmt.Errorf("a template may not change a %s (%s)", typeName(object), name)
	}
	p := parameters{r, args, kwargs}
	switch o := object.(type) {
	case undefined:
		return nil, false, o.err()
	case string:
		f, ok := stringMethods[name]
		if !ok {
			return nil, false, nil
		}
		if err := r.spend(len(o)); err != nil {
			return nil, false, err
		}
		result, err = f(o, p)
		if s, isString := result.(string); isString && err == nil {
			err = r.spend(len(s))
		}
		if list, isList := result.(List); isList && err == nil {
			err = r.spend(len(list))
		}
		return result, true, err
	case *Dict:
		return dictMethod(o, name, p)
	case List, Tuple:
		list, _ := sequence(o)
		return listMethod(list, name, p)
	}
	return nil, false, nil
}

// hasMethod reports whether a value has a method of this name.
func hasMethod(object any, name string) bool {
	switch object.(type) {
	case string:
		return stringMethods[name] != nil
	case *Dict:
		switch name {
		case "get", "items", "keys", "values", "copy":
			return true
		}
	case Tuple:
		return name == "index" || name == "count"
	case List:
		return name == "index" || name == "count" || name == "copy"
	}
	return false
}

// changes reports whether a method would change a value, which no template may.
func changes(object any, name string) bool {
	switch object.(type) {
	case *Dict:
		switch name {
		case "update", "pop", "clear", "setdefault", "popitem":
			return true
		}
	case List:
		switch name {
		case "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse":
			return true
		}
	}
	return false
}

func dictMethod(d *Dict, name string, p parameters) (any, bool, error) {
	switch name {
	case "get":
		if v, ok := d.get(p.get(0, "key")); ok {
			return v, true, nil
		}
		return p.get(1, "default"), true, nil
	case "items":
		return d.pairs(), true, p.r.spend(d.len())
	case "keys":
		return List(d.keys), true, nil
	case "values":
		list := make(List, len(d.keys))
		for i, k := range d.keys {
			list[i], _ = d.get(k)
		}
		return list, true, p.r.spend(d.len())
	case "copy":
		return d, true, nil // It cannot be changed, so that it is its own copy.
	}
	return nil, false, nil
}

func listMethod(l List, name string, p parameters) (any, bool, error) {
	switch name {
	case "index":
		at, err := p.r.index(l, p.get(0, "value"))
		if err == nil && at < 0 {
			err = errors.New("the value is not in the list")
		}
		return at, true, err
	case "count":
		n := 0
		if err := p.r.spend(len(l)); err != nil {
			return nil, true, err
		}
		for _, x := range l {
			same, err := p.r.equal(x, p.get(0, "value"))
			if err != nil {
				return nil, true, err
			}
			if same {
				n++
			}
		}
		return n, true, nil
	case "copy":
		return l, true, nil
	}
	return nil, false, nil
}

type stringMethod func(s string, p parameters) (any, error)

// stringMethods are Python's. They are filled in by init because format looks methods
// up, so that an initialiser would refer to itself.
var stringMethods map[string]stringMethod

func init() {
	stringMethods = map[string]stringMethod{
		"strip":      func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), true, true), nil },
		"lstrip":     func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), true, false), nil },
		"rstrip":     func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), false, true), nil },
		"upper":      plain(strings.ToUpper),
		"lower":      plain(strings.ToLower),
		"casefold":   plain(strings.ToLower),
		"title":      plain(title),
		"capitalize": plain(capitalize),
		"swapcase":   plain(swapCase),
		"startswith": affix(strings.HasPrefix),
		"endswith":   affix(strings.HasSuffix),
		"removeprefix": func(s string, p parameters) (any, error) {
			return strings.TrimPrefix(s, p.str(0, "prefix", "")), nil
		},
		"removesuffix": func(s string, p parameters) (any, error) {
			return strings.TrimSuffix(s, p.str(0, "suffix", "")), nil
		},
		"count": func(s string, p parameters) (any, error) {
			part, _ := p.part(s)
			return strings.Count(part, p.str(0, "sub", "")), nil
		},
		"find":      finder(strings.Index, false),
		"rfind":     finder(strings.LastIndex, false),
		"index":     finder(strings.Index, true),
		"rindex":    finder(strings.LastIndex, true),
		"isdigit":   isAll(unicode.IsDigit),
		"isdecimal": isAll(unicode.IsDigit),
		"isnumeric": isAll(unicode.IsNumber),
		"isalpha":   isAll(unicode.IsLetter),
		"isalnum":   isAll(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isspace":   isAll(isSpace),
		"isascii": func(s string, _ parameters) (any, error) {
			return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0, nil
		},
		"isupper":    func(s string, _ parameters) (any, error) { return isUpper(s), nil },
		"islower":    func(s string, _ parameters) (any, error) { return isLower(s), nil },
		"replace":    replaceMethod,
		"split":      func(s string, p parameters) (any, error) { return split(s, p, false) },
		"rsplit":     func(s string, p parameters) (any, error) { return split(s, p, true) },
		"splitlines": func(s string, p parameters) (any, error) { return splitLines(s, truth(p.get(0, "keepends"))), nil },
		"partition":  partition(strings.Index, false),
		"rpartition": partition(strings.LastIndex, true),
		"join":       joinMethod,
		"zfill":      zfill,
		"ljust":      func(s string, p parameters) (any, error) { return pad(s, p, 0) },
		"rjust":      func(s string, p parameters) (any, error) { return pad(s, p, 2) },
		"center":     func(s string, p parameters) (any, error) { return pad(s, p, 1) },
		"expandtabs": expandTabs,
		"format":     formatMethod,
	}
}

func plain(f func(string) string) stringMethod {
	return func(s string, _ parameters) (any, error) { return f(s), nil }
}

func isAll(is func(rune) bool) stringMethod {
	return func(s string, _ parameters) (any, error) {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0, nil
	}
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func isUpper(s string) bool { return s != strings.ToLower(s) && s == strings.ToUpper(s) }

func isLower(s string) bool { return s != strings.ToUpper(s) && s == strings.ToLower(s) }

func strip(s string, chars any, left, right bool) string {
	drop := isSpace
	if chars != nil {
		set := text(chars)
		drop = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, drop)
	}
	if right {
		s = strings.TrimRightFunc(s, drop)
	}
	return s
}

// part returns the text that the arguments start and end, the second and the third,
// leave, and how many characters are before it.
func (p parameters) part(s string) (part string, before int) {
	if !p.has(1, "start") && !p.has(2, "end") {
		return s, 0
	}
	runes := []rune(s)
	bound := func(v any, otherwise int) int {
		i, ok := integer(v)
		if !ok {
			return otherwise
		}
		if i < 0 {
			i += len(runes)
		}
		return min(max(i, 0), len(runes))
	}
	from, to := bound(p.get(1, "start"), 0), bound(p.get(2, "end"), len(runes))
	return string(runes[from:max(from, to)]), from
}

// affix tests a string against one affix or any of several.
func affix(has func(s, affix string) bool) stringMethod {
	return func(s string, p parameters) (any, error) {
		part, _ := p.part(s)
		list := List{p.get(0, "prefix")}
		if several, ok := p.get(0, "prefix").(Tuple); ok {
			list = List(several)
		}
		for _, a := range list {
			one, ok := a.(string)
			if !ok {
				return nil, fmt.Errorf("the first argument must be a string or a tuple of strings, not %s", typeName(a))
			}
			if has(part, one) {
				return true, nil
			}
		}
		return false, nil
	}
}

// finder gives the index of a part in characters; where there is none, -1 or an error.
func finder(index func(s, sub string) int, must bool) stringMethod {
	return func(s string, p parameters) (any, error) {
		part, before := p.part(s)
		at := index(part, p.str(0, "sub", ""))
		switch {
		case at >= 0:
			return before + utf8.RuneCountInString(part[:at]), nil
		case must:
			return nil, errors.New("substring not found")
		}
		return -1, nil
	}
}

func capitalize(s string) string {
	for i, r := range s {
		return string(unicode.ToUpper(r)) + strings.ToLower(s[i+len(string(r)):])
	}
	return s
}

// title capitalises each run of letters.
func title(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) {
			inWord = false
			return r
		}
		if inWord {
			return unicode.ToLower(r)
		}
		inWord = true
		return unicode.ToUpper(r)
	}, s)
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

func replaceMethod(s string, p parameters) (any, error) {
	before, ok := p.get(0, "old").(string)
	after, ok2 := p.get(1, "new").(string)
	if !ok || !ok2 {
		return nil, errors.New("replace takes two strings")
	}
	n := p.integer(2, "count", -1)
	count := strings.Count(s, before)
	if n >= 0 {
		count = min(count, n)
	}
	if grow := len(after) - len(before); grow > 0 && count > p.r.budget/grow {
		return nil, p.r.spend(p.r.budget + 1)
	}
	return strings.Replace(s, before, after, n), nil
}

func split(s string, p parameters, fromRight bool) (any, error) {
	n := p.integer(1, "maxsplit", -1)
	sep := p.get(0, "sep")
	if sep == nil {
		return stringList(splitSpace(s, n, fromRight)), nil
	}
	at, ok := sep.(string)
	switch {
	case !ok:
		return nil, fmt.Errorf("split takes a string, not %s", typeName(sep))
	case at == "":
		return nil, errors.New("split takes no empty separator")
	case n < 0:
		return stringList(strings.Split(s, at)), nil
	case !fromRight:
		return stringList(strings.SplitN(s, at, min(n, len(s))+1)), nil
	}
	parts := strings.Split(s, at)
	if len(parts) > n+1 {
		head := len(parts) - n
		parts = append([]string{strings.Join(parts[:head], at)}, parts[head:]...)
	}
	return stringList(parts), nil
}

// splitSpace splits at runs of white space, n times at most.
func splitSpace(s string, n int, fromRight bool) []string {
	if n < 0 {
		return strings.FieldsFunc(s, isSpace)
	}
	var parts []string
	for s = strip(s, nil, !fromRight, fromRight); s != "" && len(parts) < n; {
		if fromRight {
			at := strings.LastIndexFunc(s, isSpace)
			_, size := utf8.DecodeRuneInString(s[max(at, 0):])
			if at < 0 {
				break
			}
			parts = append(parts, s[at+size:])
			s = strip(s[:at], nil, false, true)
			continue
		}
		at := strings.IndexFunc(s, isSpace)
		if at < 0 {
			break
		}
		parts = append(parts, s[:at])
		s = strip(s[at:], nil, true, false)
	}
	if s != "" {
		parts = append(parts, s)
	}
	if fromRight {
		slices.Reverse(parts)
	}
	return parts
}

// splitLines splits where Python ends a line.
func splitLines(s string, keep bool) List {
	list := List{}
	begin := 0
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch r {
		case '\n', '\v', '\f', '\r', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
		default:
			i += size
			continue
		}
		end := i + size
		if r == '\r' && strings.HasPrefix(s[end:], "\n") {
			end++
		}
		if keep {
			list = append(list, s[begin:end])
		} else {
			list = append(list, s[begin:i])
		}
		begin, i = end, end
	}
	if begin < len(s) {
		list = append(list, s[begin:])
	}
	return list
}

func partition(index func(s, sep string) int, last bool) stringMethod {
	return func(s string, p parameters) (any, error) {
		sep, ok := p.get(0, "sep").(string)
		if !ok || sep == "" {
			return nil, errors.New("partition takes a separator")
		}
		switch at := index(s, sep); {
		case at >= 0:
			return Tuple{s[:at], sep, s[at+len(sep):]}, nil
		case last:
			return Tuple{"", "", s}, nil
		}
		return Tuple{s, "", ""}, nil
	}
}

func joinMethod(s string, p parameters) (any, error) {
	list, err := items(p.get(0, "iterable"))
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		if _, ok := x.(string); !ok {
			return nil, fmt.Errorf("join takes strings, not %s", typeName(x))
		}
	}
	return p.r.joinTexts(list, s)
}

func zfill(s string, p parameters) (any, error) {
	n := p.integer(0, "width", 0) - utf8.RuneCountInString(s)
	if n <= 0 {
		return s, nil
	}
	if err := p.r.spend(n); err != nil {
		return nil, err
	}
	zeros := strings.Repeat("0", n)
	if s != "" && (s[0] == '+' || s[0] == '-') {
		return s[:1] + zeros + s[1:], nil
	}
	return zeros + s, nil
}

// pad fills a string up to a width; left is how many halves of the filling go before.
func pad(s string, p parameters, left int) (any, error) {
	width := p.integer(0, "width", 0)
	n := width - utf8.RuneCountInString(s)
	fill := p.str(1, "fillchar", " ")
	if utf8.RuneCountInString(fill) != 1 {
		return nil, errors.New("the fill character must be one character")
	}
	if n <= 0 {
		return s, nil
	}
	if err := p.r.spend(n); err != nil {
		return nil, err
	}
	before := n * left / 2
	if left == 1 { // Python puts the odd one on the left of an odd width.
		before = n/2 + n&width&1
	}
	return strings.Repeat(fill, before) + s + strings.Repeat(fill, n-before), nil
}

func expandTabs(s string, p parameters) (any, error) {
	size := p.integer(0, "tabsize", 8)
	if n := strings.Count(s, "\t"); n > 0 && size > p.r.budget/n {
		return nil, p.r.spend(p.r.budget + 1)
	}
	var b strings.Builder
	column := 0
	for _, r := range s {
		switch r {
		case '\t':
			if size > 0 {
				n := size - column%size
				b.WriteString(strings.Repeat(" ", n))
				column += n
			}
			continue
		case '\n', '\r':
			column = -1
		}
		b.WriteRune(r)
		column++
	}
	return b.String(), nil
}
