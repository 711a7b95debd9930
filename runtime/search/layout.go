package search

import (
	"fmt"
	"maps"
	"slices"
)

// Layout lays the leading entries of the vectors of an expert's matrices into one
// vector of a search: of each matrix the first k, those of its largest singular
// values, because evolution takes the longer the more numbers it searches. Matrices
// follow each other by name.
type Layout struct {
	names     []string
	ranks     map[string]int // of whole vectors
	truncated int
	dimension int
}

// NewLayout returns the layout of matrices with these ranks (the lengths of their
// vectors), truncated to the first k entries of each; 0 takes them whole.
func NewLayout(ranks map[string]int, k int) (Layout, error) {
	if k < 0 {
		return Layout{}, fmt.Errorf("truncated rank %d is negative: it must be 0 (all singular values) or more", k)
	}
	if len(ranks) == 0 {
		return Layout{}, fmt.Errorf("there are no matrices to search: choose modules that the model has")
	}
	l := Layout{names: slices.Sorted(maps.Keys(ranks)), ranks: maps.Clone(ranks), truncated: k}
	for _, name := range l.names {
		if ranks[name] < 1 {
			return Layout{}, fmt.Errorf("matrix %s has rank %d: it must be 1 or more", name, ranks[name])
		}
		l.dimension += l.kept(name)
		if l.dimension > maxDimension {
			return Layout{}, fmt.Errorf("more than %d numbers to search with truncated rank %d: choose a lower one, or fewer modules", maxDimension, k)
		}
	}
	return l, nil
}

// kept is how many entries of a matrix are searched.
func (l Layout) kept(name string) int {
	if l.truncated == 0 {
		return l.ranks[name]
	}
	return min(l.truncated, l.ranks[name])
}

// Dimension is the length of the search's vectors.
func (l Layout) Dimension() int { return l.dimension }

// Gather returns the leading entries of the matrices' vectors as one vector.
func (l Layout) Gather(vectors map[string][]float32) ([]float64, error) {
	if err := l.check(vectors); err != nil {
		return nil, err
	}
	x := make([]float64, 0, l.dimension)
	for _, name := range l.names {
		for _, v := range vectors[name][:l.kept(name)] {
			x = append(x, float64(v))
		}
	}
	return x, nil
}

// Scatter returns vectors with the leading entries replaced by those of x, rounded
// to float32. The given ones stay as they are.
func (l Layout) Scatter(x []float64, vectors map[string][]float32) (map[string][]float32, error) {
	if err := l.check(vectors); err != nil {
		return nil, err
	}
	if len(x) != l.dimension {
		return nil, fmt.Errorf("a vector of %d numbers for a layout of %d", len(x), l.dimension)
	}
	scattered := make(map[string][]float32, len(l.names))
	for _, name := range l.names {
		whole := slices.Clone(vectors[name])
		for i := range l.kept(name) {
			whole[i] = float32(x[i])
		}
		scattered[name], x = whole, x[l.kept(name):]
	}
	return scattered, nil
}

// check compares the matrices and lengths with the layout's.
func (l Layout) check(vectors map[string][]float32) error {
	for _, name := range l.names {
		v, ok := vectors[name]
		if !ok {
			return fmt.Errorf("matrix %s of the layout is missing", name)
		}
		if len(v) != l.ranks[name] {
			return fmt.Errorf("matrix %s has %d entries, want its rank %d", name, len(v), l.ranks[name])
		}
	}
	if len(vectors) != len(l.names) {
		return fmt.Errorf("%d matrices for a layout of %d", len(vectors), len(l.names))
	}
	return nil
}
