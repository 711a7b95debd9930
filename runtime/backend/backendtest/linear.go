package backendtest

import (
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

func (s *suite) memory(t *testing.T) {
	for _, be := range s.variants {
		for _, n := range []int{0, 1, 63, 64, 65, 1000} {
			v := random(n, uint64(n))
			a, b := newBuffer(t, be, v), newBuffer(t, be, garbage(n))
			if a.Len() != n {
				t.Errorf("a buffer of %d elements says it has %d", n, a.Len())
			}
			if err := be.Copy(b, a); err != nil {
				t.Fatal(err)
			}
			if err := be.Zero(a); err != nil {
				t.Fatal(err)
			}
			got, cleared := make([]float32, n), garbage(n)
			if err := be.Download(got, b); err != nil {
				t.Fatal(err)
			}
			if err := be.Download(cleared, a); err != nil {
				t.Fatal(err)
			}
			if !sameBits(got, v) {
				t.Errorf("%d elements copied are not those uploaded", n)
			}
			if !sameBits(cleared, make([]float32, n)) {
				t.Errorf("%d elements are not all zero after Zero", n)
			}
			be.Free(a)
			be.Free(b)
			be.Free(nil)
		}
		w := random(35*13, 1)
		data, err := be.WeightData(newWeight(t, be, 35, 13, w))
		if err != nil {
			t.Fatal(err)
		}
		if !sameBits(data, w) {
			t.Error("a weight read back is not what was uploaded")
		}
	}
}

func (s *suite) matMul(t *testing.T) {
	cases := []struct{ n, out, in int }{
		{1, 1, 1}, {1, 256, 64}, {1, 33, 700}, {2, 128, 128}, {13, 31, 17}, {64, 96, 40}, {67, 129, 65}, {200, 65, 600},
	}
	for _, c := range cases {
		for _, magnitude := range []float32{1, 1e12} {
			t.Run(name(c, " of ", magnitude), func(t *testing.T) {
				x, dy := scaled(random(c.n*c.in, 1), magnitude), scaled(random(c.n*c.out, 2), magnitude)
				w := random(c.out*c.in, 3)
				for _, add := range []bool{false, true} {
					s.product(t, product{c.n, c.out, c.in, add, x, w, false})
					s.product(t, product{c.n, c.in, c.out, add, dy, w, true})
				}
			})
		}
	}
}

// product is y [n, out] = x [n, in]·Wᵀ, or with back y = x·W for W [in, out].
type product struct {
	n, out, in int
	add        bool
	x, w       []float32
	back       bool
}

func (s *suite) product(t *testing.T, p product) {
	t.Helper()
	weights := map[backend.Backend]backend.Weight{}
	for _, be := range s.variants {
		if p.back {
			weights[be] = newWeight(t, be, p.in, p.out, p.w)
		} else {
			weights[be] = newWeight(t, be, p.out, p.in, p.w)
		}
	}
	op := func(n int) operation {
		return func(be backend.Backend, b []backend.Buffer) error {
			if p.back {
				return be.MatMulBackward(b[0], b[1], n, weights[be], p.add)
			}
			return be.MatMul(b[0], b[1], n, weights[be], p.add)
		}
	}
	y := garbage(p.n * p.out)
	w := widen(p.w)
	if p.back {
		w = refTranspose(w, p.in, p.out)
	}
	want := refMatMul(widen(p.x), w, p.n, p.out, p.in)
	if p.add {
		y = random(p.n*p.out, 4)
		want = sum(want, widen(y))
	}
	got := s.compute(t, []int{0}, [][]float32{y, p.x}, op(p.n))[0]
	near(t, "product", got, want, boundSum)
	for r := 0; r < p.n; r += 1 + p.n/16 {
		alone := s.compute(t, []int{0}, [][]float32{y[r*p.out:][:p.out], p.x[r*p.in:][:p.in]}, op(1))[0]
		if !sameBits(alone, got[r*p.out:][:p.out]) {
			t.Fatalf("row %d differs from the row computed alone", r)
		}
	}
}

func (s *suite) gather(t *testing.T) {
	const rows, cols = 37, 19
	w := random(rows*cols, 1)
	ids := []int32{36, 0, 5, 5, 17}
	got := s.compute(t, []int{0}, [][]float32{garbage(len(ids) * cols)}, func(be backend.Backend, b []backend.Buffer) error {
		return be.Gather(b[0], newWeight(t, be, rows, cols, w), ids)
	})[0]
	for i, id := range ids {
		if !sameBits(got[i*cols:][:cols], w[int(id)*cols:][:cols]) {
			t.Errorf("row %d is not row %d of the matrix", i, id)
		}
	}
}

func (s *suite) refusals(t *testing.T) {
	for _, be := range s.variants {
		small, large := newBuffer(t, be, make([]float32, 4)), newBuffer(t, be, make([]float32, 8))
		w := newWeight(t, be, 4, 4, make([]float32, 16))
		shape := backend.AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 2, Scale: 1}
		cases := map[string]error{
			"upload of another size":     be.Upload(small, make([]float32, 5)),
			"download of another size":   be.Download(make([]float32, 5), small),
			"copy of another size":       be.Copy(small, large),
			"matmul of another size":     be.MatMul(large, small, 1, w, false),
			"matmul of no weight":        be.MatMul(small, small, 1, nil, false),
			"matmul of no buffer":        be.MatMul(nil, small, 1, w, false),
			"backward of another size":   be.MatMulBackward(small, large, 1, w, false),
			"gather of a negative row":   be.Gather(small, w, []int32{-1}),
			"gather past the end":        be.Gather(small, w, []int32{4}),
			"add of another size":        be.Add(small, large),
			"add to rows of another n":   be.AddToRows(large, small, 1),
			"scale of another size":      be.ScaleColumns(small, small, large, 1),
			"scales of another size":     be.ScaleRowsBy(large, large, []backend.Buffer{small, large}, []int32{0, 1}),
			"no scales":                  be.ScaleRowsBy(small, small, nil, []int32{0}),
			"a scale that is not there":  be.ScaleRowsBy(large, large, []backend.Buffer{small}, []int32{0, 1}),
			"a negative scale":           be.ScaleRowsBy(small, small, []backend.Buffer{small}, []int32{-1}),
			"dots of another size":       be.ColumnDots(small, small, large, 1),
			"select past the end":        be.SelectRows(small, large, []int32{2}, 4),
			"scatter past the end":       be.ScatterRows(large, small, []int32{2}, 4),
			"scatter to a negative row":  be.ScatterRows(large, small, []int32{-1}, 4),
			"rmsnorm of another size":    be.RMSNorm(large, small, small, 1, 1e-5),
			"swiglu of another size":     be.SwiGLU(small, small, large),
			"softmax of unequal rows":    be.LogSoftmax(large, large, 3),
			"rope past the table":        be.RoPE(small, []int32{2}, 1, large, 4, false),
			"rope of an odd head":        be.RoPE(small, []int32{0}, 1, large, 1, false),
			"attention past the cache":   be.Attention(small, nil, small, small, small, []backend.Span{{First: 1, Count: 2}}, shape),
			"attention to nothing":       be.Attention(small, nil, small, small, small, []backend.Span{{First: 0, Count: 0}}, shape),
			"attention of unequal k, v":  be.Attention(small, nil, small, small, large, []backend.Span{{First: 0, Count: 1}}, shape),
			"heads that do not divide":   be.Attention(small, nil, small, small, small, []backend.Span{{First: 0, Count: 1}}, backend.AttentionShape{Heads: 3, KVHeads: 2, HeadDim: 1}),
			"overlapping spans backward": be.AttentionBackward(large, small, small, large, large, small, large, small, small, []backend.Span{{First: 0, Count: 2}, {First: 1, Count: 1}}, shape),
		}
		for what, err := range cases {
			if err == nil {
				t.Errorf("%s: no error from %s", what, be.Name())
			}
		}
		if _, err := be.NewWeight(2, 3, make([]float32, 5)); err == nil {
			t.Error("a weight with an element missing: no error")
		}
		if _, err := be.Alloc(-1); err == nil {
			t.Error("a buffer of −1 elements: no error")
		}
		be.Free(small)
		if err := be.Zero(small); err == nil {
			t.Error("a freed buffer was used without an error")
		}
	}
}
