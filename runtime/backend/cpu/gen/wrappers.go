package main

import (
	"io"
	"strings"
	"text/template"
)

// wrapperSource are the Go functions between package cpu's kernels table and the
// assembly. They pass whole steps on and pad what is left over to one step more,
// so that an element is computed by the same instructions wherever it stands.
const wrapperSource = `
func use{{.}}(k *kernels) {
	k.axpy = axpy{{.}}Slice
	k.mul = mul{{.}}Slice
	k.mulScaled = mulScaled{{.}}Slice
	k.dot = dot{{.}}Slice
	k.maximum = maximum{{.}}Slice
	k.expShifted = expShifted{{.}}Slice
	k.swiglu = swiglu{{.}}Slice
	k.swigluBackward = swigluBackward{{.}}Slice
	k.rotate = rotate{{.}}Slice
	k.columnDots = columnDots{{.}}Slice
	k.dots, k.combine = dots{{.}}Slice, combine{{.}}Slice
	k.dotsBF16, k.combineBF16 = dotsBF16{{.}}Slice, combineBF16{{.}}Slice
	k.storeBF16 = storeBF16Slice
}

func axpy{{.}}Slice(y []float32, alpha float32, x []float32) {
	n := len(y)
	x = x[:n]
	whole := n &^ (vectorStep - 1)
	if whole > 0 {
		axpy{{.}}(&y[0], &x[0], alpha, whole)
	}
	if whole < n {
		var ty, tx [vectorStep]float32
		copy(ty[:], y[whole:])
		copy(tx[:], x[whole:])
		axpy{{.}}(&ty[0], &tx[0], alpha, vectorStep)
		copy(y[whole:], ty[:])
	}
}

func mul{{.}}Slice(y, a, b []float32) {
	n := len(y)
	a, b = a[:n], b[:n]
	whole := n &^ (vectorStep - 1)
	if whole > 0 {
		mul{{.}}(&y[0], &a[0], &b[0], whole)
	}
	for i := whole; i < n; i++ {
		y[i] = a[i] * b[i]
	}
}

func mulScaled{{.}}Slice(y, a, b []float32, alpha float32) {
	n := len(y)
	a, b = a[:n], b[:n]
	whole := n &^ (vectorStep - 1)
	if whole > 0 {
		mulScaled{{.}}(&y[0], &a[0], &b[0], alpha, whole)
	}
	for i := whole; i < n; i++ {
		y[i] = a[i] * alpha * b[i]
	}
}

func dot{{.}}Slice(a, b []float32) float32 {
	n := len(a)
	b = b[:n]
	whole := n &^ (vectorStep - 1)
	var sum float32
	if whole > 0 {
		sum = dot{{.}}(&a[0], &b[0], whole)
	}
	if whole < n {
		var ta, tb [vectorStep]float32
		copy(ta[:], a[whole:])
		copy(tb[:], b[whole:])
		sum += dot{{.}}(&ta[0], &tb[0], vectorStep)
	}
	return sum
}

func maximum{{.}}Slice(a []float32) float32 {
	whole := len(a) &^ (vectorStep - 1)
	top := a[0]
	if whole > 0 {
		top = maximum{{.}}(&a[0], whole)
	}
	for _, v := range a[whole:] {
		if v > top {
			top = v
		}
	}
	return top
}

func expShifted{{.}}Slice(y, x []float32, shift float32) float32 {
	n := len(y)
	x = x[:n]
	whole := n &^ (vectorStep - 1)
	var sum float32
	if whole > 0 {
		sum = expShifted{{.}}(&y[0], &x[0], shift, whole)
	}
	if whole < n {
		t := lowest // Adds nothing to the sum.
		copy(t[:], x[whole:])
		sum += expShifted{{.}}(&t[0], &t[0], shift, vectorStep)
		copy(y[whole:], t[:])
	}
	return sum
}

func swiglu{{.}}Slice(y, gate, up []float32) {
	n := len(y)
	gate, up = gate[:n], up[:n]
	whole := n &^ (vectorStep - 1)
	if whole > 0 {
		swiglu{{.}}(&y[0], &gate[0], &up[0], whole)
	}
	if whole < n {
		var tg, tu [vectorStep]float32
		copy(tg[:], gate[whole:])
		copy(tu[:], up[whole:])
		swiglu{{.}}(&tg[0], &tg[0], &tu[0], vectorStep)
		copy(y[whole:], tg[:])
	}
}

func swigluBackward{{.}}Slice(dGate, dUp, dy, gate, up []float32) {
	n := len(dGate)
	dUp, dy, gate, up = dUp[:n], dy[:n], gate[:n], up[:n]
	whole := n &^ (vectorStep - 1)
	if whole > 0 {
		swigluBackward{{.}}(&dGate[0], &dUp[0], &dy[0], &gate[0], &up[0], whole)
	}
	if whole < n {
		var td, tg, tu, outGate, outUp [vectorStep]float32
		copy(td[:], dy[whole:])
		copy(tg[:], gate[whole:])
		copy(tu[:], up[whole:])
		swigluBackward{{.}}(&outGate[0], &outUp[0], &td[0], &tg[0], &tu[0], vectorStep)
		copy(dGate[whole:], outGate[:])
		copy(dUp[whole:], outUp[:])
	}
}

func rotate{{.}}Slice(a, b, cos, sin []float32) {
	n := len(a)
	if n == 0 || n%vectorStep != 0 {
		plainRotate(a, b, cos, sin)
		return
	}
	b, cos, sin = b[:n], cos[:n], sin[:n]
	rotate{{.}}(&a[0], &b[0], &cos[0], &sin[0], n)
}

func columnDots{{.}}Slice(d, a, b []float32, rows, stride int) {
	if len(d) != vectorStep || rows == 0 {
		plainColumnDots(d, a, b, rows, stride)
		return
	}
	_, _ = a[(rows-1)*stride+vectorStep-1], b[(rows-1)*stride+vectorStep-1]
	columnDots{{.}}(&d[0], &a[0], &b[0], rows, stride)
}
`

// attentionSource are those of the kernels that read keys and values which are stored in
// some way.
const attentionSource = `
func dots{{.Stored}}{{.}}Slice(y, q []float32, k []{{.Type}}, n, ldy, rows, stride int, scale float32) {
	if n%vectorStep != 0 || rows == 0 {
		plainDots{{.Stored}}(y, q, k, n, ldy, rows, stride, scale)
		return
	}
	const most = {{.DotsHeads}}
	_ = k[(rows-1)*stride+n-1]
	for len(q) > 0 {
		heads := min(most, len(q)/n)
		_ = y[:(heads-1)*ldy+roundUp(rows, 4)]
		dots{{.Stored}}{{.}}(&y[0], &q[0], &k[0], scale, rows, stride, n, ldy, heads)
		y, q = y[min(heads*ldy, len(y)):], q[heads*n:]
	}
}

func combine{{.Stored}}{{.}}Slice(y, p []float32, v []{{.Type}}, n, ldp, rows, stride int, pages []int32, pageRows int) {
	if n%vectorStep != 0 || rows == 0 {
		plainCombine{{.Stored}}(y, p, v, n, ldp, rows, stride, pages, pageRows)
		return
	}
	for j := 0; j < rows; j += pageRows {
		first := int(pages[j/pageRows]) * pageRows * stride
		_ = v[first : first+(min(pageRows, rows-j)-1)*stride+n]
	}
	const most = {{.CombineHeads}}
	for len(y) > 0 {
		heads := min(most, len(y)/n)
		_ = p[(heads-1)*ldp+rows-1]
		combine{{.Stored}}{{.}}(&y[0], &p[0], &v[0], &pages[0], rows, stride, n, pageRows, ldp, heads)
		y, p = y[heads*n:], p[min(heads*ldp, len(p)):]
	}
}
`

var (
	wrapperTemplate   = template.Must(template.New("wrappers").Parse(wrapperSource))
	attentionTemplate = template.Must(template.New("attention").Parse(attentionSource))
)

// attentionWrappers is what attentionSource is written for.
type attentionWrappers struct {
	isa
	Stored, Type string
}

// wrappers writes the Go functions around this instruction set's kernels.
func (s isa) wrappers(w io.Writer) {
	var b strings.Builder
	if err := wrapperTemplate.Execute(&b, s); err != nil {
		panic(err) // The template is a constant.
	}
	for _, t := range []stored{storedF32, storedBF16} {
		if err := attentionTemplate.Execute(&b, attentionWrappers{s, t.suffix, t.goType}); err != nil {
			panic(err) // As above.
		}
	}
	_, _ = io.WriteString(w, b.String())
}
