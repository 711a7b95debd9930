package backendtest

import (
	"math"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

func (s *suite) rope(t *testing.T) {
	const heads, d, limit = 3, 10, 20
	table := make([]float32, limit*d)
	for p := range limit {
		for i := range d / 2 {
			table[p*d+i] = float32(math.Cos(float64(p) / float64(i+1)))
			table[p*d+d/2+i] = float32(math.Sin(float64(p) / float64(i+1)))
		}
	}
	positions := []int32{0, 19, 3, 3}
	x := s.random(len(positions)*heads*d, 1)
	for _, inverse := range []bool{false, true} {
		sign := 1.0
		if inverse {
			sign = -1
		}
		got := s.float32s(1).compute(t, []int{0}, [][]float32{x, table}, func(be backend.Backend, b []backend.Buffer) error {
			return be.RoPE(b[0], list(t, be, positions...), heads, b[1], d, inverse)
		})[0]
		near(t, name("rope, inverse ", inverse), got, refRoPE(widen(x), positions, heads, widen(table), d, sign), s.bound(boundSum, 1))
	}
}

// packed lists the spans of causal sequences of these lengths, one behind the
// other.
func packed(lengths ...int) []span {
	var out []span
	for _, n := range lengths {
		first := int32(len(out))
		for i := range n {
			out = append(out, span{first, int32(i + 1)})
		}
	}
	return out
}

func (s *suite) attention(t *testing.T) {
	cases := []struct {
		name      string
		shape     backend.AttentionShape
		keys      []span
		rows      int // Of k and v.
		magnitude float32
	}{
		{"one token", backend.AttentionShape{Heads: 1, KVHeads: 1, HeadDim: 2}, packed(1), 1, 1},
		{"packed sequences", backend.AttentionShape{Heads: 4, KVHeads: 2, HeadDim: 6}, packed(5, 1, 9, 70), 85, 1},
		{"a ragged cache", backend.AttentionShape{Heads: 6, KVHeads: 2, HeadDim: 16},
			[]span{{40, 33}, {0, 7}, {0, 8}}, 80, 1},
		{"wide heads, long spans", backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 128},
			[]span{{3, 517}, {0, 1}}, 520, 1},
		{"many heads on one", backend.AttentionShape{Heads: 7, KVHeads: 1, HeadDim: 48}, packed(90, 7), 97, 1},
		{"wide odd heads", backend.AttentionShape{Heads: 2, KVHeads: 2, HeadDim: 138}, packed(40), 40, 1},
		{"saturated", backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 32}, packed(20), 20, 12},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.shape.Scale = float32(1 / math.Sqrt(float64(c.shape.HeadDim)))
			width, kvWidth := c.shape.Heads*c.shape.HeadDim, c.shape.KVHeads*c.shape.HeadDim
			s := s.float32s(1)
			q := s.round(scaled(random(len(c.keys)*width, 1), c.magnitude))
			k, v := s.random(c.rows*kvWidth, 2), s.random(c.rows*kvWidth, 3)
			op := func(keys []span) operation {
				return func(be backend.Backend, b []backend.Buffer) error {
					return be.Attention(b[0], b[1], b[2], b[3], b[4], spans(t, be, keys...), c.shape)
				}
			}
			out, lse := refAttention(widen(q), widen(k), widen(v), c.keys, c.shape)
			got := s.compute(t, []int{0, 1}, [][]float32{garbage(len(q)), garbage(len(lse)), q, k, v}, op(c.keys))
			near(t, "output", got[0], out, s.bound(boundExp, 2))
			near(t, "log of the denominator", got[1], lse, boundExp)
			for n := range c.keys {
				alone := s.compute(t, []int{0}, [][]float32{garbage(width), nil, q[n*width:][:width], k, v}, op(c.keys[n:n+1]))[0]
				if !sameBits(alone, got[0][n*width:][:width]) {
					t.Fatalf("row %d differs from the row computed alone", n)
				}
			}
		})
	}
	t.Run("Backward", s.attentionBackward)
}

func (s *suite) attentionBackward(t *testing.T) {
	long := packed(35, 20)
	for _, c := range []struct {
		headDim int
		keys    []span
	}{
		{3, packed(3, 1, 6)}, {16, packed(3, 1, 6)}, {24, packed(3, 1, 6)}, {40, packed(3, 1, 6)}, {5, long},
		{5, slices.Concat(long[30:35], long[45:])}, // The ends of sequences.
	} {
		headDim, keys := c.headDim, c.keys
		shape := backend.AttentionShape{Heads: 4, KVHeads: 2, HeadDim: headDim, Scale: 0.3}
		const spare = 2 // Rows of k and v that nobody attends to.
		width, kvWidth := shape.Heads*headDim, shape.KVHeads*headDim
		last := keys[len(keys)-1]
		n, rows := len(keys), int(last.first+last.count)+spare
		q, k, v := s.random(n*width, 1), s.random(rows*kvWidth, 2), s.random(rows*kvWidth, 3)
		dOut := s.random(n*width, 4)
		loss := func(q, k, v []float64) float64 {
			out, _ := refAttention(q, k, v, keys, shape)
			return dot(out, widen(dOut))
		}
		out64, lse64 := refAttention(widen(q), widen(k), widen(v), keys, shape)
		out, lse := s.round(narrowed(out64)), narrowed(lse64)
		got := s.float32s(5).compute(t, []int{0, 1, 2}, [][]float32{
			garbage(len(q)), garbage(len(k)), garbage(len(v)), dOut, out, lse, q, k, v,
		}, func(be backend.Backend, b []backend.Buffer) error {
			return be.AttentionBackward(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], spans(t, be, keys...), shape)
		})
		dq, dk, dv := refAttentionBackward(widen(dOut), widen(out), widen(lse), widen(q), widen(k), widen(v), keys, shape)
		near(t, name("dq, head dimension ", headDim), got[0], dq, s.bound(boundExp, 2))
		near(t, name("dk, head dimension ", headDim), got[1], dk, s.bound(boundExp, 2))
		near(t, name("dv, head dimension ", headDim), got[2], dv, s.bound(boundExp, 2))
		if s.storage != backend.F32 { // What was rounded is no minimum of the loss.
			continue
		}
		near(t, name("dq's formula, head dimension ", headDim), narrowed(dq), numeric(q, func(x []float64) float64 { return loss(x, widen(k), widen(v)) }), boundExp)
		near(t, name("dk's formula, head dimension ", headDim), narrowed(dk), numeric(k, func(x []float64) float64 { return loss(widen(q), x, widen(v)) }), boundExp)
		near(t, name("dv's formula, head dimension ", headDim), narrowed(dv), numeric(v, func(x []float64) float64 { return loss(widen(q), widen(k), x) }), boundExp)
	}
}
