package model

import (
	"cmp"
	"errors"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// rowScales say which row of the banks the rows of a batch are scaled by. It belongs to
// one step, and holds the scales until its end.
type rowScales struct {
	held  []*Scales
	some  bool    // Not all rows have the model's own.
	index []int32 // By row of the batch; 0 is the model's own.
	low   []lowRun
}

// lowRun are rows behind each other with the same scales, low-rank pairs among them.
type lowRun struct {
	scales   *Scales
	from, to int
}

// add appends the rows of a segment.
func (r *rowScales) add(m *Model, s *Scales, rows int) error {
	row := 0
	if s != nil {
		if s.model != m {
			return errors.New("its scales were made for another model")
		}
		row = s.row
		r.held, r.some = append(r.held, s), true
		r.addRun(s, len(r.index), len(r.index)+rows)
	}
	for range rows {
		r.index = append(r.index, int32(row))
	}
	return nil
}

// addRun adds rows to those that have low-rank pairs, if these scales have such.
func (r *rowScales) addRun(s *Scales, from, to int) {
	if len(s.pairs) == 0 {
		return
	}
	if last := len(r.low) - 1; last >= 0 && r.low[last].scales == s && r.low[last].to == from {
		r.low[last].to = to
		return
	}
	r.low = append(r.low, lowRun{scales: s, from: from, to: to})
}

// sorted returns the order of segments in which those with low-rank pairs are side by
// side, the same ones together: nil where it is their own. The others stay as they are.
func sorted(segments []Segment) []int {
	row := func(s *Scales) int {
		if s == nil || len(s.pairs) == 0 {
			return 0
		}
		return s.row
	}
	byRow := func(a, b Segment) int { return cmp.Compare(row(a.Scales), row(b.Scales)) }
	if slices.IsSortedFunc(segments, byRow) {
		return nil
	}
	order := make([]int, len(segments))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return byRow(segments[a], segments[b]) })
	return order
}

// rowsScaling says what scales rows of a step.
type rowsScaling struct {
	index backend.Index // Of the banks; nil means that all rows have the model's own.
	// some says that only these rows are multiplied with low-rank pairs, but where the
	// model's own computation has some. Else all are.
	some bool
	low  []lowRows
}

// lowRows are rows that are multiplied with low-rank pairs.
type lowRows struct {
	from, to int
	// index is that of their scales; or all have these.
	index  backend.Index
	scales *Scales
}

// longRun is how many rows with the same scales there must be, on average, for each run of
// them to be multiplied with its own pairs alone: then what that saves is more than what
// so many products take to begin.
const longRun = 32

// spans lists the rows that are multiplied with low-rank pairs. Long runs may be divided,
// each for its own pairs; short ones are taken together, with what is between them, and
// with the pairs of all: of those list has the index.
func (r *rowScales) spans(divided bool) (rows []lowRows, list []int32) {
	if len(r.low) == 0 {
		return nil, nil
	}
	from, to, n := r.low[0].from, r.low[len(r.low)-1].to, 0
	for _, run := range r.low {
		n += run.to - run.from
		rows = append(rows, lowRows{from: run.from, to: run.to, scales: run.scales})
	}
	if divided && n >= longRun*len(r.low) {
		return rows, nil
	}
	return []lowRows{{from: from, to: to}}, r.index[from:to]
}
