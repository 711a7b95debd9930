package jinja

import (
	"errors"
	"slices"
)

func batchFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	n := p.integer(0, "linecount", 0)
	if n < 1 {
		return nil, errors.New("takes how many items a batch has")
	}
	out := List{}
	for part := range slices.Chunk(list, n) {
		out = append(out, slices.Clone(part))
	}
	if fill := p.get(1, "fill_with"); fill != nil && len(out) > 0 {
		last, _ := out[len(out)-1].(List)
		if err := r.spend(n); err != nil {
			return nil, err
		}
		for len(last) < n {
			last = append(last, fill)
		}
		out[len(out)-1] = last
	}
	return &generator{out}, nil
}

func sliceFilter(r *run, v any, p parameters) (any, error) {
	list, err := items(v)
	if err != nil {
		return nil, err
	}
	n := p.integer(0, "slices", 0)
	if n < 1 {
		return nil, errors.New("takes how many slices there are")
	}
	if err := r.spend(n); err != nil {
		return nil, err
	}
	out := make(List, n)
	per, longer := len(list)/n, len(list)%n
	at := 0
	for i := range n {
		size := per
		if i < longer {
			size++
		}
		part := slices.Clone(list[at : at+size])
		at += size
		if fill := p.get(1, "fill_with"); fill != nil && i >= longer {
			part = append(part, fill)
		}
		out[i] = part
	}
	return &generator{out}, nil
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
	if p.has(1, "start") {
		total = p.get(1, "start")
	}
	if _, ok := total.(string); ok {
		return nil, errors.New("strings cannot be summed (use join)")
	}
	for _, x := range list {
		if total, err = r.operate("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func extreme(sign int) filterFunc {
	return func(r *run, v any, p parameters) (any, error) {
		list, err := items(v)
		if err != nil {
			return nil, err
		}
		key := sortKey(p.get(1, "attribute"), truth(p.get(0, "case_sensitive")))
		var best any = undefined{name: "extreme of an empty list"}
		var bestKey any
		for i, x := range list {
			k, err := key(x)
			if err != nil {
				return nil, err
			}
			if i > 0 {
				c, err := r.compare(k, bestKey)
				if err != nil {
					return nil, err
				}
				if c*sign <= 0 {
					continue
				}
			}
			best, bestKey = x, k
		}
		return best, nil
	}
}
