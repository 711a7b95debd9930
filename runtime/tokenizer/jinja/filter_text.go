package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// textFilters are those that make text of text.
var textFilters = map[string]filterFunc{
	"trim": func(r *run, v any, p parameters) (any, error) {
		s, err := r.text(v)
		return strip(s, p.get(0, "chars"), true, true), err
	},
	"upper":       textFilter(strings.ToUpper),
	"lower":       textFilter(strings.ToLower),
	"title":       textFilter(titleFilter),
	"capitalize":  textFilter(capitalize),
	"string":      textFilter(func(s string) string { return s }),
	"safe":        textFilter(func(s string) string { return s }),
	"escape":      textFilter(escapeHTML),
	"e":           textFilter(escapeHTML),
	"forceescape": textFilter(escapeHTML),
	"striptags":   textFilter(stripTags),
	"urlencode":   urlEncode,
	"wordcount": func(r *run, v any, _ parameters) (any, error) {
		s, err := r.text(v)
		return len(strings.FieldsFunc(s, func(r rune) bool { return !isWord(r) })), err
	},
	"indent":         indentFilter,
	"replace":        replaceFilter,
	"center":         centerFilter,
	"truncate":       truncateFilter,
	"format":         formatFilter,
	"filesizeformat": fileSizeFilter,
	"xmlattr":        xmlAttrFilter,
}

func textFilter(f func(string) string) filterFunc {
	return func(r *run, v any, _ parameters) (any, error) {
		s, err := r.text(v)
		return f(s), err
	}
}

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escapeHTML(s string) string { return htmlEscapes.Replace(s) }

func replaceFilter(r *run, v any, p parameters) (any, error) {
	s, err := r.text(v)
	if err != nil {
		return nil, err
	}
	return replaceMethod(s, parameters{r, []any{p.str(0, "old", ""), p.str(1, "new", ""), p.get(2, "count")}, nil})
}

func centerFilter(r *run, v any, p parameters) (any, error) {
	s, err := r.text(v)
	if err != nil {
		return nil, err
	}
	return pad(s, parameters{r, []any{p.integer(0, "width", 80)}, nil}, 1)
}

// titleFilter makes the first letter of each word upper case and the rest lower;
// words are what white space, hyphens and opening brackets part.
func titleFilter(s string) string {
	first := true
	return strings.Map(func(r rune) rune {
		wasFirst := first
		first = isSpace(r) || strings.ContainsRune("-({[<", r)
		if wasFirst {
			return []rune(strings.ToUpper(string(r)))[0]
		}
		return []rune(strings.ToLower(string(r)))[0]
	}, s)
}

func indentFilter(r *run, v any, p parameters) (any, error) {
	prefix := "    "
	switch w := p.get(0, "width").(type) {
	case string:
		prefix = w
	case int:
		if w > maxWidth {
			return nil, fmt.Errorf("a width of more than %d", maxWidth)
		}
		prefix = strings.Repeat(" ", max(w, 0))
	}
	s, err := r.text(v)
	if err != nil {
		return nil, err
	}
	if n := 1 + strings.Count(s, "\n"); len(prefix) > r.budget/n {
		return nil, r.spend(r.budget + 1)
	}
	if err := r.spend(len(prefix) * (1 + strings.Count(s, "\n"))); err != nil {
		return nil, err
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if i > 0 && (line != "" || truth(p.get(2, "blank"))) || i == 0 && truth(p.get(1, "first")) {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

func truncateFilter(r *run, v any, p parameters) (any, error) {
	s, err := r.text(v)
	if err != nil {
		return nil, err
	}
	n, end, leeway := p.integer(0, "length", 255), p.str(2, "end", "..."), p.integer(3, "leeway", 5)
	if n < utf8.RuneCountInString(end) || leeway < 0 {
		return nil, fmt.Errorf("cannot truncate to %d characters, leeway %d", n, leeway)
	}
	runes := []rune(s)
	if len(runes) <= n+leeway {
		return s, nil
	}
	kept := string(runes[:n-utf8.RuneCountInString(end)])
	if !truth(p.get(1, "killwords")) {
		if at := strings.LastIndexByte(kept, ' '); at >= 0 {
			kept = kept[:at]
		}
	}
	return kept + end, nil
}

func formatFilter(r *run, v any, p parameters) (any, error) {
	s, err := r.text(v)
	if err != nil {
		return nil, err
	}
	switch {
	case len(p.args) > 0 && p.kwargs.len() > 0:
		return nil, fmt.Errorf("takes positional or named arguments, not both")
	case p.kwargs.len() > 0:
		return r.percent(s, p.kwargs)
	}
	return r.percent(s, Tuple(p.args))
}

func fileSizeFilter(_ *run, v any, p parameters) (any, error) {
	f, ok := number(v)
	if s, isText := v.(string); isText {
		var err error
		f, err = strconv.ParseFloat(s, 64)
		ok = err == nil
	}
	if !ok {
		return nil, fmt.Errorf("%s is no number", typeName(v))
	}
	base, suffix := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if truth(p.get(0, "binary")) {
		base, suffix = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	switch {
	case f == 1:
		return "1 Byte", nil
	case f < base:
		return fmt.Sprintf("%d Bytes", int(f)), nil
	}
	unit := base
	for i, s := range suffix {
		if unit *= base; f < unit || i == len(suffix)-1 {
			return fmt.Sprintf("%.1f %s", base*f/unit, s), nil
		}
	}
	return nil, nil
}

func stripTags(s string) string {
	for _, pair := range [][2]string{{"<!--", "-->"}, {"<", ">"}} {
		var b strings.Builder
		for {
			i := strings.Index(s, pair[0])
			if i < 0 {
				break
			}
			n := strings.Index(s[i:], pair[1])
			if n < 0 {
				break
			}
			b.WriteString(s[:i])
			s = s[i+n+len(pair[1]):]
		}
		s = b.String() + s
	}
	s = strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&#39;", "'", "&#34;", `"`).Replace(s)
	return strings.Join(strings.FieldsFunc(s, isSpace), " ")
}

func urlEncode(r *run, v any, _ parameters) (any, error) {
	d, isDict := v.(*Dict)
	_, isString := v.(string)
	if list, ok := sequence(v); (ok || isDict) && !isString {
		if isDict {
			list = d.pairs()
		}
		parts := make([]string, 0, len(list))
		for _, x := range list {
			pair, ok := sequence(x)
			if !ok || len(pair) != 2 {
				return nil, fmt.Errorf("takes a string, a dictionary or pairs")
			}
			k, err := r.text(pair[0])
			if err != nil {
				return nil, err
			}
			value, err := r.text(pair[1])
			if err != nil {
				return nil, err
			}
			parts = append(parts, quoteURL(k, "")+"="+quoteURL(value, ""))
		}
		return strings.Join(parts, "&"), nil
	}
	s, err := r.text(v)
	return quoteURL(s, "/"), err
}

func quoteURL(s, safe string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte("_.-~"+safe, c) >= 0:
			b.WriteByte(c)
		case c == ' ' && safe == "":
			b.WriteByte('+')
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func xmlAttrFilter(r *run, v any, p parameters) (any, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no dictionary", typeName(v))
	}
	var parts []string
	for _, k := range d.keys {
		name, ok := k.(string)
		if !ok || strings.ContainsAny(name, " \t\n\r\f/>=") {
			return nil, fmt.Errorf("no attribute can be called %s", text(k))
		}
		value, _ := d.get(k)
		if _, missing := value.(undefined); missing || value == nil {
			continue
		}
		s, err := r.text(value)
		if err != nil {
			return nil, err
		}
		parts = append(parts, escapeHTML(name)+`="`+escapeHTML(s)+`"`)
	}
	joined := strings.Join(parts, " ")
	if joined != "" && (!p.has(0, "autospace") || truth(p.get(0, "autospace"))) {
		return " " + joined, nil
	}
	return joined, nil
}
