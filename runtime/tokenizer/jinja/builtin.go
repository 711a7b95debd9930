package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// maxRange bounds range(), the only thing that makes long lists of nothing.
const maxRange = 100_000

// globals are the functions that every template has.
func globals() map[string]any {
	return map[string]any{
		"range":           Func(rangeFunc),
		"dict":            Func(func(_ []any, kwargs map[string]any) (any, error) { return dictOf(kwargs), nil }),
		"namespace":       Func(func(_ []any, kwargs map[string]any) (any, error) { return &namespace{*dictOf(kwargs)}, nil }),
		"raise_exception": Func(raise),
		"strftime_now":    Func(strftime),
	}
}

// dictOf makes a dictionary of named arguments, sorted because their order is
// lost.
func dictOf(kwargs map[string]any) *Dict {
	d := NewDict()
	for _, k := range sortedKeys(kwargs) {
		d.set(k, kwargs[k])
	}
	return d
}

func rangeFunc(args []any, _ map[string]any) (any, error) {
	var n []int
	for _, a := range args {
		i, ok := integer(a)
		if !ok {
			return nil, fmt.Errorf("range takes integers, not %s", typeName(a))
		}
		n = append(n, i)
	}
	var start, stop int
	step := 1
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, errors.New("range takes one to three integers")
	}
	if step == 0 {
		return nil, errors.New("range with step 0")
	}
	list := List{}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(list) == maxRange {
			return nil, fmt.Errorf("range of more than %d numbers", maxRange)
		}
		list = append(list, i)
	}
	return list, nil
}

// raise is how templates refuse a conversation.
func raise(args []any, _ map[string]any) (any, error) {
	message := "without saying why"
	if len(args) > 0 {
		message = text(args[0])
	}
	return nil, fmt.Errorf("the chat template refuses the conversation: %s", message)
}

// strftime formats the present date as templates that state it ask for.
func strftime(args []any, _ map[string]any) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("strftime_now takes a format")
	}
	layouts := map[byte]string{
		'd': "02", 'b': "Jan", 'B': "January", 'm': "01", 'Y': "2006", 'y': "06", 'H': "15", 'M': "04", 'S': "05",
		'A': "Monday", 'a': "Mon", 'p': "PM", 'I': "03", 'j': "002",
	}
	now := time.Now().UTC()
	format := text(args[0])
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch layout, ok := layouts[format[i]]; {
		case ok:
			b.WriteString(now.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		default:
			return nil, fmt.Errorf("strftime_now does not know %%%c", format[i])
		}
	}
	return b.String(), nil
}

// parameters reads arguments that may be given by position or by name.
type parameters struct {
	args   []any
	kwargs map[string]any
}

// get returns an argument, or nil if it is absent.
func (p parameters) get(position int, name string) any {
	if v, ok := p.kwargs[name]; ok {
		return v
	}
	if position < len(p.args) {
		return p.args[position]
	}
	return nil
}

// str returns a string argument, or fallback if it is absent.
func (p parameters) str(position int, name, fallback string) string {
	if v := p.get(position, name); v != nil {
		return text(v)
	}
	return fallback
}

// integer returns an integer argument, or fallback if it is absent.
func (p parameters) integer(position int, name string, fallback int) int {
	if i, ok := integer(p.get(position, name)); ok {
		return i
	}
	return fallback
}

// method calls a method of a value; ok is false if it has none of this name.
func (r *run) method(object any, name string, args []any, kwargs map[string]any) (result any, ok bool, err error) {
	p := parameters{args, kwargs}
	switch o := object.(type) {
	case undefined:
		return nil, false, o.err()
	case string:
		if err := r.spend(len(o)); err != nil {
			return nil, false, err
		}
		f, ok := stringMethods[name]
		if !ok {
			return nil, false, nil
		}
		result, err = f(o, p)
		if s, isString := result.(string); isString && err == nil {
			err = r.spend(len(s))
		}
		return result, true, err
	case *Dict:
		return dictMethod(o, name, p)
	case List:
		return listMethod(o, name, p)
	}
	return nil, false, nil
}

func dictMethod(d *Dict, name string, p parameters) (any, bool, error) {
	switch name {
	case "get":
		if v, ok := d.values[p.str(0, "key", "")]; ok {
			return v, true, nil
		}
		return p.get(1, "default"), true, nil
	case "items":
		list := make(List, len(d.keys))
		for i, k := range d.keys {
			list[i] = List{k, d.values[k]}
		}
		return list, true, nil
	case "keys":
		return stringList(d.keys), true, nil
	case "values":
		list := make(List, len(d.keys))
		for i, k := range d.keys {
			list[i] = d.values[k]
		}
		return list, true, nil
	case "update", "pop", "clear", "setdefault", "popitem":
		return nil, false, fmt.Errorf("a template may not change a dictionary (%s)", name)
	}
	return nil, false, nil
}

func listMethod(l List, name string, p parameters) (any, bool, error) {
	switch name {
	case "index":
		for i, x := range l {
			if equal(x, p.get(0, "value")) {
				return i, true, nil
			}
		}
		return nil, true, fmt.Errorf("%s is not in the list", repr(p.get(0, "value")))
	case "count":
		n := 0
		for _, x := range l {
			if equal(x, p.get(0, "value")) {
				n++
			}
		}
		return n, true, nil
	case "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse":
		return nil, false, fmt.Errorf("a template may not change a list (%s)", name)
	}
	return nil, false, nil
}

// stringMethods are Python's, those that cannot be asked for huge results.
var stringMethods = map[string]func(s string, p parameters) (any, error){
	"strip":      func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), true, true), nil },
	"lstrip":     func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), true, false), nil },
	"rstrip":     func(s string, p parameters) (any, error) { return strip(s, p.get(0, "chars"), false, true), nil },
	"upper":      func(s string, _ parameters) (any, error) { return strings.ToUpper(s), nil },
	"lower":      func(s string, _ parameters) (any, error) { return strings.ToLower(s), nil },
	"title":      func(s string, _ parameters) (any, error) { return title(s), nil },
	"capitalize": func(s string, _ parameters) (any, error) { return capitalize(s), nil },
	"startswith": func(s string, p parameters) (any, error) { return anyOf(p.get(0, "prefix"), s, strings.HasPrefix), nil },
	"endswith":   func(s string, p parameters) (any, error) { return anyOf(p.get(0, "suffix"), s, strings.HasSuffix), nil },
	"removeprefix": func(s string, p parameters) (any, error) {
		return strings.TrimPrefix(s, p.str(0, "prefix", "")), nil
	},
	"removesuffix": func(s string, p parameters) (any, error) {
		return strings.TrimSuffix(s, p.str(0, "suffix", "")), nil
	},
	"count": func(s string, p parameters) (any, error) { return strings.Count(s, p.str(0, "sub", "")), nil },
	"find": func(s string, p parameters) (any, error) {
		return runeIndex(s, strings.Index(s, p.str(0, "sub", ""))), nil
	},
	"rfind": func(s string, p parameters) (any, error) {
		return runeIndex(s, strings.LastIndex(s, p.str(0, "sub", ""))), nil
	},
	"isdigit":   func(s string, _ parameters) (any, error) { return all(s, unicode.IsDigit), nil },
	"isnumeric": func(s string, _ parameters) (any, error) { return all(s, unicode.IsNumber), nil },
	"isalpha":   func(s string, _ parameters) (any, error) { return all(s, unicode.IsLetter), nil },
	"isspace":   func(s string, _ parameters) (any, error) { return all(s, unicode.IsSpace), nil },
	"isupper": func(s string, _ parameters) (any, error) {
		return s != strings.ToLower(s) && s == strings.ToUpper(s), nil
	},
	"islower": func(s string, _ parameters) (any, error) {
		return s != strings.ToUpper(s) && s == strings.ToLower(s), nil
	},
	"replace":    replaceMethod,
	"split":      func(s string, p parameters) (any, error) { return split(s, p, false) },
	"rsplit":     func(s string, p parameters) (any, error) { return split(s, p, true) },
	"splitlines": func(s string, _ parameters) (any, error) { return splitLines(s), nil },
	"partition": func(s string, p parameters) (any, error) {
		before, after, found := strings.Cut(s, p.str(0, "sep", " "))
		if !found {
			return List{s, "", ""}, nil
		}
		return List{before, p.str(0, "sep", " "), after}, nil
	},
	"join": func(s string, p parameters) (any, error) {
		list, err := items(p.get(0, "iterable"))
		return joinTexts(list, s), err
	},
}

func strip(s string, chars any, left, right bool) string {
	drop := unicode.IsSpace
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

// anyOf tests a string against one affix or any of several.
func anyOf(affixes any, s string, has func(s, affix string) bool) bool {
	list, ok := affixes.(List)
	if !ok {
		list = List{affixes}
	}
	for _, a := range list {
		if affix, ok := a.(string); ok && has(s, affix) {
			return true
		}
	}
	return false
}

// runeIndex turns a byte offset into Python's index.
func runeIndex(s string, at int) int {
	if at < 0 {
		return -1
	}
	return len([]rune(s[:at]))
}

func all(s string, is func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0
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

func replaceMethod(s string, p parameters) (any, error) {
	before, ok := p.get(0, "old").(string)
	after, ok2 := p.get(1, "new").(string)
	if !ok || !ok2 {
		return nil, errors.New("replace takes two strings")
	}
	n := p.integer(2, "count", -1)
	if count := strings.Count(s, before); (n < 0 || n > count) && len(after) > len(before) && count*len(after) > 64<<20 {
		return nil, errBudget
	}
	return strings.Replace(s, before, after, n), nil
}

func split(s string, p parameters, fromRight bool) (any, error) {
	n := p.integer(1, "maxsplit", -1)
	sep := p.get(0, "sep")
	if sep == nil {
		if n >= 0 {
			return nil, errors.New("split at white space takes no maxsplit here")
		}
		return stringList(strings.Fields(s)), nil
	}
	at := text(sep)
	if at == "" {
		return nil, errors.New("split takes no empty separator")
	}
	if n < 0 {
		return stringList(strings.Split(s, at)), nil
	}
	if !fromRight {
		return stringList(strings.SplitN(s, at, n+1)), nil
	}
	var tail []string
	for ; n > 0; n-- {
		i := strings.LastIndex(s, at)
		if i < 0 {
			break
		}
		tail = append([]string{s[i+len(at):]}, tail...)
		s = s[:i]
	}
	return stringList(append([]string{s}, tail...)), nil
}

func splitLines(s string) List {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	if s == "" {
		return List{}
	}
	return stringList(strings.Split(strings.TrimSuffix(s, "\n"), "\n"))
}
