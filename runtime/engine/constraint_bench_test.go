package engine_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/checkpoint/checkpointtest"
	"github.com/transformersquared/operator/runtime/constrain"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// BenchmarkConstrained answers with and without a schema in turns, at the shape of a model of
// 135 M parameters with its vocabulary, one request at a time and eight:
//
//	tok/s        without a schema
//	constrained  tokens a second with it, by those without: the median of the turns
func BenchmarkConstrained(b *testing.B) {
	root := os.Getenv("T2_SHARED_DATA")
	if root == "" {
		b.Skip("T2_SHARED_DATA is not set: the vocabularies of published models are not part of the repository")
	}
	tok, err := tokenizer.Load(filepath.Join(root, "tokenizers", "smollm2"))
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	checkpointtest.Write(b, dir, checkpointtest.Shape{
		Layers: 30, Hidden: 576, Intermediate: 1536, Heads: 9, KVHeads: 3, HeadDim: 64, Vocab: tok.VocabSize(), Tied: true, Seed: 1,
	})
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	base, err := model.Load(b.Context(), registrytest.Open(b, 2), ck, model.WeightsAs(backend.BF16))
	if err != nil {
		b.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(b.Context(), engine.Options{Base: base})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	vocabulary := constrain.NewVocabulary(tok.VocabSize(), func(id int32) []byte {
		if tok.IsSpecial(id) {
			return nil
		}
		return tok.TokenBytes(id)
	})
	// Long enough for every answer, and a new state for each letter.
	grammar, err := constrain.NewCompiler(vocabulary, constrain.Options{}).Schema(b.Context(),
		[]byte(`{"type":"array","minItems":40,"items":{"type":"object","properties":{"name":{"type":"string","maxLength":40},"id":{"type":"integer"},"kind":{"enum":["a","b"]}},"required":["name","id","kind"]}}`))
	if err != nil {
		b.Fatal(err)
	}
	const tokens = 48
	answer := func(seed uint64, constraint *constrain.Matcher) error {
		_, err := e.Generate(b.Context(), engine.Request{
			Prompt: []int32{1, 2, 3, 4}, MaxTokens: tokens, Logprobs: -1, Seed: seed, Sampling: sample.Params{Temperature: 1, TopP: 0.9},
			Constraint: constraint,
		}, func(engine.Delta) error { return nil })
		return err
	}
	for _, c := range []struct {
		name     string
		requests int
	}{{"1", 1}, {"8", 8}} {
		b.Run(c.name, func(b *testing.B) {
			turn := func(seed uint64, constrained bool) time.Duration {
				begun := time.Now()
				done := make(chan error, c.requests)
				for i := range c.requests {
					var m *constrain.Matcher
					if constrained {
						m = grammar.NewMatcher(nil)
					}
					go func() { done <- answer(seed+uint64(i), m) }()
				}
				for range c.requests {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				return time.Since(begun)
			}
			var plain time.Duration
			var ratios []float64
			for seed := uint64(0); b.Loop(); seed += 100 {
				without := turn(seed, false)
				with := turn(seed, true)
				plain += without
				ratios = append(ratios, without.Seconds()/with.Seconds())
			}
			slices.Sort(ratios)
			b.ReportMetric(float64(tokens*c.requests*len(ratios))/plain.Seconds(), "tok/s")
			b.ReportMetric(ratios[len(ratios)/2], "constrained")
		})
	}
}
