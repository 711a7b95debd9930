package expert

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Parameterization maps the trained parameters p of one matrix to its effective
// z and carries gradients back. R is the matrix' rank; σ, p, z and gradients
// all have R elements.
type Parameterization interface {
	// Init returns the initial p for a matrix of rank r.
	Init(r int, rng *rand.Rand) []float32
	// Z returns the effective z, so that the scaled singular values are σ⊙z.
	Z(sigma, p []float32) []float32
	// Grad returns dL/dp for dL/ds, where s = σ⊙z are the scaled singular
	// values.
	Grad(sigma, p, dLds []float32) []float32
}

// NewParameterization returns the parameterisation of this name:
// contract.ParameterizationSigmoid or contract.ParameterizationDirect.
func NewParameterization(name string) (Parameterization, error) {
	switch name {
	case contract.ParameterizationSigmoid:
		return Sigmoid{M: 1}, nil
	case contract.ParameterizationDirect:
		return Direct{}, nil
	default:
		return nil, failure.Permanentf(contract.ReasonUsage, "parameterization %q is unknown: choose %s or %s",
			name, contract.ParameterizationSigmoid, contract.ParameterizationDirect)
	}
}

// Sigmoid is the parameterisation of the paper's reference implementation:
//
//	ẑ = m·sigmoid(p)
//	W' = U·diag(σ⊙ẑ)·Vᵀ · Σσ / Σ(σ⊙ẑ)
//
// so the effective z is c·ẑ with c = Σσ/Σ(σ⊙ẑ), which keeps the sum of the
// singular values.
type Sigmoid struct {
	// M bounds ẑ; the reference uses 1.
	M float64
}

// Init draws p from 0.1 + 0.01·N(0, 1).
func (Sigmoid) Init(r int, rng *rand.Rand) []float32 {
	p := make([]float32, r)
	for i := range p {
		p[i] = float32(0.1 + 0.01*rng.NormFloat64())
	}
	return p
}

// scale returns ẑ, Σ(σ⊙ẑ) and c. For a zero matrix c is 1.
func (s Sigmoid) scale(sigma, p []float32) (z []float64, weighted, c float64) {
	z = make([]float64, len(p))
	total := 0.0
	for i := range p {
		z[i] = s.M / (1 + math.Exp(-float64(p[i])))
		total += float64(sigma[i])
		weighted += float64(sigma[i]) * z[i]
	}
	if weighted <= 0 {
		return z, weighted, 1
	}
	return z, weighted, total / weighted
}

// Z returns c·m·sigmoid(p).
func (s Sigmoid) Z(sigma, p []float32) []float32 {
	z, _, c := s.scale(sigma, p)
	effective := make([]float32, len(z))
	for i := range z {
		effective[i] = float32(c * z[i])
	}
	return effective
}

// Grad differentiates s = σ⊙(c·ẑ), the normaliser c included: with
// dc/dẑⱼ = −c·σⱼ/Σ(σ⊙ẑ),
//
//	dL/dẑⱼ = c·σⱼ·(gⱼ − Σᵢ gᵢσᵢẑᵢ / Σ(σ⊙ẑ)),  dẑ/dp = ẑ·(1 − ẑ/m).
func (s Sigmoid) Grad(sigma, p, dLds []float32) []float32 {
	z, weighted, c := s.scale(sigma, p)
	mean := 0.0
	if weighted > 0 {
		for i := range z {
			mean += float64(dLds[i]) * float64(sigma[i]) * z[i]
		}
		mean /= weighted
	}
	grad := make([]float32, len(p))
	for j := range grad {
		grad[j] = float32(c * float64(sigma[j]) * (float64(dLds[j]) - mean) * z[j] * (1 - z[j]/s.M))
	}
	return grad
}

// Direct trains z itself, without a normaliser.
type Direct struct{}

// Init returns ones: the base model.
func (Direct) Init(r int, _ *rand.Rand) []float32 {
	p := make([]float32, r)
	for i := range p {
		p[i] = 1
	}
	return p
}

// Z returns a copy of p.
func (Direct) Z(_, p []float32) []float32 { return append([]float32(nil), p...) }

// Grad returns dL/ds ⊙ σ.
func (Direct) Grad(sigma, _, dLds []float32) []float32 {
	grad := make([]float32, len(dLds))
	for i := range grad {
		grad[i] = dLds[i] * sigma[i]
	}
	return grad
}

// ScaledSigma returns σ⊙z, rounded once.
func ScaledSigma(sigma, z []float32) ([]float32, error) {
	if len(sigma) != len(z) {
		return nil, fmt.Errorf("z has %d elements for %d singular values", len(z), len(sigma))
	}
	s := make([]float32, len(z))
	for i := range s {
		s[i] = sigma[i] * z[i]
	}
	return s, nil
}
