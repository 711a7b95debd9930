package train

import (
	"context"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// method is what is trained: parameters p, by their names, and what they make of the
// base model. It belongs to one run.
type method interface {
	// model returns the base with what the parameters change beside it or in it. Of SVF it
	// is there once parameters were applied.
	model() *model.Model
	// initial returns the parameters that training begins with.
	initial() (map[string][]float32, error)
	// apply makes the model compute with parameters p.
	apply(p map[string][]float32) error
	// gradient turns the gradient with respect to what the model computes with into
	// that with respect to p, the parameters that were applied last.
	gradient(d map[string]model.Parameters, p map[string][]float32) map[string][]float32
	// adapter returns the expert that parameters p make, without a manifest.
	adapter(p map[string][]float32) (expert.Adapter, error)
	// answers returns what answers questions as the model does: the model itself, or
	// its merged form, where that is faster.
	answers(ctx context.Context) (*model.Model, error)
	// kept is how many activations a token leaves for the backward pass beyond the
	// base's.
	kept() int
}

// Names of random streams, the first number after the seed.
const (
	streamInit = iota
	streamOrder
	streamRollout
)

// newMethod makes the method of a specification.
func newMethod(in inputs, spec contract.TrainSpec) (method, error) {
	h := spec.Hyperparameters
	switch expert.Method(h.Method) {
	case "", expert.SVF:
		return newSVF(in, spec)
	case expert.LoRA, expert.DoRA:
		return newLowRank(in, spec)
	case expert.IA3:
		return newGains(in, spec)
	default:
		return nil, failure.Permanentf(contract.ReasonUsage, "method %q is unknown: use one of %v", h.Method, expert.Methods())
	}
}

// svf trains a vector z that scales the singular values (section 3.1 of the paper).
// Its parameters have the names of their matrices.
type svf struct {
	dec      *expert.Decomposition
	base     *model.Model // Until the factors are read.
	factored *model.Model // The base with factors, from the first apply on.
	merged   *model.Model // factored in merged form.
	unmerged bool         // Questions are answered without merging.
	matrices []string
	sigma    map[string][]float32
	param    expert.Parameterization
	seed     uint64
}

func newSVF(in inputs, spec contract.TrainSpec) (*svf, error) {
	m := &svf{
		dec: in.dec, base: in.base, unmerged: spec.Objective == contract.ObjectiveEvolution,
		sigma: map[string][]float32{}, seed: spec.Hyperparameters.Seed,
	}
	var err error
	if m.param, err = expert.NewParameterization(spec.Hyperparameters.Parameterization); err != nil {
		return nil, err
	}
	if m.matrices, err = in.dec.Select(spec.Modules); err != nil {
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	for _, name := range m.matrices {
		if m.sigma[name], err = in.dec.Sigma(name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// attach reads the factors, one matrix at a time, so that no more of them than one are
// there twice; and where nobody else holds the base, its own matrices go as factors come.
func (m *svf) attach() error {
	if m.factored != nil {
		return nil
	}
	factored := m.base
	m.base = nil
	for _, name := range m.matrices {
		var err error
		if factored, err = expert.Attach(factored, m.dec, []string{name}); err != nil {
			return err
		}
	}
	m.factored = factored
	return nil
}

func (m *svf) model() *model.Model { return m.factored }

func (m *svf) initial() (map[string][]float32, error) {
	p := map[string][]float32{}
	for i, name := range m.matrices {
		p[name] = m.param.Init(len(m.sigma[name]), sample.Stream(m.seed, streamInit, uint64(i)))
	}
	return p, nil
}

func (m *svf) apply(p map[string][]float32) error {
	scales := make(map[string][]float32, len(p))
	for name, values := range p {
		var err error
		if scales[name], err = expert.ScaledSigma(m.sigma[name], m.param.Z(m.sigma[name], values)); err != nil {
			return err
		}
	}
	return m.scale(scales)
}

// reset makes the model compute with z = 1: as the base.
func (m *svf) reset() error { return m.scale(m.sigma) }

func (m *svf) scale(scales map[string][]float32) error {
	if err := m.attach(); err != nil {
		return err
	}
	for name, s := range scales {
		if err := m.factored.SetParameters(name, model.Parameters{S: s}); err != nil {
			return err
		}
	}
	return nil
}

func (m *svf) gradient(d map[string]model.Parameters, p map[string][]float32) map[string][]float32 {
	g := make(map[string][]float32, len(p))
	for name, values := range p {
		g[name] = m.param.Grad(m.sigma[name], values, d[name].S)
	}
	return g
}

func (m *svf) adapter(p map[string][]float32) (expert.Adapter, error) {
	z := make(map[string][]float32, len(p))
	for name, values := range p {
		z[name] = m.param.Z(m.sigma[name], values)
	}
	return expert.Adapter{Method: expert.SVF, Z: z}, nil
}

// answers returns the factored model with its present scales in merged form, where it is
// to be merged. There is one, made anew each time in the same memory.
func (m *svf) answers(ctx context.Context) (*model.Model, error) {
	if m.unmerged {
		return m.factored, nil
	}
	if m.merged == nil {
		merged, err := m.factored.Merged(ctx)
		if err != nil {
			return nil, err
		}
		m.merged = merged
		return merged, nil
	}
	return m.merged, m.factored.MergeInto(ctx, m.merged)
}

func (m *svf) kept() int {
	n := 0
	for _, s := range m.sigma {
		n += len(s)
	}
	return n
}

// selectLinears lists the projections of these modules, or of those that are meant where
// there are none.
func selectLinears(m *model.Model, modules, otherwise []string) ([]model.LinearInfo, error) {
	if len(modules) == 0 {
		modules = otherwise
	}
	known := expert.Modules()
	for _, module := range modules {
		if !slices.Contains(known, module) {
			return nil, failure.Permanentf(contract.ReasonUsage, "module %q is unknown: choose from %v", module, known)
		}
	}
	return slices.DeleteFunc(m.Linears(), func(l model.LinearInfo) bool { return !slices.Contains(modules, l.Module) }), nil
}

// gains trains IA3 (arXiv 2205.05638): factors of the outputs of projections, and of the
// inputs of down_proj, from 1. Its parameters have the names of their matrices.
type gains struct {
	adapted *model.Model
	inputs  map[string]bool
	biases  map[string][]float32 // Of the base, which gains of outputs multiply; nil where it has none.
	infos   []model.LinearInfo
}

// ia3Modules are those that PEFT takes for Llama where none are named.
func ia3Modules() []string { return []string{"k_proj", "v_proj", "down_proj"} }

func newGains(in inputs, spec contract.TrainSpec) (*gains, error) {
	infos, err := selectLinears(in.base, spec.Modules, ia3Modules())
	if err != nil {
		return nil, err
	}
	m := &gains{infos: infos, inputs: map[string]bool{}, biases: map[string][]float32{}}
	var of, out []string
	for _, info := range infos {
		if info.Module == "down_proj" {
			m.inputs[info.Name] = true
			of = append(of, info.Name)
			continue
		}
		if m.biases[info.Name], err = in.base.Bias(info.Name); err != nil {
			return nil, err
		}
		out = append(out, info.Name)
	}
	m.adapted, err = in.base.WithGains(of, out)
	return m, err
}

func (m *gains) model() *model.Model { return m.adapted }

func (m *gains) initial() (map[string][]float32, error) {
	p := map[string][]float32{}
	for _, info := range m.infos {
		n := info.Out
		if m.inputs[info.Name] {
			n = info.In
		}
		p[info.Name] = slices.Repeat([]float32{1}, n)
	}
	return p, nil
}

func (m *gains) apply(p map[string][]float32) error {
	for name, values := range p {
		set := model.Parameters{Out: values, Bias: slices.Clone(m.biases[name])}
		for i := range set.Bias {
			set.Bias[i] *= values[i]
		}
		if m.inputs[name] {
			set = model.Parameters{In: values}
		}
		if err := m.adapted.SetParameters(name, set); err != nil {
			return err
		}
	}
	return nil
}

func (m *gains) gradient(d map[string]model.Parameters, p map[string][]float32) map[string][]float32 {
	g := make(map[string][]float32, len(p))
	for name := range p {
		g[name] = d[name].Out
		for i, b := range m.biases[name] { // (W·x + b)·g
			g[name][i] += b * d[name].Bias[i]
		}
		if m.inputs[name] {
			g[name] = d[name].In
		}
	}
	return g
}

func (m *gains) adapter(p map[string][]float32) (expert.Adapter, error) {
	a := expert.Adapter{Method: expert.IA3, In: map[string][]float32{}, Out: map[string][]float32{}}
	for name, values := range p {
		if m.inputs[name] {
			a.In[name] = slices.Clone(values)
		} else {
			a.Out[name] = slices.Clone(values)
		}
	}
	return a, nil
}

func (m *gains) answers(context.Context) (*model.Model, error) { return m.adapted, nil }

func (m *gains) kept() int {
	n := 0
	for _, info := range m.infos {
		if !m.inputs[info.Name] {
			n += info.Out
		}
	}
	return n
}
