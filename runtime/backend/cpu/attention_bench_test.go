package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
)

// BenchmarkPagedAttention decodes a token of each of 8 sequences, in turn with
// keys behind each other, in shuffled pages, and in such pages as bfloat16: paged-cost is
// the ratio of the first two's median times, and narrow-cost that of the last two's.
func BenchmarkPagedAttention(b *testing.B) {
	const sequences, pageSize = 8, 32
	shape := backend.AttentionShape{Heads: 16, KVHeads: 4, HeadDim: 64, Scale: 0.125}
	for _, length := range []int{64, 512, 2048} {
		b.Run(fmt.Sprint(length), func(b *testing.B) {
			be := newTest(b, 0, "")
			stored := func(as backend.DType, n int, seed uint64) backend.Buffer {
				buf, err := be.Alloc(as, n)
				if err != nil {
					b.Fatal(err)
				}
				if err := be.Upload(buf, random(n, seed)); err != nil {
					b.Fatal(err)
				}
				return buf
			}
			buffer := func(n int, seed uint64) backend.Buffer { return stored(backend.F32, n, seed) }
			rows := sequences * length
			q, out := buffer(sequences*shape.Heads*shape.HeadDim, 1), buffer(sequences*shape.Heads*shape.HeadDim, 2)
			k, v := buffer(rows*shape.KVHeads*shape.HeadDim, 3), buffer(rows*shape.KVHeads*shape.HeadDim, 4)
			narrowK, narrowV := stored(backend.BF16, k.Len(), 3), stored(backend.BF16, v.Len(), 4)
			order := rand.New(rand.NewPCG(1, 2)).Perm(rows / pageSize)
			tables, err := be.NewTables()
			if err != nil {
				b.Fatal(err)
			}
			var first, count, blocks, tableAt []int32
			for i := range sequences {
				first, count = append(first, int32(i*length)), append(count, int32(length))
				tableAt = append(tableAt, int32(len(blocks)))
				for _, block := range order[i*length/pageSize : (i+1)*length/pageSize] {
					blocks = append(blocks, int32(block))
				}
			}
			if err := tables.Set(first, count, blocks, tableAt); err != nil {
				b.Fatal(err)
			}
			spans := backend.Spans{First: tables.At(0), Count: tables.At(1)}
			pages := backend.Paged{Blocks: tables.At(2), First: tables.At(3), Count: tables.At(1), BlockSize: pageSize}
			var took [3][]float64
			for b.Loop() {
				begun := time.Now()
				if err := be.Attention(out, nil, q, k, v, spans, shape); err != nil {
					b.Fatal(err)
				}
				between := time.Now()
				if err := be.PagedAttention(out, q, k, v, pages, shape); err != nil {
					b.Fatal(err)
				}
				before := time.Now()
				if err := be.PagedAttention(out, q, narrowK, narrowV, pages, shape); err != nil {
					b.Fatal(err)
				}
				took[0] = append(took[0], between.Sub(begun).Seconds())
				took[1] = append(took[1], before.Sub(between).Seconds())
				took[2] = append(took[2], time.Since(before).Seconds())
			}
			for i := range took {
				slices.Sort(took[i])
			}
			median := func(i int) float64 { return took[i][len(took[i])/2] }
			b.ReportMetric(median(1)/median(0), "paged-cost")
			b.ReportMetric(median(2)/median(1), "narrow-cost")
		})
	}
}

// BenchmarkTurnAttention computes the attention of a turn's tokens behind a history of
// another length, in the shape of SmolLM2-135M.
func BenchmarkTurnAttention(b *testing.B) {
	const turn, pageSize = 40, 32
	shape := backend.AttentionShape{Heads: 9, KVHeads: 3, HeadDim: 64, Scale: 0.125}
	for _, history := range []int{0, 512, 2000, 8000} {
		b.Run(fmt.Sprint(history), func(b *testing.B) {
			be := newTest(b, 0, "")
			buffer := func(n int, seed uint64) backend.Buffer {
				buf, err := be.Alloc(backend.F32, n)
				if err != nil {
					b.Fatal(err)
				}
				if err := be.Upload(buf, random(n, seed)); err != nil {
					b.Fatal(err)
				}
				return buf
			}
			keys := (history + turn + pageSize - 1) / pageSize * pageSize
			q, out := buffer(turn*shape.Heads*shape.HeadDim, 1), buffer(turn*shape.Heads*shape.HeadDim, 2)
			k, v := buffer(keys*shape.KVHeads*shape.HeadDim, 3), buffer(keys*shape.KVHeads*shape.HeadDim, 4)
			tables, err := be.NewTables()
			if err != nil {
				b.Fatal(err)
			}
			var first, count, blocks []int32
			for _, block := range rand.New(rand.NewPCG(1, 2)).Perm(keys / pageSize) {
				blocks = append(blocks, int32(block))
			}
			for i := range turn {
				first, count = append(first, 0), append(count, int32(history+i+1))
			}
			if err := tables.Set(first, count, blocks); err != nil {
				b.Fatal(err)
			}
			pages := backend.Paged{Blocks: tables.At(2), First: tables.At(0), Count: tables.At(1), BlockSize: pageSize}
			for b.Loop() {
				if err := be.PagedAttention(out, q, k, v, pages, shape); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
