//go:build cuda

package kernels

import (
	"fmt"
	"slices"
	"testing"

	"github.com/transformersquared/operator/kernels"
)

// TestANarrowCache wants of activations in float32 beside a cache in bfloat16 what the
// cache's numbers give as float32, to the bit, in one step and in two.
func TestANarrowCache(t *testing.T) {
	wide, narrow := storage(kernels.F32), storage(kernels.BF16)
	for _, c := range []struct {
		shape shape
		keys  []span
		rows  int
	}{
		{shape{4, 2, 6}, packed(5, 1, 9, 70), 85},
		{shape{7, 1, 48}, []span{{0, 257}, {0, 0}, {0, 3}}, 260},
		{shape{8, 2, 64}, []span{{0, 600}, {3, 255}}, 600},
		{shape{4, 2, 138}, []span{{0, 300}}, 300},
	} {
		t.Run(fmt.Sprint(c.shape), func(t *testing.T) {
			a := newAttention(wide, c.shape, c.keys, c.rows, 1)
			a.k, a.v = narrow.round(a.k), narrow.round(a.v)
			n, width := len(c.keys), a.heads*a.d
			want := a.run(t, 0, n, 0)
			p := a.paged(16)
			rest := []any{
				wide.upload(t, a.q), narrow.upload(t, p.k), narrow.upload(t, p.v), upload(t, p.blocks), upload(t, p.first), upload(t, counts(a.keys)),
				n, p.size, a.heads, a.kv, a.d, a.scale,
			}
			const kernel = "pagedattention_f32_bf16"
			out := alloc(t, n*width*4)
			launch(t, kernel+a.ending("_"), a.grid(n, a.pairs("")), slices.Concat([]any{out}, rest)...)
			if !sameBits(wide.download(t, out, n*width), want) {
				t.Error("attention to it is another than that to its numbers as float32")
			}
			chunks := parts(int(slices.Max(counts(a.keys))), 256)
			sums, states, split := alloc(t, n*width*chunks*4), alloc(t, n*a.heads*chunks*8), alloc(t, n*width*4)
			if chunks == 1 {
				launch(t, kernel+"_split"+a.ending(""), [3]int{n, a.kv, 1}, slices.Concat([]any{split, address(0)}, rest)...)
			} else {
				launch(t, kernel+"_split"+a.ending(""), [3]int{n, a.kv, chunks}, slices.Concat([]any{sums, states}, rest)...)
				launch(t, "attention_f32_combine", [3]int{n, a.heads, 1}, split, sums, states, rest[5], n, a.heads, a.d, chunks)
			}
			if !sameBits(wide.download(t, split, n*width), want) {
				t.Error("attention in chunks is another")
			}
		})
	}
}

// TestANarrowCacheIsRoundedAsItIsWritten compares with what is written in float32.
func TestANarrowCacheIsRoundedAsItIsWritten(t *testing.T) {
	const n, positions, rows = 7, 20, 9
	wide, narrow, h := storage(kernels.F32), storage(kernels.BF16), shape{4, 2, 10}
	width := h.kv * h.d
	q, k, v, table := random(n*h.heads*h.d, 1), random(n*width, 2), random(n*width, 3), random(positions*h.d, 4)
	old := narrow.round(random(rows*width, 5))
	at, slots := indices(n, positions, 6), []int32{8, -1, 6, 5, 4, 3, 2}
	written := func(kernel string, s storage) (queries, keys, values []float32) {
		qs, cacheK, cacheV := wide.upload(t, q), s.upload(t, old), s.upload(t, old)
		launch(t, kernel, blocks(2), qs, wide.upload(t, k), wide.upload(t, v), cacheK, cacheV, upload(t, at), upload(t, slots), upload(t, table), n, h.heads, h.kv, h.d)
		return wide.download(t, qs, len(q)), s.download(t, cacheK, len(old)), s.download(t, cacheV, len(old))
	}
	wantQ, wantK, wantV := written("ropestore_f32", wide)
	gotQ, gotK, gotV := written("ropestore_f32_bf16", narrow)
	if !sameBits(gotQ, wantQ) || !sameBits(gotK, narrow.round(wantK)) || !sameBits(gotV, narrow.round(wantV)) {
		t.Error("queries are others, or keys and values are not the nearest bfloat16 of those in float32")
	}
}
