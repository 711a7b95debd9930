package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

func reverseFilter(_ *run, v any, _ parameters) (any, error) {
	return slice(v, nil, nil, -1)
}

func sortFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if err := r.spend(20 * len(list)); err != nil {
		return nil, err
	}
	attribute, exact := p.get(2, "attribute"), truth(p.get(1, "case_sensitive"))
	key := func(x any) any {
		if attribute != nil {
			k, keyErr := path(x, attribute)
			err = errors.Join(err, keyErr)
			x = k
		}
		if exact {
			return x
		}
		return folded(x)
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b any) int {
		c, compareErr := compare(key(a), key(b))
		if compareErr != nil {
			err = compareErr
		}
		if truth(p.get(0, "reverse")) {
			return -c
		}
		return c
	})
	return sorted, err
}

// folded is a value as filters compare it that ignore case.
func folded(v any) any {
	if s, ok := v.(string); ok {
		return strings.ToLower(s)
	}
	return v
}

func uniqueFilter(r *run, v any, _ parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	out := List{}
	for _, x := range list {
		if err := r.spend(1 + len(out)); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(y any) bool { return equal(folded(x), folded(y)) }) {
			out = append(out, x)
		}
	}
	return out, nil
}

func itemsFilter(_ *run, v any, _ parameters) (any, error) {
	if _, ok := v.(undefined); ok {
		return List{}, nil
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no dictionary", typeName(v))
	}
	list, _, err := dictMethod(d, "items", parameters{})
	return list, err
}

func dictSortFilter(_ *run, v any, _ parameters) (any, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("%s is no dictionary", typeName(v))
	}
	keys := slices.Clone(d.keys)
	slices.SortStableFunc(keys, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	list := make(List, len(keys))
	for i, k := range keys {
		list[i] = List{k, d.values[k]}
	}
	return list, nil
}

// mapFilter takes an attribute of each item or applies a filter to it.
func mapFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	if attribute, ok := p.kwargs["attribute"]; ok {
		out, err := attributes(list, attribute)
		if fallback, ok := p.kwargs["default"]; ok {
			for i, x := range out {
				if _, missing := x.(undefined); missing {
					out[i] = fallback
				}
			}
		}
		return out, err
	}
	if len(p.args) == 0 {
		return nil, errors.New("takes an attribute or a filter")
	}
	f, ok := filters(text(p.args[0]))
	if !ok {
		return nil, fmt.Errorf("filter %q is not supported", text(p.args[0]))
	}
	out := make(List, len(list))
	for i, x := range list {
		if out[i], err = r.applyFilter(f, x, parameters{p.args[1:], p.kwargs}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// selector keeps the items (or those with an attribute) that pass a test, or
// those that do not.
func selector(byAttribute, keep bool) filterFunc {
	return func(r *run, v any, p parameters) (any, error) {
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
			named, known := tests[text(args[0])]
			if !known {
				return nil, fmt.Errorf("test %q is not supported", text(args[0]))
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
			passed, err := test(subject, parameters{args: args})
			if err != nil {
				return nil, err
			}
			if passed == keep {
				out = append(out, x)
			}
		}
		return out, nil
	}
}
