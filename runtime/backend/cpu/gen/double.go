package main

import "fmt"

// Tiles of products in float64, which package svd computes with: they add
// alpha·a·b to 8 rows of 16 columns of c, whose rows are stride elements apart. Step
// p of a is its column of 8 elements, and of b its row of 16.
const doubleRows, doubleColumns = 8, 16

// doubleTile writes the kernel. Where the registers do not hold the whole tile, it
// computes parts of it, one after the other, so that every element is one chain all
// the same.
func (s isa) doubleTile(f *files) {
	name := "tile" + s.name
	lanes := s.lanes / 2
	rows, vectors := doubleRows, doubleColumns/lanes
	for rows*vectors+vectors+2 > s.registers {
		if rows >= vectors*lanes {
			rows /= 2
		} else {
			vectors /= 2
		}
	}
	signature := fmt.Sprintf("func %s(c *float64, stride int, alpha float64, a, b *float64, depth int)", name)
	fmt.Fprintf(&f.decl, "\n// %s is plainTile in parts of %d by %d.\n//\n//go:noescape\n%s\n", name, rows, vectors*lanes, signature)
	fmt.Fprintf(&f.asm, "\n// %s\nTEXT ·%s(SB), NOSPLIT, $0-48\n", signature, name)
	a := &assembler{w: &f.asm, s: s}
	a.p("MOVQ stride+8(FP), R8")
	a.p("SHLQ $3, R8")
	reg := func(i int) string { return fmt.Sprintf("%s%d", s.reg, i) }
	sum := func(row, vector int) string { return reg(row*vectors + vector) }
	operand := func(vector int) string { return reg(rows*vectors + vector) }
	factors := rows*vectors + vectors // The registers from here on.
	for top := 0; top < doubleRows; top += rows {
		for left := 0; left < doubleColumns; left += vectors * lanes {
			part := fmt.Sprintf("%dx%d", top, left)
			at := func(pointer string, vector int) string {
				return fmt.Sprintf("%d(%s)", 8*(left+vector*lanes), pointer)
			}
			a.p("MOVQ c+0(FP), DI")
			for range top {
				a.p("ADDQ R8, DI")
			}
			a.p("MOVQ a+24(FP), SI")
			a.p("MOVQ b+32(FP), DX")
			a.p("MOVQ depth+40(FP), CX")
			for i := range rows * vectors {
				a.clear(reg(i))
			}
			a.p("TESTQ CX, CX")
			a.p("JEQ add%s", part)
			a.label("loop" + part)
			for v := range vectors {
				a.p("VMOVUPD %s, %s", at("DX", v), operand(v))
			}
			for r := range rows {
				factor := reg(factors + r%(s.registers-factors))
				a.p("VBROADCASTSD %d(SI), %s", 8*(top+r), factor)
				for v := range vectors {
					a.p("VFMADD231PD %s, %s, %s", operand(v), factor, sum(r, v))
				}
			}
			a.p("ADDQ $%d, SI", 8*doubleRows)
			a.p("ADDQ $%d, DX", 8*doubleColumns)
			a.p("DECQ CX")
			a.p("JNE loop%s", part)
			a.label("add" + part)
			a.p("VBROADCASTSD alpha+16(FP), %s", reg(factors))
			for r := range rows {
				for v := range vectors {
					a.p("VMOVUPD %s, %s", at("DI", v), operand(v))
					a.p("VFMADD231PD %s, %s, %s", sum(r, v), reg(factors), operand(v))
					a.p("VMOVUPD %s, %s", operand(v), at("DI", v))
				}
				if r < rows-1 {
					a.p("ADDQ R8, DI")
				}
			}
		}
	}
	a.p("VZEROUPPER")
	a.p("RET")
}
