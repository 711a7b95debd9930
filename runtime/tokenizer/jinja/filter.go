package jinja

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// filterFunc is what comes after a "|".
type filterFunc func(r *run, v any, p parameters) (any, error)

// filters is a function, not a variable, because some filters apply others.
func filters(name string) (filterFunc, bool) {
	f, ok := map[string]filterFunc{
		"trim": func(_ *run, v any, p parameters) (any, error) {
			return strip(text(v), p.get(0, "chars"), true, true), nil
		},
		"upper":      textFilter(strings.ToUpper),
		"lower":      textFilter(strings.ToLower),
		"title":      textFilter(title),
		"capitalize": textFilter(capitalize),
		"string":     textFilter(func(s string) string { return s }),
		"safe":       textFilter(func(s string) string { return s }),
		"escape":     textFilter(escapeHTML),
		"e":          textFilter(escapeHTML),
		"length":     func(_ *run, v any, _ parameters) (any, error) { return length(v) },
		"count":      func(_ *run, v any, _ parameters) (any, error) { return length(v) },
		"default":    defaultFilter,
		"d":          defaultFilter,
		"join":       joinFilter,
		"first":      func(_ *run, v any, _ parameters) (any, error) { return end(v, 0) },
		"last":       func(_ *run, v any, _ parameters) (any, error) { return end(v, -1) },
		"list":       func(_ *run, v any, _ parameters) (any, error) { return items(v) },
		"reverse":    reverseFilter,
		"sort":       sortFilter,
		"unique":     uniqueFilter,
		"items":      itemsFilter,
		"dictsort":   dictSortFilter,
		"map":        mapFilter,
		"select":     selector(false, true),
		"reject":     selector(false, false),
		"selectattr": selector(true, true),
		"rejectattr": selector(true, false),
		"tojson":     toJSON,
		"indent":     indentFilter,
		"replace":    func(_ *run, v any, p parameters) (any, error) { return replaceMethod(text(v), p) },
		"int":        intFilter,
		"float":      floatFilter,
		"abs":        absFilter,
		"round":      roundFilter,
		"sum":        sumFilter,
		"min":        extreme(-1),
		"max":        extreme(1),
	}[name]
	return f, ok
}

func (p *parser) filter(value expr) (expr, error) {
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	f, ok := filters(name)
	if !ok {
		return nil, p.fail("filter %q is not supported", name)
	}
	a := arguments{}
	if p.is("(") {
		if a, err = p.arguments(); err != nil {
			return nil, err
		}
	}
	return exprFunc(func(r *run, s *scope) (any, error) {
		v, err := value.eval(r, s)
		if err != nil {
			return nil, err
		}
		args, kwargs, err := a.eval(r, s)
		if err != nil {
			return nil, err
		}
		result, err := r.applyFilter(f, v, parameters{args, kwargs})
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", name, err)
		}
		return result, nil
	}), nil
}

// applyFilter pays for what a filter reads and makes.
func (r *run) applyFilter(f filterFunc, v any, p parameters) (any, error) {
	if n, err := length(v); err == nil {
		if err := r.spend(n); err != nil {
			return nil, err
		}
	}
	result, err := f(r, v, p)
	if s, ok := result.(string); ok && err == nil {
		err = r.spend(len(s))
	}
	return result, err
}

func textFilter(f func(string) string) filterFunc {
	return func(_ *run, v any, _ parameters) (any, error) { return f(text(v)), nil }
}

func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}

func defaultFilter(_ *run, v any, p parameters) (any, error) {
	_, missing := v.(undefined)
	if missing || truth(p.get(1, "boolean")) && !truth(v) {
		if fallback := p.get(0, "default_value"); fallback != nil || len(p.args) > 0 {
			return fallback, nil
		}
		return "", nil
	}
	return v, nil
}

func joinTexts(list List, sep string) string {
	parts := make([]string, len(list))
	for i, x := range list {
		parts[i] = text(x)
	}
	return strings.Join(parts, sep)
}

func joinFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if attribute := p.get(1, "attribute"); attribute != nil {
		if list, err = attributes(list, attribute); err != nil {
			return nil, err
		}
	}
	sep := p.str(0, "d", "")
	if err := r.spend(len(sep) * len(list)); err != nil {
		return nil, err
	}
	return joinTexts(list, sep), nil
}

// attributes takes an attribute, possibly a dotted one, of each item.
func attributes(list List, attribute any) (List, error) {
	out := make(List, len(list))
	for i, x := range list {
		var err error
		if out[i], err = path(x, attribute); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func path(v, attribute any) (any, error) {
	name, ok := attribute.(string)
	if !ok {
		return item(v, attribute, "item "+repr(attribute))
	}
	for part := range strings.SplitSeq(name, ".") {
		var key any = part
		if i, err := strconv.Atoi(part); err == nil {
			key = i
		}
		var err error
		if v, err = item(v, key, "attribute "+part); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func end(v any, at int) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	return item(list, at, "item of an empty list")
}

func indentFilter(r *run, v any, p parameters) (any, error) {
	prefix := "    "
	switch w := p.get(0, "width").(type) {
	case string:
		prefix = w
	case int:
		prefix = strings.Repeat(" ", min(max(w, 0), 1000))
	}
	s := text(v)
	if err := r.spend(len(prefix) * strings.Count(s, "\n")); err != nil {
		return nil, err
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if (i > 0 || truth(p.get(1, "first"))) && (line != "" || truth(p.get(2, "blank"))) {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

func intFilter(_ *run, v any, p parameters) (any, error) {
	switch v := v.(type) {
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && math.Abs(f) < 1<<53 {
			return int(f), nil
		}
	case float64:
		if math.Abs(v) < 1<<53 {
			return int(v), nil
		}
	case int, bool:
		i, _ := integer(v)
		return i, nil
	}
	return p.integer(0, "default", 0), nil
}

func floatFilter(_ *run, v any, p parameters) (any, error) {
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
			return f, nil
		}
	}
	if f, ok := number(v); ok {
		return f, nil
	}
	f, _ := number(p.get(0, "default"))
	return f, nil
}

func absFilter(_ *run, v any, _ parameters) (any, error) {
	switch v := v.(type) {
	case int:
		return max(v, -v), nil
	case float64:
		return math.Abs(v), nil
	}
	return nil, fmt.Errorf("%s is no number", typeName(v))
}

func roundFilter(_ *run, v any, p parameters) (any, error) {
	f, ok := number(v)
	if !ok {
		return nil, fmt.Errorf("%s is no number", typeName(v))
	}
	scale := math.Pow(10, float64(p.integer(0, "precision", 0)))
	switch p.str(1, "method", "common") {
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	}
	return math.RoundToEven(f*scale) / scale, nil
}

func sumFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if attribute := p.get(0, "attribute"); attribute != nil {
		if list, err = attributes(list, attribute); err != nil {
			return nil, err
		}
	}
	var total any = 0
	for _, x := range list {
		if total, err = r.operate("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func extreme(sign int) filterFunc {
	return func(_ *run, v any, _ parameters) (any, error) {
		list, err := items(v)
		if err != nil {
			return nil, err
		}
		var best any = undefined{name: "extreme of an empty list"}
		for i, x := range list {
			if i == 0 {
				best = x
				continue
			}
			c, err := compare(folded(x), folded(best))
			if err != nil {
				return nil, err
			}
			if c*sign > 0 {
				best = x
			}
		}
		return best, nil
	}
}
