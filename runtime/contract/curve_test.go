package contract_test

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

func TestAThinCurveKeepsValidationsAndTheEnd(t *testing.T) {
	of := func(n, interval int) contract.Curve {
		var c contract.Curve
		for i := range n {
			p := contract.CurvePoint{Iteration: i + 1}
			if (i+1)%interval == 0 {
				p.Score = new(float64)
			}
			c.Points = append(c.Points, p)
		}
		return c
	}
	for _, test := range []struct {
		name              string
		n, interval, most int
		want              []int
	}{
		{"short enough", 3, 2, 3, []int{1, 2, 3}},
		{"no bound", 3, 2, 0, []int{1, 2, 3}},
		{"of each stretch the last", 7, 10, 3, []int{3, 6, 7}},
		{"or its last validation", 9, 4, 3, []int{3, 4, 8}},
		{"one", 5, 2, 1, []int{4}},
		{"none", 0, 1, 2, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []int
			for _, p := range of(test.n, test.interval).Thin(test.most).Points {
				got = append(got, p.Iteration)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("iterations %v, want %v", got, test.want)
			}
		})
	}
}
