package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxRange bounds range(), the only thing that makes long lists of nothing.
const maxRange = 100_000

// globals are the functions that every template has.
func globals() map[string]any {
	return map[string]any{
		"range":           Func(rangeFunc),
		"dict":            Func(func(args []any, kwargs *Dict) (any, error) { return dictOf("dict", args, kwargs) }),
		"namespace":       Func(namespaceFunc),
		"cycler":          Func(cyclerFunc),
		"joiner":          Func(joinerFunc),
		"raise_exception": Func(raise),
		"strftime_now":    Func(strftime),
	}
}

// dictOf makes a dictionary of another one or of pairs, and of named arguments.
func dictOf(function string, args []any, kwargs *Dict) (*Dict, error) {
	if len(args) > 1 {
		return nil, fmt.Errorf("%s takes at most one positional argument", function)
	}
	d := NewDict()
	if len(args) == 1 {
		pairs, err := pairsOf(args[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", function, err)
		}
		for _, p := range pairs {
			pair, ok := sequence(p)
			if !ok || len(pair) != 2 {
				return nil, fmt.Errorf("%s takes a dictionary or pairs", function)
			}
			if err := d.put(pair[0], pair[1]); err != nil {
				return nil, err
			}
		}
	}
	if kwargs == nil {
		return d, nil
	}
	for _, k := range kwargs.keys {
		v, _ := kwargs.get(k)
		if err := d.put(k, v); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// pairsOf lists the pairs of a dictionary or of what is a list of them.
func pairsOf(v any) (List, error) {
	if d, ok := v.(*Dict); ok {
		return d.pairs(), nil
	}
	return items(v)
}

func namespaceFunc(args []any, kwargs *Dict) (any, error) {
	d, err := dictOf("namespace", args, kwargs)
	if err != nil {
		return nil, err
	}
	return &namespace{*d}, nil
}

// cycler gives its items in turn.
type cycler struct {
	items []any
	at    int
}

func cyclerFunc(args []any, _ *Dict) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("cycler takes at least one item")
	}
	return &cycler{items: args}, nil
}

func (c *cycler) attribute(name string) (any, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "next":
		return Func(func([]any, *Dict) (any, error) {
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v, nil
		}), true
	case "reset":
		return Func(func([]any, *Dict) (any, error) {
			c.at = 0
			return nil, nil
		}), true
	}
	return nil, false
}

// joinerFunc makes a function that gives nothing the first time and a separator from
// then on.
func joinerFunc(args []any, kwargs *Dict) (any, error) {
	var sep any = ", "
	if v, ok := kwargs.get("sep"); ok {
		sep = v
	} else if len(args) > 0 {
		sep = args[0]
	}
	used := false
	return Func(func([]any, *Dict) (any, error) {
		if !used {
			used = true
			return "", nil
		}
		return sep, nil
	}), nil
}

func rangeFunc(args []any, _ *Dict) (any, error) {
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
	for i := start; step > 0 && i < stop || step < 0 && i > stop; {
		if len(list) == maxRange {
			return nil, fmt.Errorf("range of more than %d numbers", maxRange)
		}
		list = append(list, i)
		next := i + step
		if (next > i) != (step > 0) { // It overflowed.
			break
		}
		i = next
	}
	return list, nil
}

// raise is how templates refuse a conversation.
func raise(args []any, _ *Dict) (any, error) {
	message := "without saying why"
	if len(args) > 0 {
		message = "it gives no text"
		if s, ok := args[0].(string); ok {
			message = s
		}
	}
	return nil, fmt.Errorf("the chat template refuses the conversation: %s", message)
}

// timeLayouts are strftime's conversions.
var timeLayouts = map[byte]string{
	'd': "02", 'e': "_2", 'b': "Jan", 'h': "Jan", 'B': "January", 'm': "01", 'Y': "2006", 'y': "06", 'H': "15", 'M': "04",
	'S': "05", 'A': "Monday", 'a': "Mon", 'p': "PM", 'I': "03", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05",
	'D': "01/02/06", 'R': "15:04", 'Z': "", 'z': "",
}

// strftime formats the present date as templates that state it ask for.
func strftime(args []any, _ *Dict) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("strftime_now takes a format")
	}
	format, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("strftime_now takes a string, not %s", typeName(args[0]))
	}
	return formatTime(time.Now().UTC(), format)
}

func formatTime(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		bare := format[i] == '-' && i+1 < len(format) // Without zeros before it.
		if bare {
			i++
		}
		switch layout, ok := timeLayouts[format[i]]; {
		case ok && bare:
			b.WriteString(strings.TrimLeft(t.Format(layout), "0 "))
		case ok:
			b.WriteString(t.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		default:
			return "", fmt.Errorf("strftime_now does not know %%%c", format[i])
		}
	}
	return b.String(), nil
}

// parameters reads arguments that may be given by position or by name.
type parameters struct {
	r      *run
	args   []any
	kwargs *Dict
}

// has reports whether an argument is given, be it none.
func (p parameters) has(position int, name string) bool {
	_, named := p.kwargs.get(name)
	return named || position < len(p.args)
}

// get returns an argument, or nil if it is absent.
func (p parameters) get(position int, name string) any {
	if v, ok := p.kwargs.get(name); ok {
		return v
	}
	if position < len(p.args) {
		return p.args[position]
	}
	return nil
}

// str returns a string argument, or fallback if it is absent.
func (p parameters) str(position int, name, fallback string) string {
	v := p.get(position, name)
	if v == nil {
		return fallback
	}
	s, err := p.r.text(v)
	if err != nil { // The budget is used up, which whatever comes next says.
		return fallback
	}
	return s
}

// integer returns an integer argument, or fallback if it is absent.
func (p parameters) integer(position int, name string, fallback int) int {
	if i, ok := integer(p.get(position, name)); ok {
		return i
	}
	return fallback
}
