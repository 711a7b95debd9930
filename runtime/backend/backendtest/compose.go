package backendtest

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

// buffers multiplies two buffers, of which neither is a weight.
func (s *suite) buffers(t *testing.T) {
	for _, c := range []struct{ n, m, k int }{{1, 1, 1}, {3, 8, 65}, {17, 40, 16}, {70, 33, 130}} {
		a, b := s.random(c.n*c.k, 1), s.random(c.m*c.k, 2)
		for _, add := range []bool{false, true} {
			y, want := garbage(c.n*c.m), refMatMul(widen(a), widen(b), c.n, c.m, c.k)
			if add {
				y = s.random(c.n*c.m, 3)
				want = sum(want, widen(y))
			}
			got := s.compute(t, []int{0}, [][]float32{y, a, b}, func(be backend.Backend, b []backend.Buffer) error {
				return be.MatMulBuffers(b[0], b[1], b[2], c.n, c.m, c.k, add)
			})[0]
			near(t, name("product of buffers ", c, " add ", add), got, want, s.bound(boundSum, 1))
		}
	}
}

// compose composes into weights that are there already, twice, and wants the rows of
// U, scaled and multiplied, rounded once.
func (s *suite) compose(t *testing.T) {
	cases := []struct{ out, in, rank int }{{1, 1, 1}, {40, 33, 33}, {130, 70, 70}, {48, 200, 48}, {70, 65, 9}}
	for _, factors := range []backend.DType{backend.F32, backend.BF16} {
		for _, kind := range backend.DTypes() {
			for _, c := range cases {
				t.Run(name(kind, " of ", factors, " ", c), func(t *testing.T) {
					u, vt := random(c.out*c.rank, 1), random(c.rank*c.in, 2)
					storedU, storedV := refStored(factors, u, c.rank), refStored(factors, vt, c.in)
					var first []float32
					for _, be := range s.variants {
						dst, err := be.NewWeight(kind, c.out, c.in, nil)
						if err != nil {
							t.Fatal(err)
						}
						for seed := range uint64(2) {
							scale := random(c.rank, 3+seed)
							us := make([]float32, len(u))
							for i, v := range storedU {
								us[i] = float32(v) * scale[i%c.rank]
							}
							left := widen(us)
							if factors == backend.BF16 {
								left = refRounded(factors, us, c.rank)
							}
							exact := refMatMul(left, refTranspose(storedV, c.rank, c.in), c.out, c.in, c.rank)
							b := newBuffer(t, be, scale)
							if err := be.Compose(t.Context(), dst, newWeight(t, be, factors, c.out, c.rank, u), newWeight(t, be, factors, c.rank, c.in, vt), b); err != nil {
								t.Fatal(err)
							}
							got, err := be.WeightData(dst)
							if err != nil {
								t.Fatal(err)
							}
							be.Free(b)
							s.rounded(t, kind, got, exact, c.in)
							if seed == 0 {
								continue
							}
							if first == nil {
								first = got
							} else if !sameBits(first, got) {
								t.Errorf("%s composes other bits than %s", be.Name(), s.variants[0].Name())
							}
							s.composedMultiplies(t, be, dst, got)
						}
					}
				})
			}
		}
	}
	s.composeRefusals(t)
}

// rounded wants elements that are within a rounding of the type.
func (s *suite) rounded(t *testing.T, kind backend.DType, got []float32, want []float64, in int) {
	t.Helper()
	if kind == backend.F32 {
		near(t, "composed", got, want, boundSum)
		return
	}
	for i, w := range want {
		step := math.Abs(w) / 256
		if kind == backend.Int8 {
			top := 0.0
			for j := i / in * in; j < (i/in+1)*in; j++ {
				if (j%in)/backend.Int8Block == (i%in)/backend.Int8Block {
					top = max(top, math.Abs(want[j]))
				}
			}
			step = top / 127 * 0.51 * 1.01 * 1.01 // Half a step, of a scale that is rounded itself,
			step += top / 256                     // by which the whole value is off.
		}
		if d := math.Abs(float64(got[i]) - w); !(d <= step*1.001+1e-6) {
			t.Fatalf("%s: element %d is %v, want %v within %v", kind, i, got[i], w, step)
		}
	}
}

// composedMultiplies wants the product, forward and backward, of the matrix that the
// weight holds now.
func (s *suite) composedMultiplies(t *testing.T, be backend.Backend, w backend.Weight, data []float32) {
	t.Helper()
	const n = 3
	fresh := newWeight(t, be, w.Type(), w.Out(), w.In(), data)
	for _, back := range []bool{false, true} {
		in, out, multiply := w.In(), w.Out(), be.MatMul
		if back {
			in, out, multiply = out, in, be.MatMulBackward
		}
		var got [2][]float32
		for i, weight := range []backend.Weight{w, fresh} {
			x, y := newBuffer(t, be, random(n*in, 5)), newBuffer(t, be, garbage(n*out))
			if err := multiply(n, backend.Product{Y: y, X: x, W: weight}); err != nil {
				t.Fatal(err)
			}
			got[i] = make([]float32, n*out)
			if err := be.Download(got[i], y); err != nil {
				t.Fatal(err)
			}
			be.Free(x)
			be.Free(y)
		}
		if w.Type() != backend.Int8 && !sameBits(got[0], got[1]) { // Int8 rounds what it reads again.
			t.Errorf("back %v: the product with a composed weight is another than with its matrix", back)
		}
	}
}

func (s *suite) composeRefusals(t *testing.T) {
	for _, be := range s.variants {
		square := newWeight(t, be, backend.F32, 4, 4, make([]float32, 16))
		wide := newWeight(t, be, backend.F32, 4, 5, make([]float32, 20))
		scale := newBuffer(t, be, make([]float32, 4))
		ended, end := context.WithCancel(t.Context())
		end()
		if err := be.Compose(ended, square, square, square, scale); !errors.Is(err, context.Canceled) {
			t.Errorf("composing in an ended context: error %v", err)
		}
		for what, err := range map[string]error{
			"into another shape":       be.Compose(t.Context(), wide, square, square, scale),
			"factors that do not fit":  be.Compose(t.Context(), square, wide, square, scale),
			"a scale of another size":  be.Compose(t.Context(), square, square, square, newBuffer(t, be, make([]float32, 5))),
			"no factor":                be.Compose(t.Context(), square, nil, square, scale),
			"no scale":                 be.Compose(t.Context(), square, square, square, nil),
			"buffers of another size":  be.MatMulBuffers(scale, scale, scale, 2, 2, 3, false),
			"rows past a buffer":       rowsError(be, scale, 2, 0, 3),
			"rows of a negative start": rowsError(be, scale, 2, -1, 1),
		} {
			if err == nil {
				t.Errorf("%s: no error from %s", what, be.Name())
			}
		}
	}
}

func rowsError(be backend.Backend, b backend.Buffer, c, from, to int) error {
	_, err := be.Rows(b, c, from, to)
	return err
}
