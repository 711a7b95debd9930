package model

import (
	"fmt"
	"runtime"
)

// Scales are those of one mixture of adapters, for everything that adapts the model's
// projections: σ⊙z of the factored ones, gains, and the scales of low-rank pairs. With
// Segment.Scales a step computes each sequence with its own. They are immutable and
// belong to whoever holds them: making and dropping some touches no step that runs.
type Scales struct {
	model *Model
	row   int // Of the banks of every adapted projection.
	bytes int64
	// pairs are the low-rank pairs that have a part in each projection, by its name.
	pairs map[string][]int
}

// NewScales returns the scales of these branches, by the names of the projections. What
// no branch names is the base: the own scale of a factored projection (σ, if the factors
// are a decomposition) and the own gains, and no low-rank pair. A branch that the model
// was not made for is an error.
func (m *Model) NewScales(branches map[string]Branch) (*Scales, error) {
	for _, name := range sortedKeys(branches) {
		l, err := m.find(name)
		if err != nil {
			return nil, fmt.Errorf("scales: %w", err)
		}
		if err := l.check(branches[name]); err != nil {
			return nil, fmt.Errorf("scales of %s: %w", name, err)
		}
	}
	s := &Scales{model: m, row: m.bankRows.take(), pairs: map[string][]int{}}
	for name, b := range branches {
		for i, scale := range b.Low {
			if scale != 0 {
				s.pairs[name] = append(s.pairs[name], i)
			}
		}
	}
	// Nobody says when scales are dropped: the last step that computes with them may
	// outlive whoever made them.
	runtime.AddCleanup(s, m.bankRows.put, s.row)
	for _, l := range m.adapted() {
		bytes, err := l.put(m.be, s.row, branches[l.info.Name])
		if err != nil {
			return nil, fmt.Errorf("scales of %s: %w", l.info.Name, err)
		}
		s.bytes += bytes
	}
	return s, nil
}

// Bytes is the device memory that the scales take.
func (s *Scales) Bytes() int64 { return s.bytes }

// ProjectionBytes is the device memory that siblings' projections take beyond
// those of m. What several of them share counts once.
func (m *Model) ProjectionBytes(siblings ...*Model) int64 {
	seen := map[any]bool{}
	count := func(m *Model) (sum int64) {
		for i := range m.layers {
			for _, l := range m.layers[i].linears {
				for part, bytes := range l.parts() {
					if !seen[part] {
						seen[part] = true
						sum += bytes
					}
				}
			}
		}
		return sum
	}
	count(m)
	var sum int64
	for _, other := range siblings {
		sum += count(other)
	}
	return sum
}
