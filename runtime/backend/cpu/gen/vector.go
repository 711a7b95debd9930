package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// The vector kernels work on steps of 16 float32, whatever the registers' width,
// so that the order of every sum is the same for all lengths of a path. Their
// callers pad what is left over.
const step = 16

// vectorFunc is one kernel: its signature and the code of its body.
type vectorFunc struct {
	name, doc string
	// pointers, floats and ints are the arguments, in this order.
	pointers, floats, ints []string
	result                 string
	body                   func(a *assembler)
}

// assembler writes the body of one kernel for one instruction set.
type assembler struct {
	w      io.Writer
	s      isa
	labels int
}

func (a *assembler) p(format string, args ...any) { fmt.Fprintf(a.w, "\t"+format+"\n", args...) }

func (a *assembler) label(l string) { fmt.Fprintf(a.w, "%s:\n", l) }

// halves is the number of registers that make a step.
func (a *assembler) halves() int { return step / a.s.lanes }

// r names the register of half h of the i-th value.
func (a *assembler) r(i, h int) string { return fmt.Sprintf("%s%d", a.s.reg, i*a.halves()+h) }

// at is the address of half h behind a pointer, with an index register or "".
func (a *assembler) at(pointer, index string, h int) string {
	if index != "" {
		index = "(" + index + "*1)"
	}
	return fmt.Sprintf("%d(%s)%s", 4*h*a.s.lanes, pointer, index)
}

func (a *assembler) each(f func(h int)) {
	for h := range a.halves() {
		f(h)
	}
}

// clear zeroes a register.
func (a *assembler) clear(r string) { a.p("%s %s, %s, %s", a.s.zero, r, r, r) }

// loop repeats body, which handles a step at byte offset DX of its arrays; n in
// CX elements is a multiple of the step.
func (a *assembler) loop(body func()) {
	a.p("XORQ DX, DX")
	a.p("SHLQ $2, CX")
	a.p("JEQ done")
	a.label("loop")
	body()
	a.p("ADDQ $%d, DX", 4*step)
	a.p("CMPQ DX, CX")
	a.p("JLT loop")
	a.label("done")
}

// fold adds or otherwise combines the halves of value i and then the lanes of
// the result pairwise, leaving the outcome in the lowest lane of half 0. temp is
// another value.
func (a *assembler) fold(op string, i, temp int) {
	if a.halves() == 2 {
		a.p("%s %s, %s, %s", op, a.r(i, 1), a.r(i, 0), a.r(i, 0))
	}
	a.foldRegister(op, a.r(i, 0)[1:], a.r(temp, 0)[1:])
}

// foldRegister is fold for one register, given the numbers of two.
func (a *assembler) foldRegister(op, x, t string) {
	if a.s.reg == "Z" {
		a.p("VEXTRACTF64X4 $1, Z%s, Y%s", x, t)
		a.p("%s Y%s, Y%s, Y%s", op, t, x, x)
	}
	a.p("VEXTRACTF128 $1, Y%s, X%s", x, t)
	a.p("%s X%s, X%s, X%s", op, t, x, x)
	a.p("VPERMILPS $0x4e, X%s, X%s", x, t)
	a.p("%s X%s, X%s, X%s", op, t, x, x)
	a.p("VPERMILPS $0xb1, X%s, X%s", x, t)
	a.p("%s X%s, X%s, X%s", op, t, x, x)
}

// constants of the exponential, each stored for a whole register.
var constants = []struct {
	name string
	bits uint32
}{
	{"lowest", math.Float32bits(-150)}, // e^lowest is zero, e^highest infinite.
	{"highest", math.Float32bits(130)},
	{"log2e", math.Float32bits(math.Log2E)},
	{"ln2high", math.Float32bits(float32(math.Ln2))},
	{"ln2low", math.Float32bits(float32(math.Ln2 - float64(float32(math.Ln2))))},
	{"bias", 127},
	{"c0", math.Float32bits(1)},
	{"c1", math.Float32bits(1)},
	{"c2", math.Float32bits(1. / 2)},
	{"c3", math.Float32bits(1. / 6)},
	{"c4", math.Float32bits(1. / 24)},
	{"c5", math.Float32bits(1. / 120)},
	{"c6", math.Float32bits(1. / 720)},
	{"c7", math.Float32bits(1. / 5040)},
	{"sign", 1 << 31},
	{"infinity", 0xff800000}, // Minus infinity.
}

func writeConstants(w io.Writer) {
	fmt.Fprintln(w)
	for i, c := range constants {
		for lane := range step {
			fmt.Fprintf(w, "DATA vectors<>+%d(SB)/4, $0x%08x\n", 4*(i*step+lane), c.bits)
		}
	}
	fmt.Fprintf(w, "GLOBL vectors<>(SB), RODATA|NOPTR, $%d\n", 4*step*len(constants))
}

func constant(name string) string {
	for i, c := range constants {
		if c.name == name {
			return fmt.Sprintf("vectors<>+%d(SB)", 4*step*i)
		}
	}
	panic("no constant " + name)
}

// exp replaces x by e^x, using n, p and t: x = n·ln 2 + r with |r| ≤ ln 2 / 2,
// and e^x = 2ⁿ·(1 + r + r²/2 + … + r⁷/5040); the remainder r⁸/8! is below half a
// unit in the last place. NaN stays NaN.
func (a *assembler) exp(x, n, p, t string) {
	a.p("VMOVUPS %s, %s", constant("lowest"), t)
	a.p("VMAXPS %s, %s, %s", x, t, x)
	a.p("VMOVUPS %s, %s", constant("highest"), t)
	a.p("VMINPS %s, %s, %s", x, t, x)
	a.p("VMULPS %s, %s, %s", constant("log2e"), x, n)
	if a.s.reg == "Z" {
		a.p("VRNDSCALEPS $0, %s, %s", n, n)
	} else {
		a.p("VROUNDPS $0, %s, %s", n, n)
	}
	a.p("VFNMADD231PS %s, %s, %s", constant("ln2high"), n, x)
	a.p("VFNMADD231PS %s, %s, %s", constant("ln2low"), n, x)
	a.p("VMOVUPS %s, %s", constant("c7"), p)
	for i := 6; i >= 0; i-- {
		a.p("VFMADD213PS %s, %s, %s", constant(fmt.Sprintf("c%d", i)), x, p)
	}
	if a.s.reg == "Z" {
		a.p("VSCALEFPS %s, %s, %s", n, p, x)
		return
	}
	// 2ⁿ in two factors, so that each has an exponent of its own.
	a.p("VCVTPS2DQ %s, %s", n, n)
	a.p("VPSRAD $1, %s, %s", n, t)
	a.p("VPSUBD %s, %s, %s", t, n, n)
	for _, factor := range []string{t, n} {
		a.p("VPADDD %s, %s, %s", constant("bias"), factor, factor)
		a.p("VPSLLD $23, %s, %s", factor, factor)
		a.p("VMULPS %s, %s, %s", factor, p, p)
	}
	a.p("VMOVAPS %s, %s", p, x)
}

// sigmoid sets s to 1 / (1 + e^−g), using n, p and t.
func (a *assembler) sigmoid(s, g, n, p, t string) {
	if a.s.reg == "Z" {
		a.p("VPXORD %s, %s, %s", constant("sign"), g, s)
	} else {
		a.p("VXORPS %s, %s, %s", constant("sign"), g, s)
	}
	a.exp(s, n, p, t)
	a.p("VMOVUPS %s, %s", constant("c0"), t)
	a.p("VADDPS %s, %s, %s", t, s, s)
	a.p("VDIVPS %s, %s, %s", s, t, s)
}

// broadcast loads a float argument into every lane of value i.
func (a *assembler) broadcast(argument string, i int) {
	a.each(func(h int) { a.p("VBROADCASTSS %s, %s", argument, a.r(i, h)) })
}

var vectorFuncs = []vectorFunc{
	{
		name: "axpy", doc: "computes y += alpha·x.",
		pointers: []string{"y", "x"}, floats: []string{"alpha"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.broadcast("alpha+16(FP)", 0)
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), a.r(1, h))
					a.p("VFMADD231PS %s, %s, %s", a.at("SI", "DX", h), a.r(0, h), a.r(1, h))
					a.p("VMOVUPS %s, %s", a.r(1, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "mul", doc: "computes y = a·b.",
		pointers: []string{"y", "a", "b"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(0, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(0, h), a.r(0, h))
					a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "mulScaled", doc: "computes y = a·alpha·b.",
		pointers: []string{"y", "a", "b"}, floats: []string{"alpha"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.broadcast("alpha+24(FP)", 1)
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMULPS %s, %s, %s", a.at("SI", "DX", h), a.r(1, h), a.r(0, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(0, h), a.r(0, h))
					a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "dot", doc: "returns Σ a·b.",
		pointers: []string{"a", "b"}, ints: []string{"n"}, result: "sum",
		body: func(a *assembler) {
			a.each(func(h int) { a.clear(a.r(0, h)) })
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), a.r(1, h))
					a.p("VFMADD231PS %s, %s, %s", a.at("SI", "DX", h), a.r(1, h), a.r(0, h))
				})
			})
			a.fold("VADDPS", 0, 1)
		},
	},
	{
		name: "maximum", doc: "returns the largest element.",
		pointers: []string{"a"}, ints: []string{"n"}, result: "top",
		body: func(a *assembler) {
			a.each(func(h int) { a.p("VMOVUPS %s, %s", constant("infinity"), a.r(0, h)) })
			a.loop(func() {
				a.each(func(h int) { a.p("VMAXPS %s, %s, %s", a.at("DI", "DX", h), a.r(0, h), a.r(0, h)) })
			})
			a.fold("VMAXPS", 0, 1)
		},
	},
	{
		name: "expShifted", doc: "computes y = e^(x−shift) and returns Σ y.",
		pointers: []string{"y", "x"}, floats: []string{"shift"}, ints: []string{"n"}, result: "sum",
		body: func(a *assembler) {
			const sum, shift, x, n, p, t = 0, 1, 2, 3, 4, 5
			a.broadcast("shift+16(FP)", shift)
			a.each(func(h int) { a.clear(a.r(sum, h)) })
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(x, h))
					a.p("VSUBPS %s, %s, %s", a.r(shift, h), a.r(x, h), a.r(x, h))
					a.exp(a.r(x, h), a.r(n, h), a.r(p, h), a.r(t, h))
					a.p("VADDPS %s, %s, %s", a.r(x, h), a.r(sum, h), a.r(sum, h))
					a.p("VMOVUPS %s, %s", a.r(x, h), a.at("DI", "DX", h))
				})
			})
			a.fold("VADDPS", sum, t)
		},
	},
	{
		name: "swiglu", doc: "computes y = silu(gate)·up.",
		pointers: []string{"y", "gate", "up"}, ints: []string{"n"},
		body: func(a *assembler) {
			const g, s, n, p, t = 0, 1, 2, 3, 4
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(g, h))
					a.sigmoid(a.r(s, h), a.r(g, h), a.r(n, h), a.r(p, h), a.r(t, h))
					a.p("VMULPS %s, %s, %s", a.r(g, h), a.r(s, h), a.r(s, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(s, h), a.r(s, h))
					a.p("VMOVUPS %s, %s", a.r(s, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "swigluBackward", doc: "computes the gradients with respect to gate and up.",
		pointers: []string{"dGate", "dUp", "dy", "gate", "up"}, ints: []string{"n"},
		body: func(a *assembler) {
			const g, s, n, p, t, d = 0, 1, 2, 3, 4, 5
			a.loop(func() {
				a.each(func(h int) {
					g, s, n, p, t, d := a.r(g, h), a.r(s, h), a.r(n, h), a.r(p, h), a.r(t, h), a.r(d, h)
					a.p("VMOVUPS %s, %s", a.at("R9", "DX", h), g)
					a.sigmoid(s, g, n, p, t)
					a.p("VMOVUPS %s, %s", a.at("R8", "DX", h), d)
					a.p("VMULPS %s, %s, %s", s, d, d)      // dy·s
					a.p("VMULPS %s, %s, %s", g, d, n)      // dy·s·g
					a.p("VSUBPS %s, %s, %s", s, t, p)      // 1 − s; sigmoid left 1 in t.
					a.p("VFMADD213PS %s, %s, %s", t, g, p) // 1 + g·(1 − s)
					a.p("VMULPS %s, %s, %s", a.at("R10", "DX", h), d, d)
					a.p("VMULPS %s, %s, %s", p, d, d)
					a.p("VMOVUPS %s, %s", d, a.at("DI", "DX", h))
					a.p("VMOVUPS %s, %s", n, a.at("SI", "DX", h))
				})
			})
		},
	},
	{
		name: "rotate", doc: "turns the pairs (a[i], b[i]) by the angles with these cosines and sines.",
		pointers: []string{"a", "b", "cos", "sin"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.loop(func() {
				a.each(func(h int) {
					x, y, cos, sin, u, v := a.r(0, h), a.r(1, h), a.r(2, h), a.r(3, h), a.r(4, h), a.r(5, h)
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), x)
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), y)
					a.p("VMOVUPS %s, %s", a.at("R8", "DX", h), cos)
					a.p("VMOVUPS %s, %s", a.at("R9", "DX", h), sin)
					a.p("VMULPS %s, %s, %s", x, cos, u)
					a.p("VFNMADD231PS %s, %s, %s", y, sin, u)
					a.p("VMULPS %s, %s, %s", y, cos, v)
					a.p("VFMADD231PS %s, %s, %s", x, sin, v)
					a.p("VMOVUPS %s, %s", u, a.at("DI", "DX", h))
					a.p("VMOVUPS %s, %s", v, a.at("SI", "DX", h))
				})
			})
		},
	},
	{
		name: "columnDots", doc: "computes d[c] = Σ over rows of a·b for 16 columns of rows that are stride elements apart.",
		pointers: []string{"d", "a", "b"}, ints: []string{"rows", "stride"},
		body: func(a *assembler) {
			a.p("SHLQ $2, DX")
			a.each(func(h int) { a.clear(a.r(0, h)) })
			a.p("TESTQ CX, CX")
			a.p("JEQ done")
			a.label("loop")
			a.each(func(h int) {
				a.p("VMOVUPS %s, %s", a.at("SI", "", h), a.r(1, h))
				a.p("VFMADD231PS %s, %s, %s", a.at("R8", "", h), a.r(1, h), a.r(0, h))
			})
			a.p("ADDQ DX, SI")
			a.p("ADDQ DX, R8")
			a.p("DECQ CX")
			a.p("JNE loop")
			a.label("done")
			a.each(func(h int) { a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "", h)) })
		},
	},
	{
		name: "dots", doc: "computes y[j] = scale·⟨q, k[j]⟩ for rows of n elements that are stride elements apart.\n// It writes groups of four, so up to three elements behind y[rows−1].",
		pointers: []string{"y", "q", "k"}, floats: []string{"scale"}, ints: []string{"rows", "stride", "n"},
		body: dots,
	},
	{
		name: "combine", doc: "computes y = Σ p[j]·v[j] for rows of n elements that are stride elements apart.",
		pointers: []string{"y", "p", "v"}, ints: []string{"rows", "stride", "n"},
		body: combine,
	},
	{
		name: "outer", doc: "computes y[j] += p[j]·x for rows of n elements that are stride elements apart.",
		pointers: []string{"y", "p", "x"}, ints: []string{"rows", "stride", "n"},
		body: func(a *assembler) {
			a.p("SHLQ $2, DX")
			a.p("SHLQ $2, R11")
			a.p("TESTQ CX, CX")
			a.p("JEQ done")
			a.label("row")
			a.each(func(h int) { a.p("VBROADCASTSS (SI), %s", a.r(0, h)) })
			a.p("XORQ AX, AX")
			a.label("column")
			a.each(func(h int) {
				a.p("VMOVUPS %s, %s", a.at("DI", "AX", h), a.r(1, h))
				a.p("VFMADD231PS %s, %s, %s", a.at("R8", "AX", h), a.r(0, h), a.r(1, h))
				a.p("VMOVUPS %s, %s", a.r(1, h), a.at("DI", "AX", h))
			})
			a.p("ADDQ $%d, AX", 4*step)
			a.p("CMPQ AX, R11")
			a.p("JLT column")
			a.p("ADDQ $4, SI")
			a.p("ADDQ DX, DI")
			a.p("DECQ CX")
			a.p("JNE row")
			a.label("done")
		},
	},
}

// dots takes four rows at once and transposes their lanes while adding them up.
// The rows missing in the last group repeat its first one.
func dots(a *assembler) {
	rows := []string{"R8", "R9", "R10", "BX"}
	a.p("SHLQ $2, DX")
	a.p("SHLQ $2, R11")
	a.p("VBROADCASTSS scale+24(FP), X%d", a.s.registers-1)
	a.p("TESTQ CX, CX")
	a.p("JLE done")
	a.label("group")
	for i := 1; i < len(rows); i++ {
		a.p("MOVQ R8, %s", rows[i])
		a.p("CMPQ CX, $%d", i)
		a.p("JLE counted")
		a.p("LEAQ (%s)(DX*1), %s", rows[i-1], rows[i])
	}
	a.p("JMP start")
	// A group of fewer rows: what was not set yet repeats the first.
	a.label("counted")
	a.p("CMPQ CX, $1")
	a.p("JGT two")
	a.p("MOVQ R8, R9")
	a.label("two")
	a.p("CMPQ CX, $2")
	a.p("JGT three")
	a.p("MOVQ R8, R10")
	a.label("three")
	a.p("MOVQ R8, BX")
	a.label("start")
	// Accumulators 0 to 3, one register each.
	acc := func(i int) string { return fmt.Sprintf("%s%d", a.s.reg, i) }
	temp := func(i int) string { return fmt.Sprintf("%s%d", a.s.reg, 4+i) }
	for i := range rows {
		a.clear(acc(i))
	}
	a.p("XORQ AX, AX")
	a.label("column")
	a.each(func(h int) {
		a.p("VMOVUPS %s, %s", a.at("SI", "AX", h), temp(0))
		for i, row := range rows {
			a.p("VFMADD231PS %s, %s, %s", a.at(row, "AX", h), temp(0), acc(i))
		}
	})
	a.p("ADDQ $%d, AX", 4*step)
	a.p("CMPQ AX, R11")
	a.p("JLT column")
	// [a0+a2 b0+b2 a1+a3 b1+b3] in every 128 bits, then [a b c d].
	for i := 0; i < 4; i += 2 {
		a.p("VUNPCKLPS %s, %s, %s", acc(i+1), acc(i), temp(0))
		a.p("VUNPCKHPS %s, %s, %s", acc(i+1), acc(i), temp(1))
		a.p("VADDPS %s, %s, %s", temp(1), temp(0), acc(i))
	}
	a.p("VUNPCKLPD %s, %s, %s", acc(2), acc(0), temp(0))
	a.p("VUNPCKHPD %s, %s, %s", acc(2), acc(0), temp(1))
	a.p("VADDPS %s, %s, %s", temp(1), temp(0), acc(0))
	if a.s.reg == "Z" {
		a.p("VEXTRACTF64X4 $1, Z0, Y1")
		a.p("VADDPS Y1, Y0, Y0")
	}
	a.p("VEXTRACTF128 $1, Y0, X1")
	a.p("VADDPS X1, X0, X0")
	a.p("VMULPS X%d, X0, X0", a.s.registers-1)
	a.p("VMOVUPS X0, (DI)")
	a.p("ADDQ $16, DI")
	a.p("LEAQ (R8)(DX*4), R8")
	a.p("SUBQ $4, CX")
	a.p("JGT group")
	a.label("done")
}

// combine takes 16 columns at a time through all rows, with four registers of
// sums (rows j, j+1, … in turn) to hide latency.
func combine(a *assembler) {
	sets := 4 / a.halves() // Rows in flight.
	sum := func(i, h int) string { return fmt.Sprintf("%s%d", a.s.reg, i*a.halves()+h) }
	weight := func(i int) string { return fmt.Sprintf("%s%d", a.s.reg, 4+i) }
	a.p("SHLQ $2, DX")
	a.p("SHLQ $2, R11")
	a.p("XORQ R12, R12")
	a.label("column")
	for i := range sets {
		a.each(func(h int) { a.clear(sum(i, h)) })
	}
	a.p("LEAQ (R8)(R12*1), R9") // The row.
	a.p("MOVQ SI, R10")         // Its weight.
	a.p("MOVQ CX, AX")
	a.p("SUBQ $%d, AX", sets)
	a.p("JLT rest")
	a.label("rows")
	for i := range sets {
		a.p("VBROADCASTSS %d(R10), %s", 4*i, weight(i))
		a.each(func(h int) {
			a.p("VFMADD231PS %s, %s, %s", a.at("R9", "", h), weight(i), sum(i, h))
		})
		a.p("ADDQ DX, R9")
	}
	a.p("ADDQ $%d, R10", 4*sets)
	a.p("SUBQ $%d, AX", sets)
	a.p("JGE rows")
	a.label("rest")
	a.p("ADDQ $%d, AX", sets)
	a.p("JEQ store")
	a.label("row")
	a.p("VBROADCASTSS (R10), %s", weight(0))
	a.each(func(h int) { a.p("VFMADD231PS %s, %s, %s", a.at("R9", "", h), weight(0), sum(0, h)) })
	a.p("ADDQ DX, R9")
	a.p("ADDQ $4, R10")
	a.p("DECQ AX")
	a.p("JNE row")
	a.label("store")
	for i := sets / 2; i > 0; i /= 2 {
		for j := range i {
			a.each(func(h int) { a.p("VADDPS %s, %s, %s", sum(j+i, h), sum(j, h), sum(j, h)) })
		}
	}
	a.each(func(h int) { a.p("VMOVUPS %s, %s", sum(0, h), a.at("DI", "R12", h)) })
	a.p("ADDQ $%d, R12", 4*step)
	a.p("CMPQ R12, R11")
	a.p("JLT column")
}

// argumentRegisters take the arguments: pointers first, then ints.
var (
	pointerRegisters = []string{"DI", "SI", "R8", "R9", "R10"}
	intRegisters     = []string{"CX", "DX", "R11"}
)

// vector writes one kernel and its declaration.
func (s isa) vector(asm, decl io.Writer, f vectorFunc) {
	var params []string
	offset := 0
	var loads []string
	for i, name := range f.pointers {
		params = append(params, name+" *float32")
		loads = append(loads, fmt.Sprintf("MOVQ %s+%d(FP), %s", name, offset, pointerRegisters[i]))
		offset += 8
	}
	for _, name := range f.floats {
		params = append(params, name+" float32")
		offset += 8 // A float32 and the padding to the next int.
	}
	for i, name := range f.ints {
		params = append(params, name+" int")
		loads = append(loads, fmt.Sprintf("MOVQ %s+%d(FP), %s", name, offset, intRegisters[i]))
		offset += 8
	}
	result, frame := "", offset
	if f.result != "" {
		result = fmt.Sprintf(" (%s float32)", f.result)
		frame += 4
	}
	name := f.name + s.name
	signature := fmt.Sprintf("func %s(%s)%s", name, strings.Join(params, ", "), result)
	fmt.Fprintf(decl, "\n// %s %s\n//\n//go:noescape\n%s\n", name, f.doc, signature)
	fmt.Fprintf(asm, "\n// %s\nTEXT ·%s(SB), NOSPLIT, $0-%d\n", signature, name, frame)
	a := &assembler{w: asm, s: s}
	for _, l := range loads {
		a.p("%s", l)
	}
	f.body(a)
	if f.result != "" {
		a.p("VMOVSS X0, %s+%d(FP)", f.result, offset)
	}
	a.p("VZEROUPPER")
	a.p("RET")
}
