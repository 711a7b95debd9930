package jinja

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// toJSON is Python's json.dumps(ensure_ascii=False), as Hugging Face has it.
func toJSON(_ *run, v any, p parameters) (any, error) {
	indent := p.integer(0, "indent", -1)
	var b strings.Builder
	if err := writeJSON(&b, v, indent, 0); err != nil {
		return nil, err
	}
	return b.String(), nil
}

func writeJSON(b *strings.Builder, v any, indent, depth int) error {
	if depth > maxNested {
		return fmt.Errorf("value is nested deeper than %d", maxNested)
	}
	line := func(depth int) {
		if indent >= 0 {
			b.WriteString("\n" + strings.Repeat(" ", min(indent, 100)*depth))
		}
	}
	sep := ", "
	if indent >= 0 {
		sep = ","
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case float64:
		b.WriteString(floatText(v))
	case string:
		return writeJSONString(b, v)
	case List:
		if len(v) == 0 {
			b.WriteString("[]")
			return nil
		}
		b.WriteByte('[')
		for i, x := range v {
			if i > 0 {
				b.WriteString(sep)
			}
			line(depth + 1)
			if err := writeJSON(b, x, indent, depth+1); err != nil {
				return err
			}
		}
		line(depth)
		b.WriteByte(']')
	case *Dict:
		if len(v.keys) == 0 {
			b.WriteString("{}")
			return nil
		}
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(sep)
			}
			line(depth + 1)
			if err := writeJSONString(b, k); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := writeJSON(b, v.values[k], indent, depth+1); err != nil {
				return err
			}
		}
		line(depth)
		b.WriteByte('}')
	default:
		return fmt.Errorf("%s has no JSON", typeName(v))
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
