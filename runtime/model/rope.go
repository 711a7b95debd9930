package model

import (
	"fmt"
	"math"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
)

// ropeTable holds the cosines and sines of rotary position embeddings (RoFormer)
// for the positions used so far. It grows by doubling and never past the
// model's longest sequence. Models that share weights share the table.
type ropeTable struct {
	be          backend.Backend
	frequencies []float32 // HeadDim/2
	limit       int

	mu        sync.Mutex
	table     backend.Buffer // [positions, HeadDim]
	positions int
}

func newRopeTable(be backend.Backend, c checkpoint.Config) *ropeTable {
	return &ropeTable{be: be, frequencies: ropeFrequencies(c), limit: c.MaxPositions}
}

// ropeFrequencies returns θ^(−2i/D) for each pair i, scaled as the config says.
// It rounds to float32 where the reference implementation does, because the
// error of a frequency grows with the position it is multiplied with.
func ropeFrequencies(c checkpoint.Config) []float32 {
	out := make([]float32, c.HeadDim/2)
	for i := range out {
		exponent := float32(2*i) / float32(c.HeadDim)
		out[i] = 1 / float32(math.Pow(c.RopeTheta, float64(exponent)))
		if c.RopeScaling != nil {
			out[i] = float32(stretch(float64(out[i]), *c.RopeScaling))
		}
	}
	return out
}

// stretch is the "llama3" frequency scaling: long wavelengths are divided by
// the factor, short ones stay, and those between are blended.
func stretch(frequency float64, s checkpoint.RopeScaling) float64 {
	turns := float64(s.OriginalMaxPositions) * frequency / (2 * math.Pi) // In the original context.
	switch {
	case turns > s.HighFreqFactor:
		return frequency
	case turns < s.LowFreqFactor:
		return frequency / s.Factor
	default:
		blend := (turns - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
		return (1-blend)*frequency/s.Factor + blend*frequency
	}
}

// upTo returns a table of at least n positions.
func (r *ropeTable) upTo(n int) (backend.Buffer, error) {
	if n > r.limit {
		return nil, fmt.Errorf("position %d is beyond the model's %d positions", n-1, r.limit)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n <= r.positions {
		return r.table, nil
	}
	positions := min(r.limit, max(n, 2*r.positions, 256))
	half := len(r.frequencies)
	data := make([]float32, positions*2*half)
	for p := range positions {
		row := data[p*2*half:]
		for i, f := range r.frequencies {
			angle := float64(float32(p) * f)
			row[i] = float32(math.Cos(angle))
			row[half+i] = float32(math.Sin(angle))
		}
	}
	table, err := upload(r.be, data)
	if err != nil {
		return nil, err
	}
	// The old table is left to the collector: a computation may still read it.
	r.table, r.positions = table, positions
	return table, nil
}
