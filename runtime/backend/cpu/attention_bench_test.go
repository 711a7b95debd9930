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
// keys behind each other and in shuffled pages: paged-cost is the ratio of the
// median times.
func BenchmarkPagedAttention(b *testing.B) {
	const sequences, pageSize = 8, 32
	shape := backend.AttentionShape{Heads: 16, KVHeads: 4, HeadDim: 64, Scale: 0.125}
	for _, length := range []int{64, 512, 2048} {
		b.Run(fmt.Sprint(length), func(b *testing.B) {
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
			rows := sequences * length
			q, out := buffer(sequences*shape.Heads*shape.HeadDim, 1), buffer(sequences*shape.Heads*shape.HeadDim, 2)
			k, v := buffer(rows*shape.KVHeads*shape.HeadDim, 3), buffer(rows*shape.KVHeads*shape.HeadDim, 4)
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
			var took [2][]float64
			for b.Loop() {
				begun := time.Now()
				if err := be.Attention(out, nil, q, k, v, spans, shape); err != nil {
					b.Fatal(err)
				}
				between := time.Now()
				if err := be.PagedAttention(out, q, k, v, pages, shape); err != nil {
					b.Fatal(err)
				}
				took[0] = append(took[0], between.Sub(begun).Seconds())
				took[1] = append(took[1], time.Since(between).Seconds())
			}
			for i := range took {
				slices.Sort(took[i])
			}
			b.ReportMetric(took[1][len(took[1])/2]/took[0][len(took[0])/2], "paged-cost")
		})
	}
}
