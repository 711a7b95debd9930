package cpu

import (
	"fmt"
	"sync"

	"github.com/transformersquared/operator/runtime/backend"
)

// packed is a matrix W [out, k] in panels of nr rows: panel p holds, for each
// column i, W[p·nr … p·nr+nr−1, i], so that a product reads it front to back and
// computes nr outputs at once. The last panel is filled up with zeros.
type packed struct {
	panels     []float32
	out, k, nr int
}

func pack(out, k, nr int, at func(row, col int) float32) *packed {
	count := (out + nr - 1) / nr
	p := &packed{panels: make([]float32, count*nr*k), out: out, k: k, nr: nr}
	for panel := range count {
		base := panel * nr * k
		rows := min(nr, out-panel*nr)
		for i := range k {
			dst := p.panels[base+i*nr:]
			for r := range rows {
				dst[r] = at(panel*nr+r, i)
			}
		}
	}
	return p
}

// at returns W[row, col].
func (p *packed) at(row, col int) float32 {
	return p.panels[(row/p.nr*p.k+col)*p.nr+row%p.nr]
}

// weight is a constant matrix. The layout for the backward product is made when
// it is first needed: inference never pays for it.
type weight struct {
	forward *packed

	backOnce sync.Once
	back     *packed // Wᵀ.
}

// Out implements backend.Weight.
func (w *weight) Out() int { return w.forward.out }

// In implements backend.Weight.
func (w *weight) In() int { return w.forward.k }

func (w *weight) backward() *packed {
	w.backOnce.Do(func() {
		f := w.forward
		w.back = pack(f.k, f.out, f.nr, func(row, col int) float32 { return f.at(col, row) })
	})
	return w.back
}

// NewWeight implements backend.Device.
func (b *Backend) NewWeight(out, in int, data []float32) (backend.Weight, error) {
	if out <= 0 || in <= 0 || len(data)/out != in || len(data)%out != 0 {
		return nil, fmt.Errorf("new weight [%d, %d]: %d elements given", out, in, len(data))
	}
	return &weight{forward: pack(out, in, b.kernels.nr, func(row, col int) float32 {
		return data[row*in+col]
	})}, nil
}

// WeightData implements backend.Device.
func (b *Backend) WeightData(w backend.Weight) ([]float32, error) {
	own, err := ownWeight(w)
	if err != nil {
		return nil, fmt.Errorf("weight data: %w", err)
	}
	out, in := own.Out(), own.In()
	data := make([]float32, out*in)
	for r := range out {
		for c := range in {
			data[r*in+c] = own.forward.at(r, c)
		}
	}
	return data, nil
}

func ownWeight(w backend.Weight) (*weight, error) {
	own, ok := w.(*weight)
	if !ok || own == nil {
		return nil, fmt.Errorf("the weight is none of the cpu backend")
	}
	return own, nil
}
