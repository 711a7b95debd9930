//go:build unix

package model_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// smol is the shape of SmolLM2-135M.
func smol() shape {
	s := small()
	s.Layers, s.Vocab = 30, 49152
	return s
}

// methods is an unmerged model that experts of every method are computed with, as the
// engine makes it, and what rows of it are scaled by: low-rank pairs of all matrices, and
// IA3's gains of keys, values and the inputs of the last matrix.
type methods struct {
	alone *model.Model // Factors, without the other methods.
	mixed *model.Model
	one   *model.Scales // SVF in alone, and in mixed,
	same  *model.Scales
	all   []*model.Scales // and of all methods in turn.
}

func newMethods(b *testing.B, kind backend.DType, experts int) methods {
	b.Helper()
	const rank = 16
	base := newModel(b, newBackend(b, 0), smol(), model.WeightsAs(kind))
	factors := randomFactors(base)
	alone, err := base.WithFactors(factors)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 3))
	numbers := func(n int, mean, deviation float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(mean + deviation*r.NormFloat64())
		}
		return v
	}
	low := 0 // LoRA experts.
	for i := range experts {
		if i%3 == 1 {
			low++
		}
	}
	pairs := map[string][]model.LowRank{}
	var in, out []string
	for _, info := range base.Linears() {
		for range low {
			pairs[info.Name] = append(pairs[info.Name], model.LowRank{
				A: &tensor.Tensor{Shape: []int{rank, info.In}, Data: numbers(rank*info.In, 0, 0.02)},
				B: &tensor.Tensor{Shape: []int{info.Out, rank}, Data: numbers(rank*info.Out, 0, 0.02)},
			})
		}
		switch info.Module {
		case "k_proj", "v_proj":
			out = append(out, info.Name)
		case "down_proj":
			in = append(in, info.Name)
		}
	}
	mixed, err := alone.WithLowRank(pairs)
	if err != nil {
		b.Fatal(err)
	}
	if mixed, err = mixed.WithGains(in, out); err != nil {
		b.Fatal(err)
	}
	z := mixture(factors, 1)
	m := methods{alone: alone, mixed: mixed, one: newScales(b, alone, z), same: newScales(b, mixed, z)}
	for i := range experts {
		each := map[string]model.Branch{}
		for _, info := range base.Linears() {
			switch i % 3 {
			case 0:
				each[info.Name] = model.Branch{Z: numbers(len(factors[info.Name].S), 1, 0.1)}
			case 1:
				scales := make([]float32, low)
				scales[i/3] = 2
				each[info.Name] = model.Branch{Low: scales}
			default:
				if strings.HasSuffix(info.Name, "down_proj") {
					each[info.Name] = model.Branch{In: numbers(info.In, 1, 0.1)}
				} else if slices.Contains(out, info.Name) {
					each[info.Name] = model.Branch{Out: numbers(info.Out, 1, 0.1)}
				}
			}
		}
		scales, err := mixed.NewScales(each)
		if err != nil {
			b.Fatal(err)
		}
		m.all = append(m.all, scales)
	}
	return m
}

// BenchmarkMethods continues sequences of SVF, LoRA and IA3 experts in one unmerged batch
// at the shape of 135M, beside as many sequences of one SVF expert. All take turns, so that
// the ratios of their medians hold on a busy machine:
//
//	throughput-of-one   the time of one SVF expert, whose model has nothing but its
//	                    factors, by that of the mixed batch
//	throughput-of-same  the same, in the model of the mixed batch
//	by-processor        throughput-of-one in processor time, which says more on a busy
//	                    machine
func BenchmarkMethods(b *testing.B) {
	const prompt = 32
	for _, kind := range []backend.DType{backend.F32, backend.BF16} {
		for _, experts := range []int{3, 8} {
			m := newMethods(b, kind, experts)
			for _, n := range []struct{ sequences, tokens int }{{8, 1}, {32, 1}, {8, 64}} {
				b.Run(fmt.Sprintf("type=%s/experts=%d/sequences=%d/tokens=%d", kind, experts, n.sequences, n.tokens), func(b *testing.B) {
					c, err := m.alone.NewCache(n.sequences, prompt+n.tokens)
					if err != nil {
						b.Fatal(err)
					}
					defer c.Close()
					segments := func(tokens int, scales func(i int) *model.Scales) []model.Segment {
						var list []model.Segment
						for i := range n.sequences {
							list = append(list, model.Segment{Seq: i, Tokens: randomTokens(tokens, smol().Vocab, uint64(i)), Scales: scales(i)})
						}
						return list
					}
					step(b, m.alone, c, segments(prompt, func(int) *model.Scales { return m.one })...)
					const one, same, mixed, ways = 0, 1, 2, 3
					steps := [ways]func(){
						one:  func() { step(b, m.alone, c, segments(n.tokens, func(int) *model.Scales { return m.one })...) },
						same: func() { step(b, m.mixed, c, segments(n.tokens, func(int) *model.Scales { return m.same })...) },
						mixed: func() {
							step(b, m.mixed, c, segments(n.tokens, func(i int) *model.Scales { return m.all[i%experts] })...)
						},
					}
					var took, busy [ways][]time.Duration
					for b.Loop() {
						for way, advance := range steps {
							begun, before := time.Now(), processorTime(b)
							advance()
							took[way] = append(took[way], time.Since(begun))
							busy[way] = append(busy[way], processorTime(b)-before)
							for i := range n.sequences {
								if err := c.Truncate(i, prompt); err != nil {
									b.Fatal(err)
								}
							}
						}
					}
					var median, processor [ways]float64
					for way := range took {
						slices.Sort(took[way])
						slices.Sort(busy[way])
						median[way] = float64(took[way][len(took[way])/2])
						processor[way] = float64(busy[way][len(busy[way])/2])
					}
					b.ReportMetric(median[one]/median[mixed], "throughput-of-one")
					b.ReportMetric(processor[one]/processor[mixed], "by-processor")
					b.ReportMetric(median[same]/median[mixed], "throughput-of-same")
					b.ReportMetric(median[mixed]/1e6, "ms/mixed-step")
				})
			}
		}
	}
}
