package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/svd"
)

// boundFactors bounds the orthogonality of the vectors (largest element of UᵀU − I), the
// relative reconstruction error, and the error of the values relative to the largest:
// what package svd is held to.
const boundFactors = 1e-6

// decompose factors matrices of every shape and spectrum on backends that can, and
// compares with the definition and with the values of package svd.
func (s *suite) decompose(t *testing.T) {
	if _, ok := s.variants[0].(backend.Decomposer); !ok {
		t.Skip("the backend leaves it to package svd")
	}
	for i, c := range decomposed() {
		t.Run(c.name, func(t *testing.T) {
			w := c.matrix(uint64(i))
			var first *backend.Factors
			for _, be := range s.variants {
				f, err := be.(backend.Decomposer).Decompose(t.Context(), w, c.out, c.in, backend.F32)
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = f
				} else if !sameBits(f.U, first.U) || !sameBits(f.S, first.S) || !sameBits(f.Vt, first.Vt) {
					t.Errorf("%s has other factors than %s", be.Name(), s.variants[0].Name())
				}
			}
			checkFactors(t, w, c.out, c.in, first)
		})
	}
	t.Run("Rounded", s.decomposeRounded)
	t.Run("Refusals", s.decomposeRefusals)
	t.Run("Stops", s.decomposeStops)
}

// decomposition is a matrix to factor: with these singular values, or these elements, or
// random ones.
type decomposition struct {
	name     string
	out, in  int
	spectrum func(x float64) float64 // Of 0 … 1.
	element  func(i, j int) float32
}

func decomposed() []decomposition {
	const n = 50
	return []decomposition{
		{name: "1×1", out: 1, in: 1},
		{name: "1×n", out: 1, in: 37},
		{name: "n×1", out: 37, in: 1},
		{name: "2×2", out: 2, in: 2},
		{name: "one pair of blocks", out: 32, in: 32},
		{name: "one row more", out: 33, in: 40},
		{name: "odd square", out: 97, in: 97},
		{name: "tall", out: 161, in: 65},
		{name: "very wide", out: 20, in: 1030},
		{name: "repeated values", out: n, in: 60, spectrum: func(float64) float64 { return 1 }},
		{name: "two clusters", out: n, in: 60, spectrum: func(x float64) float64 { return 1 + math.Floor(2*x) + 1e-9*x }},
		{name: "steps", out: n, in: n, spectrum: func(x float64) float64 { return math.Pow(10, -math.Floor(4*x)) }},
		{name: "graded over 6 decades", out: 50, in: 60, spectrum: func(x float64) float64 { return math.Pow(10, -6*x) }},
		{name: "graded over 12 decades", out: 60, in: 50, spectrum: func(x float64) float64 { return math.Pow(10, -12*x) }},
		{name: "one large", out: n, in: n, spectrum: func(x float64) float64 {
			if x == 0 {
				return 1e6
			}
			return 1 + x
		}},
		{name: "half rank", out: n, in: n, spectrum: func(x float64) float64 { return max(0, 1-2*x) }},
		{name: "large elements", out: 40, in: 50, spectrum: func(x float64) float64 { return 1e37 * (1 + x) }},
		{name: "small elements", out: 40, in: 50, spectrum: func(x float64) float64 { return 1e-33 * (1 + x) }},
		{name: "zero wide", out: 40, in: n, element: func(int, int) float32 { return 0 }},
		{name: "zero tall", out: n, in: 40, element: func(int, int) float32 { return 0 }},
		{name: "all ones", out: n, in: n, element: func(int, int) float32 { return 1 }},
		{name: "rank two", out: 40, in: n, element: func(i, j int) float32 { return float32(i%2*j + 1) }},
		{name: "zero columns", out: n, in: n, element: func(i, j int) float32 { return float32((i*7+j*3)%11) * float32(j%2) }},
		{name: "identity", out: n, in: n, element: func(i, j int) float32 {
			if i == j {
				return 1
			}
			return 0
		}},
		{name: "second difference", out: n, in: n, element: func(i, j int) float32 {
			return map[int]float32{0: 2, 1: -1, -1: -1}[i-j]
		}},
		{name: "diagonal over 35 decades", out: n, in: n, element: func(i, j int) float32 {
			if i == j {
				return float32(math.Pow(10, -float64(i)/2))
			}
			return 0
		}},
	}
}

func (c *decomposition) matrix(seed uint64) []float32 {
	if c.spectrum == nil && c.element == nil {
		return random(c.out*c.in, seed)
	}
	w := make([]float32, c.out*c.in)
	if c.element != nil {
		for i := range w {
			w[i] = c.element(i/c.in, i%c.in)
		}
		return w
	}
	r := min(c.out, c.in)
	basis := func(seed uint64, rows int) *mat.Dense {
		var qr mat.QR
		var q mat.Dense
		qr.Factorize(mat.NewDense(rows, r, widen(random(rows*r, seed))))
		qr.QTo(&q)
		return mat.DenseCopyOf(q.Slice(0, rows, 0, r))
	}
	values := make([]float64, r)
	for i := range values {
		values[i] = c.spectrum(float64(i) / float64(max(1, r-1)))
	}
	var us, product mat.Dense
	us.Mul(basis(seed, c.out), mat.NewDiagDense(r, values))
	product.Mul(&us, basis(seed+1, c.in).T())
	return narrowed(product.RawMatrix().Data)
}

// checkFactors compares the factors of w with their definition, and their values with
// those of package svd.
func checkFactors(t *testing.T, w []float32, out, in int, f *backend.Factors) {
	t.Helper()
	r := min(out, in)
	if len(f.U) != out*r || len(f.S) != r || len(f.Vt) != r*in {
		t.Fatalf("factors of %d, %d and %d elements", len(f.U), len(f.S), len(f.Vt))
	}
	u, vt := mat.NewDense(out, r, widen(f.U)), mat.NewDense(r, in, widen(f.Vt))
	var uu, vv mat.Dense
	uu.Mul(u.T(), u)
	vv.Mul(vt, vt.T())
	for i := range r {
		for j := range r {
			want := 0.0
			if i == j {
				want = 1
			}
			if e := max(math.Abs(uu.At(i, j)-want), math.Abs(vv.At(i, j)-want)); !(e <= boundFactors) {
				t.Fatalf("vectors %d and %d: UᵀU has %v and VᵀV %v, want %v", i, j, uu.At(i, j), vv.At(i, j), want)
			}
		}
	}
	own := svd.Factors{U: f.U, S: f.S, Vt: f.Vt}
	e, err := own.RelativeError(t.Context(), w, out, in, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !(e <= boundFactors) {
		t.Errorf("reconstruction is off by %.3g", e)
	}
	if !(math.Abs(f.RelativeError-e) <= 1e-12) {
		t.Errorf("reconstruction is off by %v, reported is %v", e, f.RelativeError)
	}
	reference, err := svd.Factor(t.Context(), w, out, in, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range f.S {
		if v < 0 || i > 0 && v > f.S[i-1] {
			t.Fatalf("value %d is %v after %v", i, v, f.S[max(0, i-1)])
		}
		got, want, top := float64(v), float64(reference.S[i]), float64(reference.S[0])
		bound := boundFactors * top
		if want > 1e-8*top { // Above that values have all their digits.
			bound = boundFactors*want + math.SmallestNonzeroFloat32
		}
		if !(math.Abs(got-want) <= bound) {
			t.Errorf("value %d is %v, want %v, of %v", i, got, want, top)
		}
	}
}

// decomposeRounded wants the float32 factors rounded to bfloat16, and the error of those.
func (s *suite) decomposeRounded(t *testing.T) {
	const out, in = 48, 40
	w, on := random(out*in, 7), s.variants[0].(backend.Decomposer)
	whole, err := on.Decompose(t.Context(), w, out, in, backend.F32)
	if err != nil {
		t.Fatal(err)
	}
	got, err := on.Decompose(t.Context(), w, out, in, backend.BF16)
	if err != nil {
		t.Fatal(err)
	}
	if u := narrowed(refRounded(backend.BF16, whole.U, in)); !sameBits(got.U, u) {
		t.Error("U is not rounded to bfloat16")
	}
	if vt := narrowed(refRounded(backend.BF16, whole.Vt, in)); !sameBits(got.Vt, vt) {
		t.Error("Vᵀ is not rounded to bfloat16")
	}
	if !slices.Equal(got.S, whole.S) {
		t.Error("the values are rounded, too")
	}
	own := svd.Factors{U: got.U, S: got.S, Vt: got.Vt}
	e, err := own.RelativeError(t.Context(), w, out, in, 1)
	if err != nil || math.Abs(got.RelativeError-e) > 1e-12 || e < 1e-4 {
		t.Errorf("rounded factors are off by %v, reported is %v (%v)", e, got.RelativeError, err)
	}
}

func (s *suite) decomposeRefusals(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	on := s.variants[0].(backend.Decomposer)
	for _, c := range []struct {
		w       []float32
		out, in int
		want    string
	}{
		{nil, 0, 3, "0 elements"},
		{make([]float32, 6), -2, -3, "6 elements"},
		{make([]float32, 5), 2, 3, "5 elements"},
		{[]float32{0, 1, 2, 3, 4, nan}, 2, 3, "row 1, column 2 is NaN"},
		{[]float32{0, 1, 2, inf, 4, 5}, 2, 3, "row 1, column 0 is -Inf"},
		{[]float32{3e38, 3e38, 3e38, 3e38}, 2, 2, "6e+38, is no float32"},
	} {
		if _, err := on.Decompose(t.Context(), c.w, c.out, c.in, backend.F32); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v [%d, %d]: error %v, want %q", c.w, c.out, c.in, err, c.want)
		}
	}
	if _, err := on.Decompose(t.Context(), make([]float32, 6), 2, 3, backend.Int8); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("int8 factors: error %v", err)
	}
}

// decomposeStops cancels a decomposition, at once and between two looks.
func (s *suite) decomposeStops(t *testing.T) {
	const n = 65
	w := random(n*n, 8)
	for _, be := range s.variants {
		before := be.Memory().Used
		for looks := range 3 {
			ctx := &endsAfter{Context: t.Context(), looks: looks}
			if _, err := be.(backend.Decomposer).Decompose(ctx, w, n, n, backend.F32); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, cancelled at look %d: error %v", be.Name(), looks+1, err)
			}
		}
		if after := be.Memory().Used; after != before {
			t.Errorf("%s keeps %d bytes of decompositions that ended", be.Name(), after-before)
		}
	}
}

// endsAfter is a context that ends after so many looks at it.
type endsAfter struct {
	context.Context //nolint:containedctx // It is one.
	looks           int
}

// Err implements context.Context.
func (c *endsAfter) Err() error {
	if c.looks--; c.looks < 0 {
		return fmt.Errorf("the test: %w", context.Canceled)
	}
	return nil
}
