package train

import (
	"math/rand/v2"
	"testing"

	"github.com/transformersquared/operator/runtime/tensor"
)

// BenchmarkObjective is the loss of 64 answer tokens over SmolLM2's vocabulary.
func BenchmarkObjective(b *testing.B) {
	const rows, vocabulary = 64, 49152
	r := rand.New(rand.NewPCG(1, 2))
	random := func() *tensor.Tensor {
		t := tensor.New(rows, vocabulary)
		for i := range t.Data {
			t.Data[i] = float32(r.NormFloat64() * 3)
		}
		return t
	}
	logits, base := random(), random()
	tokens := make([]int32, rows+1)
	o := loss{klWeight: 0.1, over: 1}
	for b.Loop() {
		policyGradient(b, o, []episode{{tokens: tokens, prompt: 1, advantage: 1}}, logits.Clone(), base)
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "tok/s")
}
