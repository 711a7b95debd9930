package model_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// small is the shape of a model of 135 M parameters, with fewer layers and, to
// keep its share, a smaller vocabulary.
func small() shape {
	return shape{
		ModelType: "llama", Hidden: 576, Inner: 1536, Layers: 6, Heads: 9, KVHeads: 3, HeadDim: 64,
		Vocab: 8192, MaxPositions: 512, Eps: 1e-5, Theta: 10000, Activation: "silu", Tied: true,
	}
}

// BenchmarkMixtures continues eight sequences of some mixtures by some tokens
// each: in one unmerged batch, and by a merged model a mixture; and, to compare
// with, eight sequences of one mixture in either form. All four take turns, so
// that the ratios of their medians hold on a busy machine:
//
//	throughput-of-one  one mixture's time by all mixtures' time, both unmerged
//	speedup-on-merged  the merged models' time by the unmerged batch's time
//	cost-of-unmerged   the unmerged batch's time by that of one merged model
func BenchmarkMixtures(b *testing.B) {
	const sequences, prompt = 8, 32
	base := newModel(b, newBackend(b, 0), small())
	factors := randomFactors(base)
	unmerged, err := base.WithFactors(factors)
	if err != nil {
		b.Fatal(err)
	}
	var scales []*model.Scales
	var merged []*model.Model
	for i := range sequences {
		scales = append(scales, newScales(b, unmerged, mixture(factors, uint64(3*i+1))))
		// What the matrices hold does not matter here, but that they are its own.
		dense := map[string]*tensor.Tensor{}
		for _, info := range base.Linears() {
			if dense[info.Name], err = base.Weight(info.Name); err != nil {
				b.Fatal(err)
			}
		}
		m, err := base.WithDense(dense)
		if err != nil {
			b.Fatal(err)
		}
		merged = append(merged, m)
	}
	for _, n := range []struct{ mixtures, tokens int }{{2, 1}, {3, 1}, {8, 1}, {8, 16}} {
		mixtures, tokens := n.mixtures, n.tokens
		b.Run(fmt.Sprintf("mixtures=%d/tokens=%d", mixtures, tokens), func(b *testing.B) {
			segments := func(scaleOf func(i int) *model.Scales) []model.Segment {
				var list []model.Segment
				for i := range sequences {
					list = append(list, model.Segment{Seq: i, Tokens: randomTokens(tokens, small().Vocab, uint64(i)), Scales: scaleOf(i)})
				}
				return list
			}
			none := func(int) *model.Scales { return nil }
			const mergedOne, mergedAll, unmergedOne, unmergedAll, ways = 0, 1, 2, 3, 4
			steps := [ways]func(c *model.Cache){
				mergedOne: func(c *model.Cache) { step(b, merged[0], c, segments(none)...) },
				mergedAll: func(c *model.Cache) {
					batches := make([][]model.Segment, mixtures)
					for i, s := range segments(none) {
						batches[i%mixtures] = append(batches[i%mixtures], s)
					}
					for i, batch := range batches {
						step(b, merged[i], c, batch...)
					}
				},
				unmergedOne: func(c *model.Cache) {
					step(b, unmerged, c, segments(func(int) *model.Scales { return scales[0] })...)
				},
				unmergedAll: func(c *model.Cache) {
					step(b, unmerged, c, segments(func(i int) *model.Scales { return scales[i%mixtures] })...)
				},
			}
			c, err := base.NewCache(sequences, prompt+tokens)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			for i := range sequences {
				step(b, base, c, model.Segment{Seq: i, Tokens: randomTokens(prompt, small().Vocab, uint64(i))})
			}
			var took [ways][]time.Duration
			for b.Loop() {
				for way, advance := range steps {
					begun := time.Now()
					advance(c)
					took[way] = append(took[way], time.Since(begun))
					for i := range sequences {
						if err := c.Truncate(i, prompt); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			var median [ways]float64
			for way := range took {
				slices.Sort(took[way])
				median[way] = float64(took[way][len(took[way])/2])
			}
			b.ReportMetric(median[unmergedOne]/median[unmergedAll], "throughput-of-one")
			b.ReportMetric(median[mergedAll]/median[unmergedAll], "speedup-on-merged")
			b.ReportMetric(median[unmergedAll]/median[mergedOne], "cost-of-unmerged")
			b.ReportMetric(median[unmergedAll]/1e6, "ms/unmerged-step")
		})
	}
}
