//go:build cuda

package cuda

import (
	"fmt"
	"testing"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
)

// These are for a device (`make bench-gpu`): what the software driver takes says nothing.
// Shapes are those of Llama 3 8B.
const (
	hidden = 4096
	inner  = 14336
)

// BenchmarkCopy is the bandwidth that the others are to be compared with: bytes read and
// written.
func BenchmarkCopy(b *testing.B) {
	be := newTest(b)
	const count = 256 << 20
	x, y := pair(b, be, count)
	measure(b, be, 2*backend.F32.Bytes(1, count), 0, func() error { return be.Copy(y, x) })
}

// BenchmarkProduct multiplies rows with a weight, as decoding and prefill do; of many rows
// by cuBLAS, too, where it is there.
func BenchmarkProduct(b *testing.B) {
	for _, kind := range backend.DTypes() {
		for _, n := range []int{1, 8, 64, 512, 4096} {
			use := backend.LibraryAlways
			if n <= skinnyRows || kind == backend.Int8 {
				use = backend.LibraryNever
			}
			compared(b, fmt.Sprintf("type=%s/rows=%d", kind, n), kind == backend.BF16 && n >= largeRows, use, func(b *testing.B, be *Backend) {
				benchmarkProduct(b, be, kind, n)
			})
		}
	}
}

func benchmarkProduct(b *testing.B, be *Backend, kind backend.DType, n int) {
	b.Helper()
	w, err := be.NewWeight(kind, inner, hidden, nil)
	if err != nil {
		b.Fatal(err)
	}
	whole, y := pair(b, be, n*inner)
	x, err := be.Rows(whole, 1, 0, n*hidden)
	if err != nil {
		b.Fatal(err)
	}
	bytes := kind.Bytes(inner, hidden) + backend.F32.Bytes(n, hidden+inner)
	measure(b, be, bytes, 2*n*hidden*inner, func() error {
		return be.MatMul(n, backend.Product{Y: y, X: x, W: w})
	})
}

// BenchmarkCompose makes one matrix of its factors; an 8B model has 224, of which these
// are the largest. By our kernel, and by cuBLAS where it is there.
func BenchmarkCompose(b *testing.B) {
	compared(b, "type=bf16", true, backend.LibraryTraining, benchmarkCompose)
}

func benchmarkCompose(b *testing.B, be *Backend) {
	b.Helper()
	newWeight := func(out, in int) backend.Weight {
		w, err := be.NewWeight(backend.BF16, out, in, nil)
		if err != nil {
			b.Fatal(err)
		}
		return w
	}
	dst, u, vt := newWeight(inner, hidden), newWeight(inner, hidden), newWeight(hidden, hidden)
	s, _ := pair(b, be, hidden)
	measure(b, be, dst.Type().Bytes(inner, hidden), 2*inner*hidden*hidden, func() error { return be.Compose(b.Context(), dst, u, vt, s) })
}

// compared runs a benchmark with our kernels as they are chosen; without those that only
// compute capability 9.0 has, where it has some for it; and with cuBLAS, where that is used
// for it and there.
func compared(b *testing.B, name string, twin bool, library backend.LibraryUse, run func(*testing.B, *Backend)) {
	b.Run(name, func(b *testing.B) { run(b, newTest(b)) })
	if twin {
		b.Run(name+"/hopper=never", func(b *testing.B) { run(b, openTest(b, Options{Hopper: Never}, kernels.Load)) })
	}
	if library != backend.LibraryNever {
		b.Run(name+"/cublas", func(b *testing.B) { run(b, openWith(b, Options{CuBLAS: library})) })
	}
}

// BenchmarkDecodeStep is one token for each of eight sequences of the demo model, stored as
// a server stores it. Its allocations, which are the host's, are the same on any driver.
func BenchmarkDecodeStep(b *testing.B) {
	for name, options := range map[string][]model.Option{"repeated": nil, "computed": {model.Unrecorded()}} {
		b.Run(name, func(b *testing.B) {
			const prompt = 40
			s := newBatchOf8(b, demoModel(b, newTest(b), append(options, model.StoredAs(served))...), 2*prompt)
			s.step(b, 8, prompt)
			s.step(b, 8, 1)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for i := range s.segments {
					if err := s.cache.Truncate(i, prompt); err != nil {
						b.Fatal(err)
					}
				}
				s.step(b, 8, 1)
			}
		})
	}
}

// pair returns two cleared buffers.
func pair(b *testing.B, be *Backend, count int) (x, y backend.Buffer) {
	b.Helper()
	for _, buf := range []*backend.Buffer{&x, &y} {
		var err error
		if *buf, err = be.Alloc(backend.F32, count); err != nil {
			b.Fatal(err)
		}
		if err := be.Zero(*buf); err != nil {
			b.Fatal(err)
		}
	}
	return x, y
}

// measure repeats an operation of so many bytes and floating-point operations.
func measure(b *testing.B, be *Backend, bytes int64, flops int, operation func() error) {
	b.Helper()
	step := func() {
		if err := operation(); err != nil {
			b.Fatal(err)
		}
	}
	step()
	if err := be.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		step()
	}
	if err := be.Sync(); err != nil {
		b.Fatal(err)
	}
	seconds := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(float64(bytes)/seconds/1e9, "GB/s")
	if flops > 0 {
		b.ReportMetric(float64(flops)/seconds/1e12, "TFLOP/s")
	}
}
