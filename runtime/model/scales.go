package model

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// Scales are the scales of one mixture of experts, σ⊙z, for every factored
// projection. With Segment.Scales a step computes each
// sequence with its own. They are immutable and belong to whoever holds them:
// making and dropping some touches no step that runs.
type Scales struct {
	model *Model
	row   int // Of every factored projection's bank.
	bytes int64
}

// NewScales returns the scales s⊙z, where s is the present scale of a factored
// projection: σ, if the factors are a decomposition. z has R numbers for each
// projection it names; those it does not name keep s, as if z were 1. A
// projection that is not factored in m, or a z of another length, is an error.
func (m *Model) NewScales(z map[string][]float32) (*Scales, error) {
	for _, name := range slices.Sorted(maps.Keys(z)) {
		l, err := m.find(name)
		if err != nil {
			return nil, fmt.Errorf("scales: %w", err)
		}
		if err := l.checkScale(z[name]); err != nil {
			return nil, fmt.Errorf("scales of %s: %w", name, err)
		}
	}
	s := &Scales{model: m, row: m.bankRows.take()}
	// Nobody says when scales are dropped: the last step that computes with them may
	// outlive whoever made them.
	runtime.AddCleanup(s, m.bankRows.put, s.row)
	for _, l := range m.factored() {
		if err := l.scales.set(m.be, s.row, z[l.info.Name]); err != nil {
			return nil, fmt.Errorf("scales of %s: %w", l.info.Name, err)
		}
		s.bytes += backend.F32.Bytes(1, l.rank())
	}
	return s, nil
}

// Bytes is the device memory that the scales take.
func (s *Scales) Bytes() int64 { return s.bytes }

// rowScales say which row of the banks the rows of a batch are scaled by. It belongs to
// one step, and holds the scales until its end.
type rowScales struct {
	held  []*Scales
	some  bool    // Not all rows have the model's own.
	index []int32 // By row of the batch; 0 is the model's own.
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
	}
	for range rows {
		r.index = append(r.index, int32(row))
	}
	return nil
}

// ProjectionBytes is the device memory that siblings' projections take beyond
// those of m. What several of them share counts once.
func (m *Model) ProjectionBytes(siblings ...*Model) int64 {
	seen := map[*linear]bool{}
	for i := range m.layers {
		for _, l := range m.layers[i].linears {
			seen[l] = true
		}
	}
	var sum int64
	for _, other := range siblings {
		for i := range other.layers {
			for _, l := range other.layers[i].linears {
				if !seen[l] {
					seen[l] = true
					sum += l.bytes()
				}
			}
		}
	}
	return sum
}
