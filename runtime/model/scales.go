package model

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/transformersquared/operator/runtime/backend"
)

// Scales are the scales of one mixture of experts, σ⊙z, for every factored
// projection that the mixture scales. With Segment.Scales a step computes each
// sequence with its own. They are immutable and belong to whoever holds them:
// making and dropping some touches no step that runs.
type Scales struct {
	model *Model
	rows  [][projections]backend.Buffer // By layer: [R]; nil where the model's own scale holds.
	bytes int64
}

// NewScales returns the scales s⊙z, where s is the present scale of a factored
// projection: σ, if the factors are a decomposition. z has R numbers for each
// projection it names; those it does not name keep s, as if z were 1. A
// projection that is not factored in m, or a z of another length, is an error.
func (m *Model) NewScales(z map[string][]float32) (*Scales, error) {
	s := &Scales{model: m, rows: make([][projections]backend.Buffer, len(m.layers))}
	for _, name := range slices.Sorted(maps.Keys(z)) {
		l, err := m.find(name)
		if err != nil {
			return nil, fmt.Errorf("scales: %w", err)
		}
		if err := l.checkScale(z[name]); err != nil {
			return nil, fmt.Errorf("scales of %s: %w", name, err)
		}
		row, err := upload(m.be, z[name])
		if err != nil {
			return nil, fmt.Errorf("scales of %s: %w", name, err)
		}
		if err := m.be.ScaleColumns(row, row, l.scale, 1); err != nil {
			return nil, fmt.Errorf("scales of %s: %w", name, err)
		}
		s.rows[l.info.Layer][projectionIndex(l.info.Module)] = row
		s.bytes += bytesOf(l.rank())
	}
	return s, nil
}

// Bytes is the device memory that the scales take.
func (s *Scales) Bytes() int64 { return s.bytes }

// rowScales are the scales of a batch whose rows have their own. It belongs to
// one step.
type rowScales struct {
	distinct []*Scales // nil among them: the model's own.
	index    []int32   // By row, into distinct.
}

// add appends the rows of a segment.
func (r *rowScales) add(m *Model, s *Scales, rows int) error {
	if s != nil && s.model != m {
		return errors.New("its scales were made for another model")
	}
	i := slices.Index(r.distinct, s)
	if i < 0 {
		i = len(r.distinct)
		r.distinct = append(r.distinct, s)
	}
	for range rows {
		r.index = append(r.index, int32(i))
	}
	return nil
}

// selected returns the scales of some of the rows.
func (r *rowScales) selected(rows []int32) rowScales {
	return rowScales{distinct: r.distinct, index: selected(r.index, rows)}
}

// of returns the scales of a batch's rows for one projection.
func (r *rowScales) of(l *linear) *backend.Scales {
	if r == nil || len(r.distinct) == 1 && r.distinct[0] == nil {
		return l.own()
	}
	projection := projectionIndex(l.info.Module)
	of := make([]backend.Buffer, 0, len(r.distinct))
	for _, s := range r.distinct {
		row := l.scale
		if s != nil && s.rows[l.info.Layer][projection] != nil {
			row = s.rows[l.info.Layer][projection]
		}
		of = append(of, row)
	}
	return &backend.Scales{Of: of, Index: r.index}
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
