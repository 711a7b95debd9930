package cpu

import (
	"fmt"
	"math"
	"strings"
)

//go:generate go run ./gen

const (
	// maxTile is the largest mr·nr of any path.
	maxTile = 12 * 32
	// widePanels is the number of panels that kernels.wide takes.
	widePanels = 4
)

// kernels is one instruction path: the inner loops that the operations are made
// of. Each is deterministic in its arguments; the order of a sum depends on its
// length only.
type kernels struct {
	name string
	// mr and nr are the rows and columns of a matrix product's tile.
	mr, nr int
	// tile computes one tile of a product.
	tile func(t *tileArgs)
	// wide computes one row of widePanels adjacent panels, or is nil.
	wide func(t *tileArgs)
	// dot returns Σ a·b over len(a) elements.
	dot func(a, b []float32) float32
	// axpy computes y += alpha·x over len(y) elements.
	axpy func(y []float32, alpha float32, x []float32)
	// mul computes y = a·b, element by element.
	mul func(y, a, b []float32)
	// mulAdd computes y += a·b, element by element.
	mulAdd func(y, a, b []float32)
	// mulScaled computes y = a·alpha·b, element by element.
	mulScaled func(y, a, b []float32, alpha float32)
	// maximum returns the largest element; a has at least one.
	maximum func(a []float32) float32
	// expShifted computes y = e^(x−shift) and returns the sum of y.
	expShifted func(y, x []float32, shift float32) float32
	// swiglu computes y = silu(gate)·up.
	swiglu func(y, gate, up []float32)
	// swigluBackward computes the gradients with respect to gate and up.
	swigluBackward func(dGate, dUp, dy, gate, up []float32)
}

// tileArgs describes c [rows, nr] (+)= a [rows, k]·panel [k, nr]; rows is 1 to mr.
// Every element is one chain of multiply-adds over k, whatever rows is. The
// assembly reads the fields by name.
type tileArgs struct {
	c, a, panel []float32
	ldc, lda    int
	k, rows     int
	panelStride int // Elements from panel to panel, for wide.
	add         bool
}

// chooseKernels returns the named path, or the best one for "".
func chooseKernels(path string) (*kernels, error) {
	available := append(accelerated(), plainKernels())
	if path == "" {
		return available[0], nil
	}
	names := make([]string, len(available))
	for i, k := range available {
		if k.name == path {
			return k, nil
		}
		names[i] = k.name
	}
	return nil, fmt.Errorf("%s=%q: this processor and build offer %s", EnvPath, path, strings.Join(names, ", "))
}

func plainKernels() *kernels {
	return &kernels{
		name: "plain", mr: 4, nr: 8,
		tile:           plainTile,
		dot:            plainDot,
		axpy:           plainAxpy,
		mul:            plainMul,
		mulAdd:         plainMulAdd,
		mulScaled:      plainMulScaled,
		maximum:        plainMaximum,
		expShifted:     plainExpShifted,
		swiglu:         plainSwiGLU,
		swigluBackward: plainSwiGLUBackward,
	}
}

func plainTile(t *tileArgs) {
	const nr = 8
	for r := range t.rows {
		a := t.a[r*t.lda:][:t.k]
		c := (*[nr]float32)(t.c[r*t.ldc:])
		var sum [nr]float32
		if t.add {
			sum = *c
		}
		c0, c1, c2, c3 := sum[0], sum[1], sum[2], sum[3]
		c4, c5, c6, c7 := sum[4], sum[5], sum[6], sum[7]
		panel := t.panel
		for _, x := range a {
			w := (*[nr]float32)(panel)
			c0 += x * w[0]
			c1 += x * w[1]
			c2 += x * w[2]
			c3 += x * w[3]
			c4 += x * w[4]
			c5 += x * w[5]
			c6 += x * w[6]
			c7 += x * w[7]
			panel = panel[nr:]
		}
		*c = [nr]float32{c0, c1, c2, c3, c4, c5, c6, c7}
	}
}

func plainDot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

func plainAxpy(y []float32, alpha float32, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += alpha * x[i]
	}
}

func plainMul(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] * b[i]
	}
}

func plainMulAdd(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] += a[i] * b[i]
	}
}

func plainMulScaled(y, a, b []float32, alpha float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] * alpha * b[i]
	}
}

func plainMaximum(a []float32) float32 {
	top := a[0]
	for _, v := range a[1:] {
		if v > top {
			top = v
		}
	}
	return top
}

func plainExpShifted(y, x []float32, shift float32) float32 {
	x = x[:len(y)]
	var sum float32
	for i := range y {
		e := float32(math.Exp(float64(x[i] - shift)))
		y[i] = e
		sum += e
	}
	return sum
}

func plainSwiGLU(y, gate, up []float32) {
	gate, up = gate[:len(y)], up[:len(y)]
	for i := range y {
		g := gate[i]
		y[i] = g * sigmoid(g) * up[i]
	}
}

func plainSwiGLUBackward(dGate, dUp, dy, gate, up []float32) {
	dUp, dy, gate, up = dUp[:len(dGate)], dy[:len(dGate)], gate[:len(dGate)], up[:len(dGate)]
	for i := range dGate {
		g, s := gate[i], sigmoid(gate[i])
		d := dy[i]
		dUp[i] = d * g * s
		dGate[i] = d * up[i] * s * (1 + g*(1-s))
	}
}

func sigmoid(x float32) float32 {
	return float32(1 / (1 + math.Exp(-float64(x))))
}
