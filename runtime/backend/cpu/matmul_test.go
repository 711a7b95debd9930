package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"

	"github.com/transformersquared/operator/runtime/backend"
)

func random(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

func newTest(tb testing.TB, threads int, path string) *Backend {
	tb.Helper()
	b, err := newWithPath(threads, path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// TestProductRowsDoNotDependOnTheirBatch computes each row alone and in batches
// of several sizes, with several numbers of threads, and wants the same bits.
func TestProductRowsDoNotDependOnTheirBatch(t *testing.T) {
	shapes := []struct{ n, out, in int }{
		{25, 33, 7}, {13, 1, 1}, {40, 96, 130}, {150, 257, 33}, {7, 300, 1100}, {24, 128, 512},
	}
	for _, path := range testedPaths() {
		for _, kind := range backend.DTypes() {
			if path == "amxwide" && kind != backend.Int8 {
				continue // Is that of amx.
			}
			for _, s := range shapes {
				t.Run(fmt.Sprintf("%s/%s/%dx%dx%d", path, kind, s.n, s.out, s.in), func(t *testing.T) {
					x, w, y0 := random(s.n*s.in, 1), random(s.out*s.in, 2), random(s.n*s.out, 3)
					for _, add := range []bool{false, true} {
						want := slices.Clone(y0)
						alone := newTest(t, 1, path)
						each, many := 1, []int{1, 2, 3, 5}
						if isEmulated(path) && kind != backend.F32 { // Slow.
							each, many = 1+s.n/8, []int{3}
						}
						for r := 0; r < s.n; r += each {
							multiply(t, alone, kind, want[r*s.out:][:s.out], x[r*s.in:][:s.in], w, 1, s.out, s.in, add)
						}
						for _, threads := range many {
							got := slices.Clone(y0)
							multiply(t, newTest(t, threads, path), kind, got, x, w, s.n, s.out, s.in, add)
							for r := 0; r < s.n; r += each {
								if !slices.Equal(got[r*s.out:][:s.out], want[r*s.out:][:s.out]) {
									t.Errorf("add %v, %d threads: row %d of the batch differs from the row computed alone", add, threads, r)
									break
								}
							}
						}
						for i := range want {
							if kind != backend.F32 { // Whose results the conformance suite checks.
								break
							}
							if e := math.Abs(float64(want[i]) - exact(x, w, y0, i, s.out, s.in, add)); e > 1e-5*float64(s.in)+1e-5 {
								t.Fatalf("add %v: element %d is off by %g", add, i, e)
							}
						}
					}
				})
			}
		}
	}
}

func exact(x, w, y0 []float32, i, out, in int, add bool) float64 {
	var sum float64
	if add {
		sum = float64(y0[i])
	}
	for k := range in {
		sum += float64(x[i/out*in+k]) * float64(w[i%out*in+k])
	}
	return sum
}

func multiply(tb testing.TB, b *Backend, kind backend.DType, y, x, w []float32, n, out, in int, add bool) {
	tb.Helper()
	weight, err := b.NewWeight(kind, out, in, w)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.MatMul(n, backend.Product{Y: bufferOf(y), X: bufferOf(x), W: weight, Add: add}); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkMatMul reports GFLOP/s, and for float32 how many times that is of
// gonum's Sgemm on the same shape in the same run; for one row also how fast the
// weights are read. Names are path, type, and n×out×in:
//
//	go test -run - -bench 'MatMul/path=avx512bf16' ./runtime/backend/cpu | benchstat -col /type -
func BenchmarkMatMul(b *testing.B) {
	shapes := []struct{ n, out, in int }{
		{1, 384, 128}, {1, 2048, 2048}, {1, 8192, 2048}, {1, 49152, 576},
		{8, 384, 128}, {8, 1536, 576}, {64, 128, 128}, {64, 384, 128}, {64, 128, 384}, {64, 512, 128},
		{512, 384, 128}, {2000, 384, 128}, {2000, 128, 384}, {2000, 128, 128},
		{512, 576, 1536}, {512, 1536, 576}, {512, 2048, 2048}, {512, 8192, 2048}, {512, 2048, 8192}, {512, 512, 2048},
	}
	for _, path := range Paths() {
		for _, s := range shapes {
			for _, kind := range backend.DTypes() {
				b.Run(fmt.Sprintf("path=%s/type=%s/%dx%dx%d", path, kind, s.n, s.out, s.in), func(b *testing.B) {
					benchmarkMatMul(b, path, kind, s.n, s.out, s.in)
				})
			}
		}
	}
}

func benchmarkMatMul(b *testing.B, path string, kind backend.DType, n, out, in int) {
	be := newTest(b, 0, path)
	w, err := be.NewWeight(kind, out, in, random(out*in, 1))
	if err != nil {
		b.Fatal(err)
	}
	x, y := bufferOf(random(n*in, 2)), bufferOf(make([]float32, n*out))
	work := 2 * float64(n) * float64(out) * float64(in)
	for b.Loop() {
		if err := be.MatMul(n, backend.Product{Y: y, X: x, W: w}); err != nil {
			b.Fatal(err)
		}
	}
	perSecond := float64(b.N) / b.Elapsed().Seconds() / 1e9
	b.ReportMetric(work*perSecond, "GFLOP/s")
	if own, ok := w.(*weight); ok && n == 1 {
		b.ReportMetric(4*float64(len(own.forward.panels))*perSecond, "GB/s")
	}
	if kind == backend.F32 {
		b.ReportMetric(work*perSecond/gonumSpeed(n, out, in), "×gonum")
	}
}

// gonumSpeed measures gonum's Sgemm for y = x·Wᵀ, in GFLOP/s.
func gonumSpeed(n, out, in int) float64 {
	x, w, y := random(n*in, 2), random(out*in, 1), make([]float32, n*out)
	var impl gonum.Implementation
	var runs int
	start := time.Now()
	for time.Since(start) < 100*time.Millisecond {
		impl.Sgemm(blas.NoTrans, blas.Trans, n, out, in, 1, x, in, w, in, 0, y, out)
		runs++
	}
	return 2 * float64(n) * float64(out) * float64(in) * float64(runs) / time.Since(start).Seconds() / 1e9
}

// BenchmarkNewWeight is what loading costs.
func BenchmarkNewWeight(b *testing.B) {
	for _, kind := range backend.DTypes() {
		b.Run("type="+kind.String(), func(b *testing.B) {
			be := newTest(b, 0, "")
			const out, in = 2048, 2048
			data := random(out*in, 1)
			b.SetBytes(4 * out * in)
			for b.Loop() {
				if _, err := be.NewWeight(kind, out, in, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
