package backendtest

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
)

func (s *suite) elementwise(t *testing.T) {
	for _, n := range []int{1, 7, 16, 100, 70001} {
		x, y := s.random(n, 1), s.random(n, 2)
		got := s.compute(t, []int{0}, [][]float32{y, x}, func(be backend.Backend, b []backend.Buffer) error {
			return be.Add(b[0], b[1])
		})[0]
		near(t, name("add ", n), got, sum(widen(x), widen(y)), s.bound(boundSum, 1))
	}
	for _, c := range []struct{ n, c int }{{1, 1}, {3, 5}, {9, 130}, {513, 129}} {
		x, scale := s.random(c.n*c.c, 1), random(c.c, 2)
		want, shifted := widen(x), widen(x)
		for i := range want {
			want[i] *= float64(scale[i%c.c])
			shifted[i] += float64(scale[i%c.c])
		}
		added := s.float32s(1).compute(t, []int{0}, [][]float32{x, scale}, func(be backend.Backend, b []backend.Buffer) error {
			return be.AddToRows(b[0], backend.Scales{Bank: b[1]}, c.n)
		})[0]
		near(t, name("add to rows ", c), added, shifted, s.bound(boundSum, 1))
		got := s.float32s(2).compute(t, []int{0}, [][]float32{garbage(c.n * c.c), x, scale}, func(be backend.Backend, b []backend.Buffer) error {
			return be.ScaleColumns(b[0], b[1], backend.Scales{Bank: b[2]}, c.n)
		})[0]
		near(t, name("scale columns ", c), got, want, s.bound(boundSum, 1))
		inPlace := s.float32s(1).compute(t, []int{0}, [][]float32{x, scale}, func(be backend.Backend, b []backend.Buffer) error {
			return be.ScaleColumns(b[0], b[0], backend.Scales{Bank: b[1]}, c.n)
		})[0]
		if !sameBits(inPlace, got) {
			t.Errorf("scale columns %v in place differs", c)
		}
		bank, index := random(3*c.c, 3), make([]int32, c.n)
		for i := range index {
			index[i] = int32(i * 2 % 3)
		}
		own := widen(x)
		for i := range own {
			own[i] *= float64(bank[int(index[i/c.c])*c.c+i%c.c])
		}
		each := s.float32s(2).compute(t, []int{0}, [][]float32{garbage(c.n * c.c), x, bank}, func(be backend.Backend, b []backend.Buffer) error {
			return be.ScaleColumns(b[0], b[1], backend.Scales{Bank: b[2], Index: list(t, be, index...)}, c.n)
		})[0]
		near(t, name("scale columns by rows of a bank ", c), each, own, s.bound(boundSum, 1))
		biased := widen(x)
		for i := range biased {
			biased[i] += float64(bank[int(index[i/c.c])*c.c+i%c.c])
		}
		addedEach := s.float32s(1).compute(t, []int{0}, [][]float32{x, bank}, func(be backend.Backend, b []backend.Buffer) error {
			return be.AddToRows(b[0], backend.Scales{Bank: b[1], Index: list(t, be, index...)}, c.n)
		})[0]
		near(t, name("add rows of a bank ", c), addedEach, biased, s.bound(boundSum, 1))
	}
}

func (s *suite) columnDots(t *testing.T) {
	for _, c := range []struct{ n, c int }{{1, 1}, {4, 17}, {300, 129}, {2000, 31}} {
		x, y := s.random(c.n*c.c, 1), s.random(c.n*c.c, 2)
		want := make([]float64, c.c)
		for i := range x {
			want[i%c.c] += float64(x[i]) * float64(y[i])
		}
		got := s.float32s(0).compute(t, []int{0}, [][]float32{garbage(c.c), x, y}, func(be backend.Backend, b []backend.Buffer) error {
			return be.ColumnDots(b[0], b[1], b[2], c.n)
		})[0]
		near(t, name("column dots ", c), got, want, boundSum)
	}
}

func (s *suite) outerSums(t *testing.T) {
	for _, c := range []struct{ n, a, c int }{{1, 1, 1}, {4, 17, 3}, {300, 8, 129}, {700, 16, 300}, {0, 3, 5}} {
		x, y := s.random(c.n*c.a, 1), s.random(c.n*c.c, 2)
		want := make([]float64, c.a*c.c)
		for r := range c.n {
			for i := range c.a {
				for j := range c.c {
					want[i*c.c+j] += float64(x[r*c.a+i]) * float64(y[r*c.c+j])
				}
			}
		}
		got := s.float32s(0).compute(t, []int{0}, [][]float32{garbage(c.a * c.c), x, y}, func(be backend.Backend, b []backend.Buffer) error {
			return be.OuterSums(b[0], b[1], b[2], c.n)
		})[0]
		near(t, name("outer sums ", c), got, want, boundSum)
	}
}

func (s *suite) rows(t *testing.T) {
	const have, c = 9, 5
	x := s.random(have*c, 1)
	order := []int32{8, 0, 3}
	picked := s.compute(t, []int{0}, [][]float32{garbage(len(order) * c), x}, func(be backend.Backend, b []backend.Buffer) error {
		return be.SelectRows(b[0], b[1], list(t, be, order...), c)
	})[0]
	y := s.random(have*c, 2)
	put := s.compute(t, []int{0}, [][]float32{y, picked}, func(be backend.Backend, b []backend.Buffer) error {
		return be.ScatterRows(b[0], b[1], list(t, be, order...), c)
	})[0]
	none := s.compute(t, []int{0}, [][]float32{y, picked[:2*c]}, func(be backend.Backend, b []backend.Buffer) error {
		return be.ScatterRows(b[0], b[1], list(t, be, -1, -1), c)
	})[0]
	if !sameBits(none, y) {
		t.Error("rows that go nowhere went somewhere")
	}
	for r := range have {
		from := y
		if slices.Contains(order, int32(r)) {
			from = x
		}
		if !sameBits(put[r*c:][:c], from[r*c:][:c]) {
			t.Errorf("row %d is wrong after selecting and scattering rows %v", r, order)
		}
	}
}

func (s *suite) rmsNorm(t *testing.T) {
	const eps = 1e-5
	for _, c := range []struct{ n, c int }{{1, 3}, {5, 20}, {300, 129}, {2, 4096}} {
		for _, magnitude := range []float32{1, 1e-3, 1e10} {
			t.Run(name(c, " of ", magnitude), func(t *testing.T) {
				s := s.float32s(2)
				x, gain := s.round(scaled(random(c.n*c.c, 1), magnitude)), random(c.c, 2)
				op := func(n int) operation {
					return func(be backend.Backend, b []backend.Buffer) error { return be.RMSNorm(b[0], b[1], b[2], n, eps) }
				}
				got := s.compute(t, []int{0}, [][]float32{garbage(len(x)), x, gain}, op(c.n))[0]
				near(t, "rmsnorm", got, refRMSNorm(widen(x), widen(gain), c.n, float64(float32(eps))), s.bound(boundSum, 1))
				alone := s.compute(t, []int{0}, [][]float32{garbage(c.c), x[len(x)-c.c:], gain}, op(1))[0]
				if !sameBits(alone, got[len(x)-c.c:]) {
					t.Error("the last row differs from the row computed alone")
				}
			})
		}
	}
	const n, c = 3, 11
	x, gain, dy, dx := s.random(n*c, 1), random(c, 2), s.random(n*c, 3), s.random(n*c, 4)
	want := sum(widen(dx), numeric(x, func(x []float64) float64 {
		return dot(refRMSNorm(x, widen(gain), n, eps), widen(dy))
	}))
	got := s.float32s(3).compute(t, []int{0}, [][]float32{dx, dy, x, gain}, func(be backend.Backend, b []backend.Buffer) error {
		return be.RMSNormBackward(b[0], b[1], b[2], b[3], n, eps)
	})[0]
	near(t, "rmsnorm backward", got, want, s.bound(boundSum, 1))
}

func (s *suite) swiglu(t *testing.T) {
	for _, n := range []int{1, 15, 33, 50000} {
		gate, up, dy := scaled(random(n, 1), 4), s.random(n, 2), s.random(n, 3)
		if n > 8 { // Where e⁻ᵍ overflows and where it vanishes.
			copy(gate, []float32{-200, 200, -88, 88, -104, 0, -1e30, 1e30})
		}
		gate = s.round(gate)
		got := s.compute(t, []int{0}, [][]float32{garbage(n), gate, up}, func(be backend.Backend, b []backend.Buffer) error {
			return be.SwiGLU(b[0], b[1], b[2])
		})[0]
		want := refSwiGLU(widen(gate), widen(up))
		nearEach(t, name("swiglu ", n), got, want, 1e-5+s.roundoff())
		inPlace := s.compute(t, []int{0}, [][]float32{gate, up}, func(be backend.Backend, b []backend.Buffer) error {
			return be.SwiGLU(b[0], b[0], b[1])
		})[0]
		if !sameBits(inPlace, got) {
			t.Errorf("swiglu %d in place differs", n)
		}
		if n > 40 {
			continue
		}
		loss := func(gate, up []float64) float64 { return dot(refSwiGLU(gate, up), widen(dy)) }
		copy(gate, []float32{-20, 20, -8, 8, -10, 0, -3, 3})
		both := s.compute(t, []int{0, 1}, [][]float32{garbage(n), garbage(n), dy, gate, up}, func(be backend.Backend, b []backend.Buffer) error {
			return be.SwiGLUBackward(b[0], b[1], b[2], b[3], b[4])
		})
		near(t, name("swiglu backward, gate ", n), both[0], numeric(gate, func(g []float64) float64 { return loss(g, widen(up)) }), s.bound(boundExp, 1))
		near(t, name("swiglu backward, up ", n), both[1], numeric(up, func(u []float64) float64 { return loss(widen(gate), u) }), s.bound(boundExp, 1))
	}
}

// nearEach bounds every element's error by relative·|want| plus a hair.
func nearEach(t *testing.T, what string, got []float32, want []float64, relative float64) {
	t.Helper()
	for i, w := range want {
		d := float64(got[i]) - w
		if !(d <= relative*abs(w)+1e-30 && -d <= relative*abs(w)+1e-30) {
			t.Fatalf("%s: element %d is %g, want %g", what, i, got[i], w)
		}
	}
}

func abs(x float64) float64 { return max(x, -x) }

func (s *suite) logSoftmax(t *testing.T) {
	for _, c := range []struct{ n, c int }{{1, 1}, {2, 3}, {40, 513}, {3, 2048}} {
		for _, magnitude := range []float32{1, 30} {
			s := s.float32s(0)
			x := s.round(scaled(random(c.n*c.c, 1), magnitude))
			op := func(n int) operation {
				return func(be backend.Backend, b []backend.Buffer) error { return be.LogSoftmax(b[0], b[1], n) }
			}
			got := s.compute(t, []int{0}, [][]float32{garbage(len(x)), x}, op(c.n))[0]
			near(t, name("log softmax ", c), got, refLogSoftmax(widen(x), c.n), boundExp)
			alone := s.compute(t, []int{0}, [][]float32{garbage(c.c), x[len(x)-c.c:]}, op(1))[0]
			if !sameBits(alone, got[len(x)-c.c:]) {
				t.Errorf("log softmax %v: the last row differs from the row computed alone", c)
			}
		}
	}
}
