package cpu

import (
	"fmt"
	"testing"
)

// BenchmarkKernels measures the vector kernels one by one on what fits the first
// cache; bytes are those read and written, once each. Attention's are taken for the
// heads that share a key-value head.
//
//	go test -run - -bench Kernels ./runtime/backend/cpu | benchstat -col /path -
func BenchmarkKernels(b *testing.B) {
	const n, rows, heads, headDim = 1536, 32, 4, 64
	x, y, u, v, w := random(n, 1), random(n, 2), random(n, 3), random(n, 4), random(n, 5)
	q, k, p := random(heads*headDim, 6), random(rows*headDim, 7), random(heads*rows, 8)
	for _, path := range Paths() {
		kernels, err := chooseKernels(path)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range []struct {
			name   string
			floats int // Read and written.
			run    func()
		}{
			{"dot", 2 * n, func() { kernels.dot(x, u) }},
			{"axpy", 3 * n, func() { kernels.axpy(y, 1e-9, x) }},
			{"mul", 3 * n, func() { kernels.mul(y, x, u) }},
			{"mulScaled", 3 * n, func() { kernels.mulScaled(y, x, u, 0.5) }},
			{"maximum", n, func() { kernels.maximum(x) }},
			{"expShifted", 2 * n, func() { kernels.expShifted(y, x, 1) }},
			{"swiglu", 3 * n, func() { kernels.swiglu(y, x, u) }},
			{"swigluBackward", 5 * n, func() { kernels.swigluBackward(y, v, x, u, w) }},
			{"rotate", 6 * n, func() { kernels.rotate(y, v, x, u) }},
			{"columnDots", 2 * n, func() { kernels.columnDots(y[:vectorStep], x, u, n/vectorStep, vectorStep) }},
			{"dots", len(q) + len(k) + len(p), func() { kernels.dots(p, q, k, headDim, rows, rows, headDim, 1) }},
			{"combine", len(q) + len(k) + len(p), func() { kernels.combine(q, p, k, headDim, rows, rows, headDim, onePage, rows) }},
		} {
			b.Run(fmt.Sprintf("path=%s/%s", path, c.name), func(b *testing.B) {
				b.SetBytes(4 * int64(c.floats))
				for b.Loop() {
					c.run()
				}
			})
		}
	}
}
