package main

import "fmt"

// The products on tiles. A kernel multiplies groups of rows, 16 or 32 each, by a panel
// of 32 outputs: tiles 0 to 3 are c, in the order of rows and then of outputs, 4 and 5
// are of a, 6 and 7 of the panel, so that each product of two tiles costs one load where
// there are 32 rows. Tiles are configured and released within a call: Go's scheduler
// never takes the thread from assembly, but between two calls it may. What is no
// instruction on tiles is AVX2 at most.
//
// A panel's line of 32 words is two rows of tiles that lie behind each other, for both
// types of weights: what the processor wants of a second factor, pairs of bfloat16 or
// groups of four bytes of one output in a word, is how their panels are.

const (
	tileRows  = 16 // Of every tile, at most.
	lineBytes = 4 * 32
	// bf16Fetches and int8Fetches are the cache lines of a panel in a step.
	bf16Fetches = lineBytes / 64
	int8Fetches = (1 + 2*int8Lines) * lineBytes / 64
)

// amxKernel writes a kernel.
type amxKernel struct {
	assembler
	tall int // Tiles that lie below each other: 1 or 2.
}

// tileKernels writes the kernels and their declarations.
func tileKernels(f *files) {
	fmt.Fprintf(&f.decl, "\nconst (\n\tfetchesAMXBF16 = %d\n\tfetchesAMXInt8 = %d\n)\n", bf16Fetches, int8Fetches)
	for tall := 1; tall <= 2; tall++ {
		k := &amxKernel{assembler: assembler{w: &f.asm, s: avx2}, tall: tall}
		name := fmt.Sprintf("multiplyAMXBF16_%d", tall*tileRows)
		fmt.Fprintf(&f.decl, "\n//go:noescape\nfunc %s(t *tileArgs, config *tileConfig, groups, depth int)\n", name)
		k.bf16(name)
		name = fmt.Sprintf("multiplyAMXInt8_%d", tall*tileRows)
		fmt.Fprintf(&f.decl, "\n//go:noescape\nfunc %s(t *tileArgs, config *tileConfig, groups int, sums *int32)\n", name)
		k.int8(name)
	}
}

// Registers of both kernels. R8, DI and the distances R12 and SI are of the rows of a and
// c of a group; AX points behind 16 of those of R10, which walks over the columns; BX
// behind 16 of those of c.
const (
	tilePanel, tileLine = "R9", "R15" // Where the panel is read, and lineBytes.
	firstA, secondA     = "R10", "AX"
)

// of is the address of tile row i, output tile j of c.
func (k *amxKernel) of(i, j int) tileMemory {
	return tileMemory{base: []string{"DI", "BX"}[i], index: "SI", displacement: 64 * j}
}

// each visits the tiles of c.
func (k *amxKernel) each(f func(tile, i, j int)) {
	for i := range k.tall {
		for j := range 2 {
			f(2*i+j, i, j)
		}
	}
}

// begin loads the arguments that both kernels have.
func (k *amxKernel) begin() {
	k.p("MOVQ t+0(FP), AX")
	k.p("MOVQ config+8(FP), BX")
	k.p("%s", configure(tileMemory{base: "BX"}))
	k.p("MOVQ tileArgs_c(AX), DI")
	k.p("MOVQ tileArgs_ldc(AX), SI")
	k.p("SHLQ $2, SI")
	k.p("MOVQ tileArgs_a(AX), R8")
	k.p("MOVQ tileArgs_lda(AX), R12")
	k.p("SHLQ $2, R12")
	k.p("MOVQ tileArgs_ahead(AX), %s", fetchBase)
	k.p("MOVQ tileArgs_stride(AX), %s", fetchStride)
	k.p("MOVQ $%d, %s", lineBytes, tileLine)
}

// group begins a group of rows: AX is the arguments.
func (k *amxKernel) group() {
	k.p("MOVQ tileArgs_panel(AX), %s", tilePanel)
	k.p("MOVQ R8, %s", firstA)
}

// behind sets a register to what is 16 rows behind another, of this distance.
func (k *amxKernel) behind(base, distance, to string) {
	if k.tall > 1 {
		k.p("MOVQ %s, %s", distance, to)
		k.p("SHLQ $4, %s", to)
		k.p("ADDQ %s, %s", base, to)
	}
}

// next moves on to the next group of rows. Only the first one fetches ahead.
func (k *amxKernel) next() {
	k.p("XORL %s, %s", fetchStride, fetchStride)
	for _, r := range [][2]string{{"SI", "DI"}, {"R12", "R8"}} {
		k.p("MOVQ %s, CX", r[0])
		k.p("SHLQ $%d, CX", 3+k.tall) // 16 or 32 rows.
		k.p("ADDQ CX, %s", r[1])
	}
}

// fetch brings some lines of what is wanted later to the second cache.
func (k *amxKernel) fetch(lines int) {
	for range lines {
		k.p("PREFETCHT1 (%s)", fetchBase)
		k.p("ADDQ %s, %s", fetchStride, fetchBase)
	}
}

// multiply multiplies the tiles at a's and the panel's pointers, with these displacements,
// and does something after each product.
func (k *amxKernel) multiply(by tileOp, ofA, ofPanel int, after func()) {
	b := func(j int) tileMemory {
		return tileMemory{base: tilePanel, index: tileLine, displacement: ofPanel + 64*j}
	}
	k.p("%s", loaded(4, tileMemory{base: firstA, index: "R12", displacement: ofA}))
	k.p("%s", loaded(6, b(0)))
	k.p("%s", by.multiplied(0, 4, 6))
	after()
	k.p("%s", loaded(7, b(1)))
	k.p("%s", by.multiplied(1, 4, 7))
	after()
	if k.tall > 1 {
		k.p("%s", loaded(5, tileMemory{base: secondA, index: "R12", displacement: ofA}))
		k.p("%s", by.multiplied(2, 5, 6))
		after()
		k.p("%s", by.multiplied(3, 5, 7))
		after()
	}
}

// bf16 writes the kernel for bfloat16: depth products of tiles for each of c's, which
// stay where they are meanwhile.
func (k *amxKernel) bf16(name string) {
	fmt.Fprintf(k.w, "\n// func %s(t *tileArgs, config *tileConfig, groups, depth int)\nTEXT ·%s(SB), NOSPLIT, $0-32\n", name, name)
	k.begin()
	k.p("MOVQ groups+16(FP), R11")
	k.label("group")
	k.p("MOVQ t+0(FP), AX")
	k.group()
	k.behind("DI", "SI", "BX")
	k.p("CMPB tileArgs_add(AX), $0")
	k.p("JEQ zero")
	k.each(func(tile, i, j int) { k.p("%s", loaded(tile, k.of(i, j))) })
	k.p("JMP start")
	k.label("zero")
	k.each(func(tile, _, _ int) { k.p("%s", zeroed(tile)) })
	k.label("start")
	k.behind("R8", "R12", secondA)
	k.p("MOVQ depth+24(FP), CX")
	k.label("loop")
	k.multiply(dotBF16, 0, 0, func() { k.fetch(tileRows * bf16Fetches / (2 * k.tall)) })
	k.p("ADDQ $64, %s", firstA)
	if k.tall > 1 {
		k.p("ADDQ $64, %s", secondA)
	}
	k.p("ADDQ $%d, %s", tileRows*lineBytes, tilePanel)
	k.p("DECQ CX")
	k.p("JNE loop")
	k.each(func(tile, i, j int) { k.p("%s", written(k.of(i, j), tile)) })
	k.next()
	k.p("DECQ R11")
	k.p("JNE group")
	k.p("%s", release())
	k.p("RET")
}

// int8RowBytes is what a block of columns takes of a row of a.
const int8RowBytes = 4 * (int8Lines + 2)

// sumsOf is where the integers of a block of columns are, from the argument on.
func (k *amxKernel) sumsOf(block int) int { return k.tall * tileRows * lineBytes * block }

// int8Tiles writes what tiles do for a block of columns: its integers go to memory.
func (k *amxKernel) int8Tiles(block int) {
	k.p("MOVQ sums+24(FP), BX")
	k.each(func(tile, _, _ int) { k.p("%s", zeroed(tile)) })
	k.multiply(dotSU, block*int8RowBytes, (1+block*int8Lines)*lineBytes, func() { k.fetch(int8Fetches / 2 / (2 * k.tall)) })
	k.each(func(tile, i, j int) {
		k.p("%s", written(tileMemory{base: "BX", index: tileLine, displacement: k.sumsOf(block) + i*tileRows*lineBytes + 64*j}, tile))
	})
}

// int8Sums writes what follows: the integers times both scales are added to c as addSums
// does it, by the same instructions, so that a product is the same, bit for bit.
func (k *amxKernel) int8Sums(block int) {
	for j := range 4 {
		k.p("VMOVDQU %d(%s), Y%d", 32*j, tilePanel, 8+j)
		if block == 1 {
			k.p("VPSRLD $16, Y%d, Y%d", 8+j, 8+j)
		}
		k.p("VPSLLD $16, Y%d, Y%d", 8+j, 8+j)
	}
	k.p("MOVQ sums+24(FP), BX")
	k.p("MOVQ DI, R11")
	k.p("MOVQ %s, CX", firstA)
	k.p("MOVQ rows-8(SP), R8")
	row := fmt.Sprintf("row%d", block)
	k.label(row)
	k.p("VBROADCASTSS %d(CX), Y4", (block+1)*int8RowBytes-8)
	k.p("VPBROADCASTD %d(CX), Y5", (block+1)*int8RowBytes-4)
	for j := range 4 {
		k.p("VPADDD %d(BX), Y5, Y%d", k.sumsOf(block)+32*j, j)
		k.p("VCVTDQ2PS Y%d, Y%d", j, j)
		k.p("VMULPS Y%d, Y%d, Y%d", 8+j, j, j)
		k.p("VMOVUPS %d(R11), Y6", 32*j)
		k.p("VFMADD231PS Y4, Y%d, Y6", j)
		k.p("VMOVUPS Y6, %d(R11)", 32*j)
	}
	k.p("ADDQ $%d, BX", lineBytes)
	k.p("ADDQ SI, R11")
	k.p("ADDQ R12, CX")
	k.p("DECQ R8")
	k.p("JNE %s", row)
}

// int8 writes the kernel for int8, which adds to c: each block of 32 columns is a product
// of tiles of its own, because it has scales of its own.
func (k *amxKernel) int8(name string) {
	fmt.Fprintf(k.w, "\n// func %s(t *tileArgs, config *tileConfig, groups int, sums *int32)\nTEXT ·%s(SB), NOSPLIT, $32-32\n", name, name)
	k.begin()
	k.p("MOVQ tileArgs_rows(AX), CX")
	k.p("MOVQ CX, rows-8(SP)")
	k.p("MOVQ groups+16(FP), CX")
	k.p("MOVQ CX, left-16(SP)")
	k.label("group")
	k.p("MOVQ R8, a-24(SP)")
	k.p("MOVQ t+0(FP), AX")
	k.group()
	k.p("MOVQ tileArgs_steps(AX), CX")
	k.p("MOVQ CX, steps-32(SP)")
	k.behind("R8", "R12", secondA)
	k.label("step")
	for block := range 2 { // The tiles of the second block go on while the first is added up.
		k.int8Tiles(block)
	}
	for block := range 2 {
		k.int8Sums(block)
	}
	k.p("ADDQ $%d, %s", 2*int8RowBytes, firstA)
	if k.tall > 1 {
		k.p("ADDQ $%d, %s", 2*int8RowBytes, secondA)
	}
	k.p("ADDQ $%d, %s", (1+2*int8Lines)*lineBytes, tilePanel)
	k.p("DECQ steps-32(SP)")
	k.p("JNE step")
	k.p("MOVQ a-24(SP), R8")
	k.next()
	k.p("DECQ left-16(SP)")
	k.p("JNE group")
	k.p("%s", release())
	k.p("VZEROUPPER")
	k.p("RET")
}
