package model_test

import (
	"fmt"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// BenchmarkTrainingStep is a forward and a backward pass of the demo model's
// shape: 64 sequences of 40 tokens, the MLP or all projections factored.
func BenchmarkTrainingStep(b *testing.B) {
	cases := []struct {
		name    string
		modules []string
	}{
		{"mlp", []string{"gate_proj", "up_proj", "down_proj"}},
		{"all", nil},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			base := newModel(b, newBackend(b, 0), demo())
			m, err := base.WithFactors(randomFactors(base, c.modules...))
			if err != nil {
				b.Fatal(err)
			}
			var sequences []model.Sequence
			for i := range 64 {
				sequences = append(sequences, model.Sequence{Tokens: randomTokens(41, 512, uint64(i)), From: 28})
			}
			report := reportCPU(b)
			for b.Loop() {
				logits, tape := forward(b, m, sequences)
				gradient := tensor.New(logits.Shape...)
				for i := range gradient.Data {
					gradient.Data[i] = 1e-3
				}
				backward(b, m, tape, gradient)
			}
			report()
			b.ReportMetric(float64(64*40*b.N)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}

// BenchmarkDecode continues 1, 8 and 64 sequences by one token at a time, on the
// demo model with each type of weights.
func BenchmarkDecode(b *testing.B) {
	for _, kind := range backend.DTypes() {
		for _, seqs := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("type=%s/%d", kind, seqs), func(b *testing.B) {
				benchmarkDecode(b, demo(), kind, seqs)
			})
		}
	}
}

// BenchmarkDecodeLarger is one sequence on a model whose float32 weights, 500 MB,
// are read from memory for each token.
func BenchmarkDecodeLarger(b *testing.B) {
	for _, kind := range backend.DTypes() {
		b.Run("type="+kind.String(), func(b *testing.B) {
			benchmarkDecode(b, larger(), kind, 1)
		})
	}
}

func benchmarkDecode(b *testing.B, s shape, kind backend.DType, seqs int) {
	m := newModel(b, newBackend(b, 0), s, model.WeightsAs(kind))
	c, err := m.NewCache(seqs, 128)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var prompt, next []model.Segment
	for i := range seqs {
		prompt = append(prompt, model.Segment{Seq: i, Tokens: randomTokens(32, 512, uint64(i))})
		next = append(next, model.Segment{Seq: i, Tokens: []int32{int32(i)}})
	}
	if _, err := m.Step(b.Context(), c, prompt); err != nil {
		b.Fatal(err)
	}
	report := reportCPU(b)
	for b.Loop() {
		for i := range seqs {
			if c.Len(i) == c.MaxLen() {
				if err := c.Truncate(i, 32); err != nil {
					b.Fatal(err)
				}
			}
		}
		if _, err := m.Step(b.Context(), c, next); err != nil {
			b.Fatal(err)
		}
	}
	report()
	b.ReportMetric(float64(seqs*b.N)/b.Elapsed().Seconds(), "tok/s")
}

// BenchmarkPrefill computes a prompt of 256 tokens.
func BenchmarkPrefill(b *testing.B) {
	m := newModel(b, newBackend(b, 0), demo())
	c, err := m.NewCache(1, 256)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	prompt := []model.Segment{{Tokens: randomTokens(256, 512, 1)}}
	report := reportCPU(b)
	for b.Loop() {
		if err := c.Truncate(0, 0); err != nil {
			b.Fatal(err)
		}
		if _, err := m.Step(b.Context(), c, prompt); err != nil {
			b.Fatal(err)
		}
	}
	report()
	b.ReportMetric(float64(256*b.N)/b.Elapsed().Seconds(), "tok/s")
}
