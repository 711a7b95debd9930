package expert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// FromPEFT makes an expert of an adapter in PEFT's format. base returns a matrix of the
// base model [Out, In]: DoRA's gains are the magnitudes through the norms of the sum. The
// manifest is the caller's.
func FromPEFT(ctx context.Context, a *peft.Adapter, base func(name string) (*tensor.Tensor, error)) (Adapter, error) {
	v := Adapter{Low: map[string]LowRank{}, In: map[string][]float32{}, Out: map[string][]float32{}}
	for _, name := range a.Names() {
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		m := a.Matrices[name]
		method := LoRA
		switch {
		case m.Vector != nil && m.Feedforward:
			method, v.In[name] = IA3, m.Vector
		case m.Vector != nil:
			method, v.Out[name] = IA3, m.Vector
		default:
			low := LowRank{LowRank: model.LowRank{A: m.A, B: m.B, Scale: float32(m.Scale)}, Magnitude: m.Magnitude}
			if m.Magnitude != nil {
				method = DoRA
				w, err := base(name)
				if err != nil {
					return v, fmt.Errorf("the base's %s: %w", name, err)
				}
				v.Out[name] = m.Gains(w)
			}
			v.Low[name] = low
		}
		if v.Method != "" && v.Method != method {
			return v, failure.Permanentf(contract.ReasonInvalidExpert, "the adapter is %s at %s, and %s elsewhere", method, name, v.Method)
		}
		v.Method = method
	}
	if v.Method == "" {
		return v, failure.Permanent(contract.ReasonInvalidExpert, errors.New("the adapter adapts no matrix"))
	}
	return v, nil
}

// PEFT makes of an expert of LoRA, DoRA or IA3 an adapter in PEFT's format. base names the
// base model, as its users call it.
func (v Adapter) PEFT(base string) (*peft.Adapter, error) {
	a := &peft.Adapter{Matrices: map[string]peft.Matrix{}}
	var modules, feedforward []string
	var rank int
	var alpha float64
	for _, name := range v.Matrices() {
		module := ModuleOf(name)
		if !slices.Contains(modules, module) {
			modules = append(modules, module)
		}
		switch v.Method {
		case IA3:
			in, scalesInputs := v.In[name]
			if scalesInputs && !slices.Contains(feedforward, module) {
				feedforward = append(feedforward, module)
			}
			m := peft.Matrix{Vector: in, Feedforward: scalesInputs}
			if !scalesInputs {
				m.Vector = v.Out[name]
			}
			a.Matrices[name] = m
		case LoRA, DoRA:
			low := v.Low[name]
			r := low.A.Rows()
			if rank == 0 {
				rank, alpha = r, float64(low.Scale)*float64(r)
			}
			if r != rank || math.Abs(float64(low.Scale)*float64(r)-alpha) > 1e-6*alpha {
				return nil, failure.Permanentf(contract.ReasonUsage, "%s has rank %d and scale %v, others have %d: PEFT's format is written for one rank and alpha", name, r, low.Scale, rank)
			}
			a.Matrices[name] = peft.Matrix{A: low.A, B: low.B, Scale: float64(low.Scale), Magnitude: low.Magnitude}
		default:
			return nil, failure.Permanentf(contract.ReasonUsage, "an expert of method %s has no form in PEFT's format: %s, %s and %s have", v.Method, LoRA, DoRA, IA3)
		}
	}
	var err error
	if v.Method == IA3 {
		a.Config, err = peft.NewIA3Config(base, modules, feedforward)
	} else {
		a.Config, err = peft.NewLoRAConfig(peft.LoRAOptions{Base: base, Modules: modules, Rank: rank, Alpha: alpha, DoRA: v.Method == DoRA})
	}
	return a, err
}
