package train

import "math"

// Constants of Adam, as in the paper (PyTorch's defaults, no weight decay).
const (
	adamBeta1 = 0.9
	adamBeta2 = 0.999
	adamEps   = 1e-8
)

// clipEps keeps PyTorch's clip_grad_norm_ from dividing by zero; it is part of
// the reference algorithm's arithmetic.
const clipEps = 1e-6

// moments are Adam's running averages of one matrix' gradients.
type moments struct {
	M, V []float32
}

// adamStep updates p in place by gradient g; t counts steps from 1.
func adamStep(p, g []float32, m moments, t int, learningRate float64) {
	correct1 := 1 - math.Pow(adamBeta1, float64(t))
	correct2 := math.Sqrt(1 - math.Pow(adamBeta2, float64(t)))
	rate := learningRate / correct1
	for i := range p {
		d := float64(g[i])
		m.M[i] = float32(adamBeta1*float64(m.M[i]) + (1-adamBeta1)*d)
		m.V[i] = float32(adamBeta2*float64(m.V[i]) + (1-adamBeta2)*d*d)
		p[i] -= float32(rate * float64(m.M[i]) / (math.Sqrt(float64(m.V[i]))/correct2 + adamEps))
	}
}

// globalNorm returns the Euclidean norm of all gradients together; names fixes
// the order of summation.
func globalNorm(names []string, g map[string][]float32) float64 {
	sum := 0.0
	for _, name := range names {
		for _, d := range g[name] {
			sum += float64(d) * float64(d)
		}
	}
	return math.Sqrt(sum)
}

// clip scales all gradients so that their norm is at most most; 0 means no
// bound.
func clip(g map[string][]float32, norm, most float64) {
	factor := most / (norm + clipEps)
	if most == 0 || factor >= 1 {
		return
	}
	for _, d := range g {
		for i := range d {
			d[i] = float32(float64(d[i]) * factor)
		}
	}
}
