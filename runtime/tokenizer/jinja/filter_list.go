package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// listFilters are those that take lists.
func listFilters(name string) (filterFunc, bool) {
	f, ok := map[string]filterFunc{
		"join":       joinFilter,
		"first":      firstFilter,
		"last":       lastFilter,
		"list":       listFilter,
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
		"groupby":    groupFilter,
		"batch":      batchFilter,
		"slice":      sliceFilter,
		"sum":        sumFilter,
		"min":        extreme(-1),
		"max":        extreme(1),
	}[name]
	return f, ok
}

// isWord reports whether a character is matched by \w.
func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }

// joinTexts joins within the budget.
func (r *run) joinTexts(list List, sep string) (string, error) {
	var b strings.Builder
	for i, x := range list {
		s, err := r.text(x)
		if err != nil {
			return "", err
		}
		if i > 0 {
			s = sep + s
		}
		if err := r.spend(len(s)); err != nil {
			return "", err
		}
		b.WriteString(s)
	}
	return b.String(), nil
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
	return r.joinTexts(list, p.str(0, "d", ""))
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

func firstFilter(_ *run, v any, _ parameters) (any, error) {
	if g, ok := v.(*generator); ok { // It goes on behind the first.
		if len(g.list) == 0 {
			return undefined{name: "first item of an empty list"}, nil
		}
		x := g.list[0]
		g.list = g.list[1:]
		return x, nil
	}
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	return item(list, 0, "first item of an empty list")
}

func lastFilter(_ *run, v any, _ parameters) (any, error) {
	if _, ok := v.(*generator); ok {
		return nil, errors.New("a generator cannot be reversed (use list first)")
	}
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	return item(list, -1, "last item of an empty list")
}

func listFilter(_ *run, v any, _ parameters) (any, error) {
	list, err := items(v)
	if list == nil {
		list = List{}
	}
	return list, err
}

func reverseFilter(_ *run, v any, _ parameters) (any, error) {
	if s, ok := v.(string); ok {
		return slice(s, nil, nil, -1)
	}
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	slices.Reverse(list)
	return &generator{list}, nil
}

// sortKey returns what filters compare of a value: an attribute, or several of them
// with commas between, without case unless it matters.
func sortKey(attribute any, exact bool) func(x any) (any, error) {
	fold := func(v any) any {
		if exact {
			return v
		}
		return folded(v)
	}
	return func(x any) (any, error) {
		name, isText := attribute.(string)
		if attribute == nil {
			return fold(x), nil
		}
		if !isText || !strings.Contains(name, ",") {
			k, err := path(x, attribute)
			return fold(k), err
		}
		var keys List
		for part := range strings.SplitSeq(name, ",") {
			k, err := path(x, part)
			if err != nil {
				return nil, err
			}
			keys = append(keys, fold(k))
		}
		return keys, nil
	}
}

// sorted sorts a copy of a list by a key, stable in either direction.
func (r *run) sorted(list List, key func(any) (any, error), reverse bool) (List, error) {
	type keyed struct{ key, value any }
	rows := make([]keyed, len(list))
	for i, x := range list {
		k, err := key(x)
		if err != nil {
			return nil, err
		}
		rows[i] = keyed{k, x}
	}
	if err := r.spend(20 * len(list)); err != nil {
		return nil, err
	}
	var failed error
	slices.SortStableFunc(rows, func(a, b keyed) int {
		if failed != nil {
			return 0
		}
		var c int
		if c, failed = r.compare(a.key, b.key); reverse {
			return -c
		}
		return c
	})
	out := make(List, len(rows))
	for i, row := range rows {
		out[i] = row.value
	}
	return out, failed
}

func sortFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	return r.sorted(list, sortKey(p.get(2, "attribute"), truth(p.get(1, "case_sensitive"))), truth(p.get(0, "reverse")))
}

// folded is a value as filters compare it that ignore case.
func folded(v any) any {
	if s, ok := v.(string); ok {
		return strings.ToLower(s)
	}
	return v
}

func uniqueFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	key := sortKey(p.get(1, "attribute"), truth(p.get(0, "case_sensitive")))
	seen := map[any]bool{}
	out := List{}
	for _, x := range list {
		if err := r.spend(1); err != nil {
			return nil, err
		}
		k, err := key(x)
		if err == nil {
			k, err = hashable(k)
		}
		if err != nil {
			return nil, err
		}
		if !seen[k] {
			seen[k] = true
			out = append(out, x)
		}
	}
	return &generator{out}, nil
}

func itemsFilter(r *run, v any, _ parameters) (any, error) {
	if _, ok := v.(undefined); ok {
		return &generator{}, nil
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no dictionary", typeName(v))
	}
	return &generator{d.pairs()}, r.spend(d.len())
}

func dictSortFilter(r *run, v any, p parameters) (any, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no dictionary", typeName(v))
	}
	at := 0
	switch by := p.str(1, "by", "key"); by {
	case "key":
	case "value":
		at = 1
	default:
		return nil, fmt.Errorf("by must be key or value, not %q", by)
	}
	return r.sorted(d.pairs(), sortKey(at, truth(p.get(0, "case_sensitive"))), truth(p.get(2, "reverse")))
}

// mapFilter takes an attribute of each item or applies a filter to it.
func mapFilter(r *run, v any, p parameters) (any, error) {
	if !truth(v) { // Of what is none or undefined nothing is asked.
		return &generator{}, nil
	}
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if attribute, ok := p.kwargs.get("attribute"); ok && len(p.args) == 0 {
		out, err := attributes(list, attribute)
		if fallback, ok := p.kwargs.get("default"); ok && fallback != nil {
			for i, x := range out {
				if _, missing := x.(undefined); missing {
					out[i] = fallback
				}
			}
		}
		return &generator{out}, err
	}
	if len(p.args) == 0 {
		return nil, errors.New("takes an attribute or a filter")
	}
	name, _ := p.args[0].(string)
	f, ok := filters(name)
	if !ok {
		return nil, fmt.Errorf("filter %q is not supported", name)
	}
	out := make(List, len(list))
	for i, x := range list {
		if out[i], err = r.applyFilter(f, x, parameters{r, p.args[1:], p.kwargs}); err != nil {
			return nil, err
		}
	}
	return &generator{out}, nil
}

// selector keeps the items (or those with an attribute) that pass a test, or
// those that do not.
func selector(byAttribute, keep bool) filterFunc {
	return func(r *run, v any, p parameters) (any, error) {
		if !truth(v) { // Of what is none or undefined nothing is asked.
			return &generator{}, nil
		}
		list, err := items(v)
		if err != nil {
			return nil, err
		}
		args := p.args
		var attribute any
		if byAttribute {
			if len(args) == 0 {
				return nil, errors.New("takes an attribute")
			}
			attribute, args = args[0], args[1:]
		}
		test := func(v any, _ parameters) (bool, error) { return truth(v), nil }
		if len(args) > 0 {
			name, _ := args[0].(string)
			named, known := testNamed(name)
			if !known {
				return nil, fmt.Errorf("test %q is not supported", name)
			}
			test, args = named, args[1:]
		}
		out := List{}
		for _, x := range list {
			if err := r.spend(1); err != nil {
				return nil, err
			}
			subject := x
			if byAttribute {
				if subject, err = path(x, attribute); err != nil {
					return nil, err
				}
			}
			passed, err := test(subject, parameters{r, args, p.kwargs})
			if err != nil {
				return nil, err
			}
			if passed == keep {
				out = append(out, x)
			}
		}
		return &generator{out}, nil
	}
}

func groupFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	attribute, exact := p.get(0, "attribute"), truth(p.get(2, "case_sensitive"))
	plain := sortKey(attribute, true)
	key := func(x any) (any, error) {
		k, err := plain(x)
		if _, missing := k.(undefined); missing && p.has(1, "default") {
			k = p.get(1, "default")
		}
		return k, err
	}
	compared := func(x any) (any, error) {
		k, err := key(x)
		if exact {
			return k, err
		}
		return folded(k), err
	}
	if list, err = r.sorted(list, compared, false); err != nil {
		return nil, err
	}
	out := List{}
	var last any
	for i, x := range list {
		k, err := compared(x)
		if err != nil {
			return nil, err
		}
		if same, err := r.equal(k, last); err != nil {
			return nil, err
		} else if i > 0 && same {
			g, _ := out[len(out)-1].(group)
			g.list = append(g.list, x)
			out[len(out)-1] = g
			continue
		}
		shown, err := key(x)
		if err != nil {
			return nil, err
		}
		out, last = append(out, group{shown, List{x}}), k
	}
	return out, nil
}
