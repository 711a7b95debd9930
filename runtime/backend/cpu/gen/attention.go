package main

import (
	"fmt"
	"strconv"
)

// attentionHeads is how many of the heads that share keys and values dots and
// combine take at once at most.
const attentionHeads = 4

// perHeads writes a part of a kernel for each number of heads, the one in a
// register, up to most. It uses a label "heads%d" for each.
func (a *assembler) perHeads(most int, register string, part func(heads int)) {
	for heads := 1; heads < most; heads++ {
		a.p("CMPQ %s, $%d", register, heads)
		a.p("JEQ heads%d", heads)
	}
	for heads := most; heads > 0; heads-- {
		a.label(fmt.Sprintf("heads%d", heads))
		part(heads)
	}
}

// stored is how keys and values are stored: elements of 1<<shift bytes.
type stored struct {
	suffix string // Of the names of kernels.
	goType string
	shift  int
}

var (
	storedF32  = stored{"", "float32", 2}
	storedBF16 = stored{"BF16", "uint16", 1}
)

// at is the address of half h of a step behind a pointer, with an index register or "".
func (s stored) at(a *assembler, pointer, index string, h int) string {
	if index != "" {
		index = "(" + index + "*1)"
	}
	return fmt.Sprintf("%d(%s)%s", h*a.s.lanes<<s.shift, pointer, index)
}

// shared returns the operand for what is in memory and used once a head: a register
// that it is loaded into, as float32, or the memory itself.
func (s stored) shared(a *assembler, heads int, memory, register string) string {
	switch {
	case s == storedBF16:
		a.p("VPMOVZXWD %s, %s", memory, register)
		a.p("VPSLLD $16, %s, %s", register, register)
	case heads == 1:
		return memory
	default:
		a.p("VMOVUPS %s, %s", memory, register)
	}
	return register
}

// offset returns the register with what the offset of an element in bytes of float32, in
// a register, is for what is stored: the same, or another one.
func (s stored) offset(a *assembler, register, other string) string {
	if s == storedF32 {
		return register
	}
	a.p("MOVQ %s, %s", register, other)
	a.p("SHRQ $%d, %s", storedF32.shift-s.shift, other)
	return other
}

// dots takes four rows at once and transposes their lanes while adding them up.
// The rows missing in the last group repeat its first one.
func (s stored) dots(a *assembler) {
	a.p("SHLQ $%d, DX", s.shift)
	a.p("SHLQ $2, R11")
	a.p("SHLQ $2, BX")
	a.p("VBROADCASTSS scale+24(FP), X%d", a.s.registers-1)
	a.p("TESTQ CX, CX")
	a.p("JLE done")
	a.perHeads(a.s.DotsHeads(), "R15", func(heads int) { s.dotsOfHeads(a, heads) })
	a.label("done")
}

// DotsHeads returns how many heads dots takes at once: as many as the registers
// hold sums of.
func (s isa) DotsHeads() int {
	if s.registers < 32 {
		return attentionHeads / 2
	}
	return attentionHeads
}

// CombineHeads returns how many heads combine takes at once.
func (isa) CombineHeads() int { return attentionHeads }

// dotsOfHeads is the part of dots for a number of heads.
func (s stored) dotsOfHeads(a *assembler, heads int) {
	rows := []string{"R8", "R9", "R10", "R12"}
	name := func(label string) string { return fmt.Sprintf("%s%d", label, heads) }
	acc := func(head, i int) string { return fmt.Sprintf("%s%d", a.s.reg, 4*head+i) }
	query := func(head int) string { return fmt.Sprintf("%s%d", a.s.reg, 4*heads+head) }
	key := fmt.Sprintf("%s%d", a.s.reg, 5*heads)
	a.label(name("group"))
	for i := 1; i < len(rows); i++ {
		a.p("MOVQ R8, %s", rows[i])
	}
	for i := 1; i < len(rows); i++ {
		a.p("CMPQ CX, $%d", i)
		a.p("JLE %s", name("start"))
		a.p("LEAQ (%s)(DX*1), %s", rows[i-1], rows[i])
	}
	a.label(name("start"))
	for head := range heads {
		for i := range rows {
			a.clear(acc(head, i))
		}
	}
	a.p("XORQ AX, AX")
	a.label(name("column"))
	at := s.offset(a, "AX", "R14")
	a.each(func(h int) {
		a.p("LEAQ (SI)(AX*1), R13")
		for head := range heads {
			if head > 0 {
				a.p("ADDQ R11, R13")
			}
			a.p("VMOVUPS %s, %s", a.at("R13", "", h), query(head))
		}
		for i, row := range rows {
			key := s.shared(a, heads, s.at(a, row, at, h), key)
			for head := range heads {
				a.p("VFMADD231PS %s, %s, %s", key, query(head), acc(head, i))
			}
		}
	})
	a.p("ADDQ $%d, AX", 4*step)
	a.p("CMPQ AX, R11")
	a.p("JLT %s", name("column"))
	a.p("MOVQ DI, R13")
	for head := range heads {
		// [a0+a2 b0+b2 a1+a3 b1+b3] in every 128 bits, then [a b c d].
		first, second := fmt.Sprintf("%s%d", a.s.reg, 4*heads), fmt.Sprintf("%s%d", a.s.reg, 4*heads+1)
		for i := 0; i < 4; i += 2 {
			a.p("VUNPCKLPS %s, %s, %s", acc(head, i+1), acc(head, i), first)
			a.p("VUNPCKHPS %s, %s, %s", acc(head, i+1), acc(head, i), second)
			a.p("VADDPS %s, %s, %s", second, first, acc(head, i))
		}
		a.p("VUNPCKLPD %s, %s, %s", acc(head, 2), acc(head, 0), first)
		a.p("VUNPCKHPD %s, %s, %s", acc(head, 2), acc(head, 0), second)
		a.p("VADDPS %s, %s, %s", second, first, acc(head, 0))
		x := 4 * head
		a.foldToFour("VADDPS", strconv.Itoa(x), strconv.Itoa(x+1))
		a.p("VMULPS X%d, X%d, X%d", a.s.registers-1, x, x)
		a.p("VMOVUPS X%d, (R13)", x)
		if head < heads-1 {
			a.p("ADDQ BX, R13")
		}
	}
	a.p("ADDQ $16, DI")
	a.p("LEAQ (R8)(DX*4), R8")
	a.p("SUBQ $4, CX")
	a.p("JGT %s", name("group"))
	a.p("JMP done")
}

// combine takes up to four steps of columns of all heads at a time through all
// rows, page by page, so that a row is loaded once for several heads. Where these
// are too few sums to hide latency, rows j, j+1, … go to sums of their own in turn.
// The sums go on from page to page, so that pages of a multiple of four rows change
// no bit.
func (s stored) combine(a *assembler) {
	a.p("SHLQ $%d, DX", s.shift)
	a.p("SHLQ $2, R11")
	a.p("SHLQ $2, R15")
	a.p("LEAQ (R15)(R15*2), R14") // Where the fourth head's weights are.
	a.p("XORQ R12, R12")
	a.label("column")
	a.p("MOVQ pages+24(FP), R13")
	a.p("MOVQ rows+32(FP), CX") // Those left.
	a.p("MOVQ SI, R10")         // The row's weights.
	a.p("MOVQ R11, AX")
	a.p("SUBQ R12, AX")
	a.p("MOVQ heads+72(FP), R9")
	a.perHeads(a.s.CombineHeads(), "R9", func(heads int) {
		most := a.combineSteps(heads)
		for steps := most; steps > 1; steps /= 2 {
			a.p("CMPQ AX, $%d", 4*step*steps)
			a.p("JGE sums%dx%d", heads, steps)
		}
		a.p("JMP sums%dx1", heads)
		for steps := most; steps > 0; steps /= 2 {
			s.combineSums(a, heads, steps)
		}
	})
	a.label("next")
	a.p("CMPQ R12, R11")
	a.p("JLT column")
}

// combineSteps returns how many steps of columns of so many heads, and of a row,
// the registers hold.
func (a *assembler) combineSteps(heads int) int {
	steps := 4
	for steps > 1 && a.halves()*steps*(heads+1) >= a.s.registers {
		steps /= 2
	}
	return steps
}

// combineSums is the part of combine for a number of heads and steps of columns.
func (s stored) combineSums(a *assembler, heads, steps int) {
	parts := steps * a.halves() // Registers of a row.
	sets := max(1, 4/(heads*steps))
	sum := func(set, head, part int) string {
		return fmt.Sprintf("%s%d", a.s.reg, (set*heads+head)*parts+part)
	}
	row := func(part int) string { return fmt.Sprintf("%s%d", a.s.reg, sets*heads*parts+part) }
	weight := fmt.Sprintf("%s%d", a.s.reg, a.s.registers-1)
	weights := []string{"(R10)", "(R10)(R15*1)", "(R10)(R15*2)", "(R10)(R14*1)"}
	name := func(label string) string { return fmt.Sprintf("%s%dx%d", label, heads, steps) }
	add := func(set int) {
		rows := make([]string, parts)
		for part := range parts {
			rows[part] = s.shared(a, heads, s.at(a, "R9", "", part), row(part))
		}
		for head := range heads {
			a.p("VBROADCASTSS %d%s, %s", 4*set, weights[head], weight)
			for part := range parts {
				a.p("VFMADD231PS %s, %s, %s", rows[part], weight, sum(set, head, part))
			}
		}
		a.p("ADDQ DX, R9")
	}

	a.label(name("sums"))
	for i := range sets * heads * parts {
		a.clear(fmt.Sprintf("%s%d", a.s.reg, i))
	}
	a.label(name("page"))
	a.p("MOVLQSX (R13), R9") // The row.
	a.p("ADDQ $4, R13")
	a.p("IMULQ BX, R9")
	a.p("IMULQ DX, R9")
	a.p("ADDQ R8, R9")
	a.p("ADDQ %s, R9", s.offset(a, "R12", "AX"))
	a.p("MOVQ BX, AX") // Rows of this page.
	a.p("CMPQ CX, AX")
	a.p("JGE %s", name("whole"))
	a.p("MOVQ CX, AX")
	a.label(name("whole"))
	a.p("SUBQ AX, CX")
	a.p("SUBQ $%d, AX", sets)
	a.p("JLT %s", name("rest"))
	a.label(name("rows"))
	for set := range sets {
		add(set)
	}
	a.p("ADDQ $%d, R10", 4*sets)
	a.p("SUBQ $%d, AX", sets)
	a.p("JGE %s", name("rows"))
	a.label(name("rest"))
	if sets > 1 {
		a.p("ADDQ $%d, AX", sets)
		a.p("JEQ %s", name("turn"))
		a.label(name("row"))
		add(0)
		a.p("ADDQ $4, R10")
		a.p("DECQ AX")
		a.p("JNE %s", name("row"))
		a.label(name("turn"))
	}
	a.p("TESTQ CX, CX")
	a.p("JNE %s", name("page"))
	for i := sets / 2; i > 0; i /= 2 {
		for j := range i {
			for n := range heads * parts {
				a.p("VADDPS %s, %s, %s", sum(j+i, 0, n), sum(j, 0, n), sum(j, 0, n))
			}
		}
	}
	a.p("LEAQ (DI)(R12*1), R9")
	for head := range heads {
		for part := range parts {
			a.p("VMOVUPS %s, %s", sum(0, head, part), a.at("R9", "", part))
		}
		if head < heads-1 {
			a.p("ADDQ R11, R9")
		}
	}
	a.p("ADDQ $%d, R12", 4*step*steps)
	a.p("JMP next")
}
