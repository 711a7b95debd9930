package expert

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

func TestGradientsAreFiniteDifferences(t *testing.T) {
	sigma := []float32{5, 2.5, 1, 0.25}
	weights := []float64{0.7, -1.3, 2, 0.4} // L = Σ weights·sin(s)
	loss := func(param Parameterization, p []float32) float64 {
		l := 0.0
		for i, z := range param.Z(sigma, p) {
			l += weights[i] * math.Sin(float64(sigma[i])*float64(z))
		}
		return l
	}
	for _, name := range []string{contract.ParameterizationSigmoid, contract.ParameterizationDirect} {
		param, err := NewParameterization(name)
		if err != nil {
			t.Fatal(err)
		}
		p := []float32{0.3, -0.2, 0.9, 0.1}
		ds := make([]float32, len(p))
		for i, z := range param.Z(sigma, p) {
			ds[i] = float32(weights[i] * math.Cos(float64(sigma[i])*float64(z)))
		}
		for i, g := range param.Grad(sigma, p, ds) {
			const h = 1e-2
			up, down := slices.Clone(p), slices.Clone(p)
			up[i] += h
			down[i] -= h
			want := (loss(param, up) - loss(param, down)) / (2 * h)
			if math.Abs(float64(g)-want) > 2e-3*(1+math.Abs(want)) {
				t.Errorf("%s: gradient[%d] is %v, the difference quotient %v", name, i, g, want)
			}
		}
	}
}

func TestTheNormaliserKeepsTheSumOfSingularValues(t *testing.T) {
	sigma := []float32{9, 4, 1, 0.5, 0.01}
	rng := rand.New(rand.NewPCG(1, 2))
	param := Sigmoid{M: 1}
	p := param.Init(len(sigma), rng)
	for i := range p {
		p[i] += float32(rng.NormFloat64())
	}
	sum, scaled := 0.0, 0.0
	for i, z := range param.Z(sigma, p) {
		sum += float64(sigma[i])
		scaled += float64(sigma[i]) * float64(z)
	}
	if math.Abs(sum-scaled) > 1e-5 {
		t.Errorf("Σσ is %v, Σσz %v", sum, scaled)
	}
}

func TestTrainingStartsNearTheBase(t *testing.T) {
	sigma := make([]float32, 200)
	for i := range sigma {
		sigma[i] = float32(200 - i)
	}
	for _, name := range []string{contract.ParameterizationSigmoid, contract.ParameterizationDirect} {
		param, err := NewParameterization(name)
		if err != nil {
			t.Fatal(err)
		}
		p := param.Init(len(sigma), rand.New(rand.NewPCG(7, 7)))
		if again := param.Init(len(sigma), rand.New(rand.NewPCG(7, 7))); !slices.Equal(p, again) {
			t.Errorf("%s: the same seed gave another start", name)
		}
		for i, z := range param.Z(sigma, p) {
			if math.Abs(float64(z)-1) > 0.03 {
				t.Errorf("%s: z[%d] starts at %v", name, i, z)
			}
		}
	}
	if _, err := NewParameterization("Magic"); err == nil {
		t.Error("an unknown parameterisation was accepted")
	} else if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent {
		t.Errorf("classified as %s, %v", reason, permanent)
	}
}
