package train

import (
	"context"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tensor"
)

// Names of the parameters of a matrix, behind its own.
const (
	suffixA         = ".lora_A"
	suffixB         = ".lora_B"
	suffixMagnitude = ".magnitude"
)

// lowRank trains LoRA (arXiv 2106.09685), W' = W + α/r·B·A, and DoRA (arXiv
// 2402.09353), W' = diag(m/‖W + α/r·B·A‖)·(W + α/r·B·A), where the norm of each row is
// taken for a constant by the gradient (section 4.3 there). A begins as PEFT begins it,
// uniform within ±1/√In, B with zeros and m with the norms of W: the base model.
type lowRank struct {
	base, adapted *model.Model
	infos         []model.LinearInfo
	rank          int
	scale         float32
	magnitudes    bool
	seed          uint64

	squares map[string][]float64 // Of the rows of the base, of DoRA,
	norms   map[string][]float32 // and the norms with the parameters applied last.
}

func newLowRank(in inputs, spec contract.TrainSpec) (*lowRank, error) {
	h := spec.Hyperparameters
	otherwise, err := modulesOf(in.dec)
	if err != nil {
		return nil, err
	}
	infos, err := selectLinears(in.base, spec.Modules, otherwise)
	if err != nil {
		return nil, err
	}
	m := &lowRank{
		base: in.base, infos: infos, rank: h.Rank, scale: float32(h.Alpha / float64(h.Rank)), magnitudes: expert.Method(h.Method) == expert.DoRA,
		seed: h.Seed, squares: map[string][]float64{}, norms: map[string][]float32{},
	}
	pairs, names := map[string][]model.LowRank{}, []string(nil)
	for _, info := range infos {
		pairs[info.Name] = []model.LowRank{{A: tensor.New(m.rank, info.In), B: tensor.New(info.Out, m.rank), Scale: m.scale}}
		names = append(names, info.Name)
	}
	if m.adapted, err = in.base.WithLowRank(pairs); err != nil {
		return nil, err
	}
	if !m.magnitudes {
		return m, nil
	}
	for _, name := range names {
		if m.squares[name], err = in.base.RowSquares(name); err != nil {
			return nil, err
		}
	}
	m.adapted, err = m.adapted.WithGains(nil, names)
	return m, err
}

// modulesOf lists the modules of a decomposition: what a run adapts where it names none.
func modulesOf(d *expert.Decomposition) ([]string, error) {
	names, err := d.Select(nil)
	if err != nil {
		return nil, err
	}
	var modules []string
	for _, name := range names {
		if m := expert.ModuleOf(name); !slices.Contains(modules, m) {
			modules = append(modules, m)
		}
	}
	return modules, nil
}

func (m *lowRank) model() *model.Model { return m.adapted }

func (m *lowRank) initial() (map[string][]float32, error) {
	p := map[string][]float32{}
	for i, info := range m.infos {
		rng, bound := sample.Stream(m.seed, streamInit, uint64(i)), 1/math.Sqrt(float64(info.In))
		a := make([]float32, m.rank*info.In)
		for j := range a {
			a[j] = float32((2*rng.Float64() - 1) * bound)
		}
		p[info.Name+suffixA], p[info.Name+suffixB] = a, make([]float32, info.Out*m.rank)
		if m.magnitudes {
			norms, err := m.base.RowNorms(info.Name, m.squares[info.Name], m.pair(info, p))
			if err != nil {
				return nil, err
			}
			p[info.Name+suffixMagnitude] = norms
		}
	}
	return p, nil
}

// pair is the one that parameters p make of a matrix.
func (m *lowRank) pair(info model.LinearInfo, p map[string][]float32) model.LowRank {
	return model.LowRank{
		A:     &tensor.Tensor{Shape: []int{m.rank, info.In}, Data: p[info.Name+suffixA]},
		B:     &tensor.Tensor{Shape: []int{info.Out, m.rank}, Data: p[info.Name+suffixB]},
		Scale: m.scale,
	}
}

// gain is what DoRA multiplies the rows of the sum by, m/‖W + α/r·B·A‖.
func (m *lowRank) gain(info model.LinearInfo, p map[string][]float32) (gain, norms []float32, err error) {
	if norms, err = m.base.RowNorms(info.Name, m.squares[info.Name], m.pair(info, p)); err != nil {
		return nil, nil, err
	}
	gain = slices.Clone(p[info.Name+suffixMagnitude])
	for o := range gain {
		gain[o] /= max(norms[o], math.SmallestNonzeroFloat32)
	}
	return gain, norms, nil
}

func (m *lowRank) apply(p map[string][]float32) error {
	for _, info := range m.infos {
		set := model.Parameters{A: p[info.Name+suffixA], B: p[info.Name+suffixB]}
		if m.magnitudes {
			var err error
			if set.Out, m.norms[info.Name], err = m.gain(info, p); err != nil {
				return err
			}
			// What the model adds beside the matrix is multiplied, too.
			set.B = slices.Clone(set.B)
			for i := range set.B {
				set.B[i] *= set.Out[i/m.rank]
			}
		}
		if err := m.adapted.SetParameters(info.Name, set); err != nil {
			return err
		}
	}
	return nil
}

func (m *lowRank) gradient(d map[string]model.Parameters, p map[string][]float32) map[string][]float32 {
	g := make(map[string][]float32, len(p))
	for _, info := range m.infos {
		of := d[info.Name]
		g[info.Name+suffixA], g[info.Name+suffixB] = of.A, of.B
		if !m.magnitudes {
			continue
		}
		// With o = m/norm the model computes o⊙(W·x) + s·(o⊙B)·(A·x).
		b, norms, magnitude := p[info.Name+suffixB], m.norms[info.Name], p[info.Name+suffixMagnitude]
		dm := make([]float32, info.Out)
		for o := range dm {
			norm := max(norms[o], math.SmallestNonzeroFloat32)
			sum := float64(of.Out[o])
			for i := range m.rank {
				at := o*m.rank + i
				sum += float64(of.B[at]) * float64(b[at])
				of.B[at] *= magnitude[o] / norm
			}
			dm[o] = float32(sum / float64(norm))
		}
		g[info.Name+suffixMagnitude] = dm
	}
	return g
}

func (m *lowRank) adapter(p map[string][]float32) (expert.Adapter, error) {
	a := expert.Adapter{Method: expert.LoRA, Low: map[string]expert.LowRank{}}
	if m.magnitudes {
		a.Method, a.Out = expert.DoRA, map[string][]float32{}
	}
	for _, info := range m.infos {
		pair := m.pair(info, p)
		pair.A, pair.B = pair.A.Clone(), pair.B.Clone()
		low := expert.LowRank{LowRank: pair}
		if m.magnitudes {
			low.Magnitude = slices.Clone(p[info.Name+suffixMagnitude])
			gain, _, err := m.gain(info, p)
			if err != nil {
				return a, err
			}
			a.Out[info.Name] = gain
		}
		a.Low[info.Name] = low
	}
	return a, nil
}

func (m *lowRank) answers(context.Context) (*model.Model, error) { return m.adapted, nil }

func (m *lowRank) kept() int {
	n := len(m.infos) * m.rank
	if m.magnitudes {
		for _, info := range m.infos {
			n += info.Out
		}
	}
	return n
}
