package svd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// tolerance bounds the orthogonality of the vectors (largest element of
// UᵀU − I), the relative reconstruction error and the error of the values
// relative to the largest.
const tolerance = 1e-6

// random returns normally distributed elements.
func random(seed uint64, n int) []float64 {
	r := rand.New(rand.NewPCG(seed, 0))
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64()
	}
	return x
}

// withSpectrum returns a matrix with random singular vectors and these values.
func withSpectrum(t testing.TB, seed uint64, out, in int, values []float64) []float32 {
	t.Helper()
	basis := func(seed uint64, rows int) *mat.Dense {
		var qr mat.QR
		var q mat.Dense
		qr.Factorize(mat.NewDense(rows, len(values), random(seed, rows*len(values))))
		qr.QTo(&q)
		return mat.DenseCopyOf(q.Slice(0, rows, 0, len(values)))
	}
	u, v := basis(seed, out), basis(seed+1, in)
	var us, w mat.Dense
	us.Mul(u, mat.NewDiagDense(len(values), values))
	w.Mul(&us, v.T())
	return toFloat32(w.RawMatrix().Data)
}

func toFloat32(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// spectrum returns n values of a function of 0 … 1.
func spectrum(n int, f func(x float64) float64) []float64 {
	s := make([]float64, n)
	for i := range s {
		s[i] = f(float64(i) / float64(max(1, n-1)))
	}
	return s
}

func dense(x []float32, rows, columns int) *mat.Dense {
	d := mat.NewDense(rows, columns, nil)
	for i, v := range x {
		d.RawMatrix().Data[i] = float64(v)
	}
	return d
}

// check compares the factors of w with their definition and with gonum's values.
func check(t *testing.T, w []float32, out, in int, f *Factors) {
	t.Helper()
	r := min(out, in)
	u, vt, a := dense(f.U, out, r), dense(f.Vt, r, in), dense(w, out, in)
	var uu, vv, us, rest mat.Dense
	uu.Mul(u.T(), u)
	vv.Mul(vt, vt.T())
	for i := range r {
		for j := range r {
			want := 0.0
			if i == j {
				want = 1
			}
			if e := max(math.Abs(uu.At(i, j)-want), math.Abs(vv.At(i, j)-want)); !(e <= tolerance) {
				t.Fatalf("vectors %d and %d: UᵀU has %v and VᵀV %v, want %v", i, j, uu.At(i, j), vv.At(i, j), want)
			}
		}
	}
	s := make([]float64, r)
	for i, v := range f.S {
		s[i] = float64(v)
		if v < 0 || i > 0 && v > f.S[i-1] {
			t.Fatalf("value %d is %v after %v", i, v, f.S[max(0, i-1)])
		}
	}
	us.Mul(u, mat.NewDiagDense(r, s))
	rest.Mul(&us, vt)
	rest.Sub(a, &rest)
	norm := mat.Norm(a, 2)
	e := mat.Norm(&rest, 2)
	if !(e <= tolerance*norm) {
		t.Errorf("reconstruction differs by %.3g of %.3g", e, norm)
	}
	reported, err := f.RelativeError(t.Context(), w, out, in, 2)
	if err != nil {
		t.Fatal(err)
	}
	if norm > 0 && math.Abs(reported-e/norm) > 1e-12 {
		t.Errorf("relative error %v, reported %v", e/norm, reported)
	}
	var reference mat.SVD
	if !reference.Factorize(a, mat.SVDNone) {
		t.Fatal("the reference did not converge")
	}
	for i, want := range reference.Values(nil) {
		if !(math.Abs(s[i]-want) <= tolerance*s[0]) {
			t.Errorf("value %d is %v, want %v, of %v", i, s[i], want, s[0])
		}
		// Far above the reference's own rounding, values have all their digits.
		if want > 1e-8*s[0] && math.Abs(s[i]-want) > tolerance*want {
			t.Errorf("value %d is %v, want %v", i, s[i], want)
		}
	}
}

func TestFactor(t *testing.T) {
	flat := func(float64) float64 { return 1 }
	tests := []struct {
		name     string
		out, in  int
		spectrum func(x float64) float64 // nil: random elements
	}{
		{"1×1", 1, 1, nil},
		{"1×n", 1, 37, nil},
		{"n×1", 37, 1, nil},
		{"2×2", 2, 2, nil},
		{"square", 100, 100, nil},
		{"odd square", 97, 97, nil},
		{"wide", 65, 300, nil},
		{"tall", 301, 129, nil},
		{"two merges deep", 150, 160, nil},
		{"repeated values", 120, 150, flat},
		{"two clusters", 120, 150, func(x float64) float64 { return 1 + math.Floor(2*x) + 1e-9*x }},
		{"steps", 90, 90, func(x float64) float64 { return math.Pow(10, -math.Floor(4*x)) }},
		{"graded over 6 decades", 96, 128, func(x float64) float64 { return math.Pow(10, -6*x) }},
		{"graded over 12 decades", 128, 96, func(x float64) float64 { return math.Pow(10, -12*x) }},
		{"one large", 80, 80, func(x float64) float64 {
			if x == 0 {
				return 1e6
			}
			return 1 + x
		}},
		{"half rank", 100, 100, func(x float64) float64 { return max(0, 1-2*x) }},
		{"large elements", 70, 90, func(x float64) float64 { return 1e37 * (1 + x) }},
		{"small elements", 70, 90, func(x float64) float64 { return 1e-33 * (1 + x) }},
	}
	for i, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			w := toFloat32(random(uint64(i), c.out*c.in))
			if c.spectrum != nil {
				w = withSpectrum(t, uint64(i), c.out, c.in, spectrum(min(c.out, c.in), c.spectrum))
			}
			f, err := Factor(t.Context(), w, c.out, c.in, 2)
			if err != nil {
				t.Fatal(err)
			}
			check(t, w, c.out, c.in, f)
		})
	}
}

// Matrices whose values are exactly zero, equal or of very different size, with
// no rounding of a construction in them.
func TestFactorExact(t *testing.T) {
	const n = 70
	tests := map[string]struct {
		out, in int
		element func(i, j int) float32
	}{
		"zero wide":    {40, n, func(int, int) float32 { return 0 }},
		"zero tall":    {n, 40, func(int, int) float32 { return 0 }},
		"all ones":     {n, n, func(int, int) float32 { return 1 }},
		"rank two":     {50, n, func(i, j int) float32 { return float32(i%2*j + 1) }},
		"zero columns": {n, n, func(i, j int) float32 { return float32((i*7+j*3)%11) * float32(j%2) }},
		"identity": {n, n, func(i, j int) float32 {
			if i == j {
				return 1
			}
			return 0
		}},
		"second difference": {n, n, func(i, j int) float32 {
			return map[int]float32{0: 2, 1: -1, -1: -1}[i-j]
		}},
		"diagonal over 35 decades": {n, n, func(i, j int) float32 {
			if i == j {
				return float32(math.Pow(10, -float64(i)/2))
			}
			return 0
		}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			w := make([]float32, c.out*c.in)
			for i := range w {
				w[i] = c.element(i/c.in, i%c.in)
			}
			f, err := Factor(t.Context(), w, c.out, c.in, 2)
			if err != nil {
				t.Fatal(err)
			}
			check(t, w, c.out, c.in, f)
		})
	}
}

func TestFactorDoesNotDependOnWorkers(t *testing.T) {
	const out, in = 200, 330
	w := withSpectrum(t, 5, out, in, spectrum(out, func(x float64) float64 { return math.Pow(10, -5*x) }))
	want, err := Factor(t.Context(), w, out, in, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{0, 2, 3, 8} {
		got, err := Factor(t.Context(), w, out, in, workers)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.U, want.U) || !slices.Equal(got.S, want.S) || !slices.Equal(got.Vt, want.Vt) {
			t.Errorf("%d workers give another result", workers)
		}
	}
}

func TestFactorRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	tests := []struct {
		w       []float32
		out, in int
		want    string
	}{
		{nil, 0, 3, "0 elements"},
		{nil, 3, 0, "0 elements"},
		{make([]float32, 6), -2, -3, "6 elements"},
		{make([]float32, 5), 2, 3, "5 elements"},
		{make([]float32, 7), 2, 3, "7 elements"},
		{[]float32{0, 1, 2, 3, 4, nan}, 2, 3, "row 1, column 2 is NaN"},
		{[]float32{0, 1, 2, inf, 4, 5}, 2, 3, "row 1, column 0 is -Inf"},
		{[]float32{3e38, 3e38, 3e38, 3e38}, 2, 2, "6e+38, is no float32"},
	}
	for _, c := range tests {
		if _, err := Factor(t.Context(), c.w, c.out, c.in, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v [%d, %d]: error %v, want %q", c.w, c.out, c.in, err, c.want)
		}
	}
}

// endsAfter is a context that is cancelled when it has been asked a number of
// times, to stop a computation at every point where it looks.
type endsAfter struct {
	context.Context //nolint:containedctx // It is one.
	asked, limit    int
}

func (c *endsAfter) Err() error {
	if c.asked++; c.asked > c.limit {
		return context.Canceled
	}
	return nil
}

func TestFactorStops(t *testing.T) {
	const n = 100
	w := toFloat32(random(1, n*n))
	whole := &endsAfter{t.Context(), 0, math.MaxInt}
	if _, err := Factor(whole, w, n, n, 1); err != nil {
		t.Fatal(err)
	}
	if whole.asked < 10 {
		t.Fatalf("looks at the context only %d times", whole.asked)
	}
	for limit := range whole.asked {
		if _, err := Factor(&endsAfter{t.Context(), 0, limit}, w, n, n, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at look %d of %d: error %v", limit+1, whole.asked, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &Factors{U: make([]float32, n*n), S: make([]float32, n), Vt: make([]float32, n*n)}
	if _, err := f.RelativeError(ctx, w, n, n, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("reconstruction error: error %v", err)
	}
}

func TestRelativeError(t *testing.T) {
	f := &Factors{U: []float32{1, 0, 0, 1}, S: []float32{3, 3}, Vt: []float32{1, 0, 0, 1}}
	for _, c := range []struct {
		w    []float32
		want float64
	}{
		{[]float32{3, 0, 0, 3}, 0},
		{[]float32{3, 0, 0, 4}, 0.2},
		{make([]float32, 4), math.Inf(1)},
	} {
		if got, err := f.RelativeError(t.Context(), c.w, 2, 2, 1); err != nil || math.Abs(got-c.want) > 1e-15 {
			t.Errorf("%v: %v, error %v; want %v", c.w, got, err, c.want)
		}
	}
	if _, err := f.RelativeError(t.Context(), make([]float32, 6), 2, 3, 1); err == nil {
		t.Error("factors of another shape are taken")
	}
}

func BenchmarkSVD(b *testing.B) {
	for _, s := range [][2]int{{576, 576}, {576, 1536}, {2048, 2048}, {2048, 8192}} {
		b.Run(fmt.Sprintf("%dx%d", s[0], s[1]), func(b *testing.B) {
			w := toFloat32(random(1, s[0]*s[1]))
			for b.Loop() {
				if _, err := Factor(b.Context(), w, s[0], s[1], 2); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
