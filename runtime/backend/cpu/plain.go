package cpu

import "math"

// The kernels in plain Go: what every path computes, and what processors without
// the accelerated ones run.

// plainColumns is the number of columns of a tile.
const plainColumns = 8

func plainTile(t *tileArgs) {
	const nr = plainColumns
	for r := range t.rows {
		a := t.a[r*t.lda:][:t.steps]
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

func plainRotate(a, b, cos, sin []float32) {
	b, cos, sin = b[:len(a)], cos[:len(a)], sin[:len(a)]
	for i := range a {
		a[i], b[i] = a[i]*cos[i]-b[i]*sin[i], b[i]*cos[i]+a[i]*sin[i]
	}
}

func plainColumnDots(d, a, b []float32, rows, stride int) {
	clear(d)
	for r := range rows {
		x, y := a[r*stride:][:len(d)], b[r*stride:][:len(d)]
		for c := range d {
			d[c] += x[c] * y[c]
		}
	}
}

func plainDots(y, q, k []float32, n, ldy, rows, stride int, scale float32) {
	for h := range len(q) / n {
		for j := range rows {
			y[h*ldy+j] = scale * plainDot(q[h*n:][:n], k[j*stride:][:n])
		}
	}
}

func plainCombine(y, p, v []float32, n, ldp, rows, stride int, pages []int32, pageRows int) {
	clear(y)
	for h := range len(y) / n {
		for j := range rows {
			row := int(pages[j/pageRows])*pageRows + j%pageRows
			plainAxpy(y[h*n:][:n], p[h*ldp+j], v[row*stride:][:n])
		}
	}
}
