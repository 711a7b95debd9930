package jinja

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// toJSON is Python's json.dumps, as Hugging Face has it: without ASCII's escapes.
func toJSON(r *run, v any, p parameters) (any, error) {
	w := &jsonWriter{r: r, indent: -1, comma: ", ", colon: ": ", ascii: truth(p.get(0, "ensure_ascii")), sorted: truth(p.get(3, "sort_keys"))}
	switch indent := p.get(1, "indent").(type) {
	case int:
		w.indent = min(max(indent, 0), maxWidth)
		w.fill = strings.Repeat(" ", w.indent)
	case string:
		w.indent, w.fill = len(indent), indent
	}
	if w.indent >= 0 {
		w.comma = ","
	}
	if separators, ok := sequence(p.get(2, "separators")); ok && len(separators) == 2 {
		w.comma, w.colon = text(separators[0]), text(separators[1])
	}
	if err := w.write(v, 0); err != nil {
		return nil, err
	}
	return w.b.String(), nil
}

// jsonWriter writes values within the budget of a run.
type jsonWriter struct {
	r             *run
	b             strings.Builder
	indent        int // -1 for all in one line.
	fill          string
	comma, colon  string
	ascii, sorted bool
}

// put writes text and pays for it.
func (w *jsonWriter) put(s string) error {
	w.b.WriteString(s)
	return w.r.spend(len(s))
}

// line begins a line, if there are any.
func (w *jsonWriter) line(depth int) error {
	if w.indent < 0 {
		return nil
	}
	if err := w.r.spend(len(w.fill)*depth + 1); err != nil {
		return err
	}
	w.b.WriteString("\n" + strings.Repeat(w.fill, depth))
	return nil
}

func (w *jsonWriter) write(v any, depth int) error {
	if depth > maxNested {
		return fmt.Errorf("value is nested deeper than %d", maxNested)
	}
	switch v := v.(type) {
	case nil:
		return w.put("null")
	case bool:
		return w.put(strconv.FormatBool(v))
	case int:
		return w.put(strconv.Itoa(v))
	case float64:
		return w.put(jsonFloat(v))
	case string:
		return w.str(v)
	case *Dict:
		keys := v.keys
		if w.sorted {
			var err error
			if keys, err = w.r.sorted(keys, func(x any) (any, error) { return x, nil }, false); err != nil {
				return err
			}
		}
		return w.members("{", "}", len(keys), depth, func(i int) error {
			if err := w.key(keys[i]); err != nil {
				return err
			}
			value, _ := v.get(keys[i])
			return w.write(value, depth+1)
		})
	}
	list, ok := sequence(v)
	if !ok {
		return fmt.Errorf("%s has no JSON", typeName(v))
	}
	return w.members("[", "]", len(list), depth, func(i int) error { return w.write(list[i], depth+1) })
}

// members writes what is between brackets.
func (w *jsonWriter) members(open, end string, n, depth int, member func(i int) error) error {
	if n == 0 {
		return w.put(open + end)
	}
	if err := w.put(open); err != nil {
		return err
	}
	for i := range n {
		if i > 0 {
			if err := w.put(w.comma); err != nil {
				return err
			}
		}
		if err := w.line(depth + 1); err != nil {
			return err
		}
		if err := member(i); err != nil {
			return err
		}
	}
	if err := w.line(depth); err != nil {
		return err
	}
	return w.put(end)
}

// key writes a key: what is no string is spelled as one.
func (w *jsonWriter) key(k any) error {
	spelled, ok := k.(string)
	if !ok {
		switch k := k.(type) {
		case nil:
			spelled = "null"
		case bool:
			spelled = strconv.FormatBool(k)
		case int:
			spelled = strconv.Itoa(k)
		case float64:
			spelled = jsonFloat(k)
		default:
			return fmt.Errorf("a key of JSON cannot be a %s", typeName(k))
		}
	}
	if err := w.str(spelled); err != nil {
		return err
	}
	return w.put(w.colon)
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatText(f)
}

func (w *jsonWriter) str(s string) error {
	if err := w.r.spend(len(s)); err != nil {
		return err
	}
	var one strings.Builder
	if err := writeJSONString(&one, s); err != nil {
		return err
	}
	if !w.ascii {
		w.b.WriteString(one.String())
		return nil
	}
	for _, r := range one.String() {
		switch {
		case r < utf8.RuneSelf:
			w.b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&w.b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&w.b, `\u%04x`, r)
		}
	}
	return nil
}

func writeJSONString(b *strings.Builder, s string) error {
	var one strings.Builder
	e := json.NewEncoder(&one)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return err
	}
	// Python leaves these two as they are.
	b.WriteString(strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(strings.TrimSuffix(one.String(), "\n")))
	return nil
}
