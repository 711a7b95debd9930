package search

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestLayoutTakesTheLeadingEntries(t *testing.T) {
	vectors := map[string][]float32{
		"b.down": {10, 11, 12, 13}, "a.up": {1, 2, 3}, "c.gate": {20},
	}
	ranks := map[string]int{"a.up": 3, "b.down": 4, "c.gate": 1}
	tests := []struct {
		name string
		k    int
		want []float64
	}{
		{"two of each", 2, []float64{1, 2, 10, 11, 20}},
		{"all", 0, []float64{1, 2, 3, 10, 11, 12, 13, 20}},
		{"more than there are", 9, []float64{1, 2, 3, 10, 11, 12, 13, 20}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := NewLayout(ranks, test.k)
			if err != nil {
				t.Fatal(err)
			}
			x, err := l.Gather(vectors)
			if err != nil || !slices.Equal(x, test.want) || l.Dimension() != len(test.want) {
				t.Fatalf("gathered %v of %d, error %v, want %v", x, l.Dimension(), err, test.want)
			}
			same, err := l.Scatter(x, vectors)
			if err != nil || !reflect.DeepEqual(same, vectors) {
				t.Fatalf("scattered %v, error %v, want %v", same, err, vectors)
			}
			for i := range x {
				x[i] = -x[i]
			}
			changed, err := l.Scatter(x, vectors)
			if err != nil {
				t.Fatal(err)
			}
			for name, v := range changed {
				for i := range v {
					want := vectors[name][i]
					if test.k == 0 || i < test.k {
						want = -want
					}
					if v[i] != want {
						t.Errorf("%s has %v at %d, want %v", name, v[i], i, want)
					}
				}
			}
		})
	}
	if vectors["a.up"][0] != 1 {
		t.Error("Scatter changed what it was given")
	}
}

func TestLayoutNamesWhatIsWrong(t *testing.T) {
	l, err := NewLayout(map[string]int{"a": 2, "b": 3}, 2)
	if err != nil {
		t.Fatal(err)
	}
	_, errNone := NewLayout(nil, 1)
	_, errNegative := NewLayout(map[string]int{"a": 1}, -1)
	_, errRank := NewLayout(map[string]int{"a": 0}, 1)
	_, errLarge := NewLayout(map[string]int{"a": maxDimension, "b": 1}, 0)
	_, errMissing := l.Gather(map[string][]float32{"a": {1, 2}})
	_, errShape := l.Gather(map[string][]float32{"a": {1, 2}, "b": {1}})
	_, errMore := l.Gather(map[string][]float32{"a": {1, 2}, "b": {1, 2, 3}, "c": {1}})
	_, errLength := l.Scatter([]float64{1}, map[string][]float32{"a": {1, 2}, "b": {1, 2, 3}})
	for want, err := range map[string]error{
		"no matrices": errNone, "rank -1": errNegative, "matrix a has rank 0": errRank, "more than 1048576": errLarge,
		"matrix b of the layout is missing": errMissing, "matrix b has 1 entries, want its rank 3": errShape,
		"3 matrices for a layout of 2": errMore, "1 numbers for a layout of 4": errLength,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
