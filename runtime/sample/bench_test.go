package sample_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/transformersquared/operator/runtime/sample"
)

// BenchmarkNext chooses one token of a vocabulary as large as SmolLM2's and as
// Llama 3's.
//
//	go test -run - -bench Next ./runtime/sample
func BenchmarkNext(b *testing.B) {
	for _, vocabulary := range []int{49152, 128256} {
		rng := rand.New(rand.NewPCG(1, 2))
		logits := make([]float32, vocabulary)
		for i := range logits {
			logits[i] = float32(3 * rng.NormFloat64())
		}
		for _, c := range []struct {
			name   string
			params sample.Params
		}{
			{"greedy", sample.Params{}},
			{"temperature", sample.Params{Temperature: 1}},
			{"top-k", sample.Params{Temperature: 1, TopK: 40}},
			{"top-p", sample.Params{Temperature: 1, TopP: 0.9}},
			{"penalty", sample.Params{Temperature: 1, FrequencyPenalty: 0.5}},
		} {
			b.Run(fmt.Sprintf("vocabulary=%d/%s", vocabulary, c.name), func(b *testing.B) {
				s := sample.New(c.params, sample.Stream(1))
				for b.Loop() {
					if _, err := s.Next(logits); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
