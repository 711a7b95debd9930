package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// filterFunc is what comes after a "|".
type filterFunc func(r *run, v any, p parameters) (any, error)

// filters is a function, not a variable, because some filters apply others. Of
// Jinja2's own only pprint, random, urlize and wordwrap are not there.
func filters(name string) (filterFunc, bool) {
	if f, ok := listFilters(name); ok {
		return f, true
	}
	if f, ok := textFilters[name]; ok {
		return f, true
	}
	f, ok := map[string]filterFunc{
		"length":  func(_ *run, v any, _ parameters) (any, error) { return length(v) },
		"count":   func(_ *run, v any, _ parameters) (any, error) { return length(v) },
		"default": defaultFilter,
		"d":       defaultFilter,
		"attr":    attrFilter,
		"tojson":  toJSON,
		"int":     intFilter,
		"float":   floatFilter,
		"abs":     absFilter,
		"round":   roundFilter,
	}[name]
	return f, ok
}

// filter parses a filter's name and arguments, and applies it to a value. One that is
// not known fails when it is reached: many templates have branches for what is not
// there.
func (p *parser) filter(value expr) (expr, error) {
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	line := p.line()
	a := arguments{}
	if p.is("(") {
		if a, err = p.arguments(); err != nil {
			return nil, err
		}
	}
	f, known := filters(name)
	if !known {
		f = func(*run, any, parameters) (any, error) {
			return nil, located(line, fmt.Errorf("filter %q is not supported", name))
		}
	}
	return &filterExpr{value: value, name: name, f: f, arguments: a, known: known}, nil
}

// filterExpr is value | name(arguments).
type filterExpr struct {
	value expr
	name  string
	f     filterFunc
	arguments
	known bool
}

func (e *filterExpr) eval(r *run, s *scope) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	if !e.known {
		return e.f(r, nil, parameters{})
	}
	v, err := e.value.eval(r, s)
	if err != nil {
		return nil, err
	}
	args, kwargs, err := e.arguments.eval(r, s)
	if err != nil {
		return nil, err
	}
	result, err := r.applyFilter(e.f, v, parameters{r, args, kwargs})
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", e.name, err)
	}
	return result, nil
}

// safe is a filter's text that is HTML to Jinja2 even where it escapes nothing: what
// is added to it is escaped.
func (e *filterExpr) safe() bool {
	switch e.name {
	case "safe", "escape", "e", "forceescape":
		return true
	}
	return false
}

// dotted parses the name of a filter or a test.
func (p *parser) dotted() (string, error) {
	name, err := p.name()
	for err == nil && p.accept(".") {
		var part string
		part, err = p.name()
		name += "." + part
	}
	return name, err
}

// applyFilter pays for what a filter reads and makes.
func (r *run) applyFilter(f filterFunc, v any, p parameters) (any, error) {
	n, err := length(v)
	if g, ok := v.(*generator); ok {
		n, err = len(g.list), nil
	}
	if err == nil {
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

func defaultFilter(_ *run, v any, p parameters) (any, error) {
	_, missing := v.(undefined)
	if missing || truth(p.get(1, "boolean")) && !truth(v) {
		if p.has(0, "default_value") {
			return p.get(0, "default_value"), nil
		}
		return "", nil
	}
	return v, nil
}

// attrFilter is foo.name, but never an item.
func attrFilter(r *run, v any, p parameters) (any, error) {
	name := p.str(0, "name", "")
	if _, isDict := v.(*Dict); isDict && !hasMethod(v, name) {
		return undefined{name: "attribute " + name}, nil
	}
	return r.attribute(v, name)
}

// path takes an attribute, possibly a dotted one, of a value.
func path(v, attribute any) (any, error) {
	name, ok := attribute.(string)
	if !ok {
		return item(v, attribute, "item "+text(attribute))
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

func intFilter(_ *run, v any, p parameters) (any, error) {
	switch v := v.(type) {
	case string:
		s := strings.TrimSpace(v)
		base := p.integer(1, "base", 10)
		if base != 10 {
			trimmed := strings.ToLower(s)
			if prefix := map[int]string{16: "0x", 8: "0o", 2: "0b"}[base]; prefix != "" {
				trimmed = strings.TrimPrefix(trimmed, prefix)
			}
			if i, err := strconv.ParseInt(trimmed, base, 64); err == nil && base > 1 && base <= 36 {
				return int(i), nil
			}
			break
		}
		if i, err := strconv.Atoi(strings.ReplaceAll(s, "_", "")); err == nil {
			return i, nil
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<53 {
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
	if p.has(0, "default") {
		return p.get(0, "default"), nil
	}
	return 0, nil
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
	if p.has(0, "default") {
		return p.get(0, "default"), nil
	}
	return 0.0, nil
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
	precision := p.integer(0, "precision", 0)
	scale := math.Pow(10, float64(precision))
	method := p.str(1, "method", "common")
	switch method {
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	case "common":
	default:
		return nil, fmt.Errorf("method must be common, ceil or floor, not %q", method)
	}
	if i, isInt := v.(int); isInt { // Python rounds an int to an int.
		if precision >= 0 {
			return i, nil
		}
		if precision < -18 {
			return 0, nil
		}
		return int(math.RoundToEven(f*scale) / scale), nil
	}
	if precision >= 0 && precision < 300 { // As written in decimal, not as multiplied.
		rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
		return rounded, err
	}
	return math.RoundToEven(f*scale) / scale, nil
}
