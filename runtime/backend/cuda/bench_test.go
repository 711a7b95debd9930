//go:build cuda

package cuda

import (
	"fmt"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
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

// BenchmarkProduct multiplies rows with a weight, as decoding and prefill do.
func BenchmarkProduct(b *testing.B) {
	for _, kind := range backend.DTypes() {
		for _, n := range []int{1, 8, 64, 512, 4096} {
			b.Run(fmt.Sprintf("type=%s/rows=%d", kind, n), func(b *testing.B) {
				be := newTest(b)
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
			})
		}
	}
}

// BenchmarkCompose makes one matrix of its factors; an 8B model has 224, of which these
// are the largest.
func BenchmarkCompose(b *testing.B) {
	be := newTest(b)
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

// BenchmarkDecodeStep is one token for each of some sequences of the demo model. Its
// allocations, which are the host's, are the same on any driver.
func BenchmarkDecodeStep(b *testing.B) {
	be := newTest(b)
	m := demoModel(b, be)
	const sequences, prompt = 8, 40
	c, err := m.NewCache(sequences, 2*prompt)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	segments, asks := make([]model.Segment, sequences), make([]backend.Ask, sequences)
	step := func(tokens int) {
		for i := range sequences {
			segments[i] = model.Segment{Seq: i, Tokens: make([]int32, tokens)}
			asks[i] = backend.Ask{Row: i, Draw: &sample.Draw{Temperature: 1, Uniform: 0.5}}
		}
		if _, err := m.Decide(b.Context(), c, segments, asks); err != nil {
			b.Fatal(err)
		}
	}
	step(prompt)
	step(1)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		for i := range sequences {
			if err := c.Truncate(i, prompt); err != nil {
				b.Fatal(err)
			}
		}
		step(1)
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
