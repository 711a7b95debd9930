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
	// pointers, floats and ints are the arguments, in this order. A pointer is to
	// float32 unless its name is followed by another type.
	pointers, floats, ints []string
	result                 string
	body                   func(a *assembler)
}

// assembler writes the body of one kernel for one instruction set.
type assembler struct {
	w io.Writer
	s isa
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

// foldToFour leaves four lanes of one register, given the numbers of two.
func (a *assembler) foldToFour(op, x, t string) {
	if a.s.reg == "Z" {
		a.p("VEXTRACTF64X4 $1, Z%s, Y%s", x, t)
		a.p("%s Y%s, Y%s, Y%s", op, t, x, x)
	}
	a.p("VEXTRACTF128 $1, Y%s, X%s", x, t)
	a.p("%s X%s, X%s, X%s", op, t, x, x)
}

// foldRegister is fold for one register, given the numbers of two.
func (a *assembler) foldRegister(op, x, t string) {
	a.foldToFour(op, x, t)
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
	{"unit", 1},              // Of roundBF16, from here.
	{"belowHalf", 0x7fff},
	{"quiet", 0x00400000},
	{"highHalf", 0xffff0000},
	{"magnitude", 0x7fffffff}, // Of quantize, from here.
	{"limit", math.Float32bits(127)},
	{"lowByte", 0xff}, // Of widenInt8, from here.
	{"minusBias", math.Float32bits(-128)},
}

func writeConstants(w io.Writer) {
	fmt.Fprintln(w)
	for i, c := range constants {
		for lane := range step {
			fmt.Fprintf(w, "DATA vectors<>+%d(SB)/4, $0x%08x\n", 4*(i*step+lane), c.bits)
		}
	}
	fmt.Fprintf(w, "GLOBL vectors<>(SB), RODATA|NOPTR, $%d\n", 4*step*len(constants))
	// Where packing has left groups of four, by the place where they belong.
	fmt.Fprintf(w, "DATA order<>+0(SB)/8, $0x0703060205010400\nGLOBL order<>(SB), RODATA|NOPTR, $8\n")
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

// argumentRegisters take the arguments: pointers first, then ints.
var (
	pointerRegisters = []string{"DI", "SI", "R8", "R9", "R10"}
	intRegisters     = []string{"CX", "DX", "R11", "BX", "R15", "R12"}
)

// vector writes one kernel and its declaration.
func (s isa) vector(asm, decl io.Writer, f vectorFunc) {
	var params []string
	offset := 0
	var loads []string
	for i, name := range f.pointers {
		name, kind, typed := strings.Cut(name, " ")
		if !typed {
			kind = "*float32"
		}
		params = append(params, name+" "+kind)
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
