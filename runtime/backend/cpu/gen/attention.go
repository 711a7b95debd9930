package main

import "fmt"

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

// combine takes 16 columns at a time through all rows, page by page, with four
// registers of sums (rows j, j+1, … in turn) to hide latency. The sums go on from
// page to page, so that pages of a multiple of four rows change no bit.
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
	a.p("MOVQ pages+24(FP), R13")
	a.p("MOVQ rows+32(FP), CX") // Those left.
	a.p("MOVQ SI, R10")         // The row's weight.
	a.label("page")
	a.p("MOVLQSX (R13), R9") // The row.
	a.p("ADDQ $4, R13")
	a.p("IMULQ BX, R9")
	a.p("IMULQ DX, R9")
	a.p("ADDQ R8, R9")
	a.p("ADDQ R12, R9")
	a.p("MOVQ BX, AX") // Rows of this page.
	a.p("CMPQ CX, AX")
	a.p("JGE whole")
	a.p("MOVQ CX, AX")
	a.label("whole")
	a.p("SUBQ AX, CX")
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
	a.p("JEQ next")
	a.label("row")
	a.p("VBROADCASTSS (R10), %s", weight(0))
	a.each(func(h int) { a.p("VFMADD231PS %s, %s, %s", a.at("R9", "", h), weight(0), sum(0, h)) })
	a.p("ADDQ DX, R9")
	a.p("ADDQ $4, R10")
	a.p("DECQ AX")
	a.p("JNE row")
	a.label("next")
	a.p("TESTQ CX, CX")
	a.p("JNE page")
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
