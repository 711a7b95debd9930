package main

import "fmt"

// An int8 panel holds pairs of blocks of 32 columns of W: a line of bfloat16 scales,
// those of the first block in the low halves, and for each block eight lines of
// words with four columns each, the first in the lowest byte. The bytes have 128
// added. So that this adds nothing to a product, a block's sum starts from −128
// times the sum of the block of the row; that number and the row's scale, float32,
// stand behind the row's block.

// int8Lines is the number of lines of a block.
const int8Lines = 8

// vnniProduct multiplies bytes by the instruction made for it.
func vnniProduct() product {
	return int8Blocks(product{isa: avx512, name: "VNNI", mr: 6}, int8Lines, func(k *kernel, i, block int) {
		sums := k.accumulators()
		line := 2 * sums
		for l := range int8Lines {
			used := line + k.vectors
			for j := range k.vectors {
				k.p("VMOVDQU32 %s, %s", k.panel(j, i, 1+block*int8Lines+l), k.r(line+j))
				k.fetch()
			}
			for r := range k.rows {
				broadcast := k.r(k.spare(used, r))
				k.p("VPBROADCASTD %s, %s", k.row(r, i, block*k.rowWords/2+l), broadcast)
				for j := range k.vectors {
					k.p("VPDPBUSD %s, %s, %s", broadcast, k.r(line+j), k.r(sums+k.acc(r, j)))
				}
			}
		}
	})
}

// int8Blocks completes a product: its steps are two blocks, of which add adds the
// products to the sums, and a row has this many words of integers a block.
func int8Blocks(p product, words int, add func(k *kernel, i, block int)) product {
	p.unroll, p.rowWords, p.panelWords = 1, 2*(words+2), 1+2*int8Lines
	p.step = func(k *kernel, i int) {
		for block := range 2 {
			scale := block*k.rowWords/2 + words
			k.startSums(i, scale+1)
			add(k, i, block)
			k.addSums(i, block, scale)
		}
	}
	return p
}

// int8Product splits the words of panels into those of the even and those of the
// odd columns, 16 bits each, and multiplies both by rows that hold such words:
// eight of even and eight of odd columns a block.
func int8Product(s isa) product {
	p := product{isa: s, name: "Int8" + s.name, mr: 6, setup: func(k *kernel) { k.mask(0x00ff00ff) }}
	if s.registers == 16 {
		p.mr = 2
	}
	return int8Blocks(p, 2*int8Lines, func(k *kernel, i, block int) {
		sums, mask := k.accumulators(), k.r(k.registers-1)
		weights := 2 * sums
		temporary, broadcast := weights+k.vectors, weights+k.vectors+1
		for l := range int8Lines {
			for half := range 2 {
				for j := range k.vectors {
					address, w := k.panel(j, i, 1+block*int8Lines+l), k.r(weights+j)
					if half == 0 {
						k.p("%s %s, %s, %s", k.and, address, mask, w)
						if j == 0 { // For few rows, more would take longer than it saves.
							k.fetch()
						}
					} else {
						k.p("%s %s, %s", k.move, address, w)
						k.p("VPSRLW $8, %s, %s", w, w)
					}
				}
				for r := range k.rows {
					k.p("VPBROADCASTD %s, %s", k.row(r, i, block*k.rowWords/2+half*int8Lines+l), k.r(broadcast))
					for j := range k.vectors {
						sum := k.r(sums + k.acc(r, j))
						k.p("VPMADDWD %s, %s, %s", k.r(broadcast), k.r(weights+j), k.r(temporary))
						k.p("VPADDD %s, %s, %s", k.r(temporary), sum, sum)
					}
				}
			}
		}
	})
}

// startSums sets the integers of a block to their offset, a word of the row.
func (k *kernel) startSums(i, offset int) {
	sums := k.accumulators()
	for r := range k.rows {
		first := k.r(sums + k.acc(r, 0))
		k.p("VPBROADCASTD %s, %s", k.row(r, i, offset), first)
		for j := 1; j < k.vectors; j++ {
			k.p("VMOVAPS %s, %s", first, k.r(sums+k.acc(r, j)))
		}
	}
}

// addSums adds the integers of a block, times both scales, to c. They are below
// 2²⁴, so float32 holds them exactly.
func (k *kernel) addSums(i, block, scale int) {
	sums := k.accumulators()
	broadcast, scales := k.r(2*sums), 2*sums+1
	for j := range k.vectors {
		of := k.r(scales + j)
		k.p("%s %s, %s", k.move, k.panel(j, i, 0), of)
		if block == 1 {
			k.p("VPSRLD $16, %s, %s", of, of)
		}
		k.p("VPSLLD $16, %s, %s", of, of)
	}
	for r := range k.rows {
		k.p("VBROADCASTSS %s, %s", k.row(r, i, scale), broadcast)
		for j := range k.vectors {
			sum := k.r(sums + k.acc(r, j))
			k.p("VCVTDQ2PS %s, %s", sum, sum)
			k.p("VMULPS %s, %s, %s", k.r(scales+j), sum, sum)
			k.p("VFMADD231PS %s, %s, %s", broadcast, sum, k.r(k.acc(r, j)))
		}
	}
}

// widenInt8 makes a bfloat16 panel of an int8 one of 32 outputs.
var widenInt8 = vectorFunc{
	name: "widenInt8", doc: "makes lines of bfloat16 pairs, rounded to nearest, ties to even, of the steps of an int8 panel of 32 outputs.",
	pointers: []string{"y", "x"}, ints: []string{"steps"},
	body: func(a *assembler) {
		const vectors = 4 // Of a line.
		a.label("step")
		for block := range 2 {
			for j := range vectors { // The scales, and −128 times them.
				scale, offset := 8+j, 12+j
				a.p("VMOVDQU %d(SI), Y%d", 32*j, scale)
				if block == 1 {
					a.p("VPSRLD $16, Y%d, Y%d", scale, scale)
				}
				a.p("VPSLLD $16, Y%d, Y%d", scale, scale)
				a.p("VMULPS %s, Y%d, Y%d", constant("minusBias"), scale, offset)
			}
			for l := range int8Lines {
				for j := range vectors {
					a.p("VMOVDQU %d(SI), Y0", 32*(vectors*(1+block*int8Lines+l)+j))
					for pair := range 2 {
						a.widenByte(2*pair, 1, 3, j)
						a.widenByte(2*pair+1, 2, 3, j)
						a.p("VPSRLD $16, Y1, Y1")
						a.p("VANDPS %s, Y2, Y2", constant("highHalf"))
						a.p("VORPS Y1, Y2, Y2")
						a.p("VMOVUPS Y2, %d(DI)", 32*(vectors*(2*(block*int8Lines+l)+pair)+j))
					}
				}
			}
		}
		a.p("ADDQ $%d, SI", 32*vectors*(1+2*int8Lines))
		a.p("ADDQ $%d, DI", 32*vectors*4*int8Lines)
		a.p("DECQ CX")
		a.p("JNE step")
	},
}

// widenByte sets the high halves of register to to a byte of the words in Y0, times the
// scales of vector j, as bfloat16. The product is exact before it is rounded: fifteen
// bits have room.
func (a *assembler) widenByte(b, to, temporary, j int) {
	source := "Y0"
	if b > 0 {
		a.p("VPSRLD $%d, Y0, Y%d", 8*b, to)
		source = fmt.Sprintf("Y%d", to)
	}
	if b < 3 {
		a.p("VPAND %s, %s, Y%d", constant("lowByte"), source, to)
	}
	a.p("VCVTDQ2PS Y%d, Y%d", to, to)
	a.p("VFMADD213PS Y%d, Y%d, Y%d", 12+j, 8+j, to)
	a.p("VPSRLD $16, Y%d, Y%d", to, temporary)
	a.p("VPAND %s, Y%d, Y%d", constant("unit"), temporary, temporary)
	a.p("VPADDD %s, Y%d, Y%d", constant("belowHalf"), to, to)
	a.p("VPADDD Y%d, Y%d, Y%d", temporary, to, to)
}

// quantize makes rows for vnniProduct, or for int8Product with split.
func quantize(name string, split bool) vectorFunc {
	words := int8Lines + 2
	if split {
		words += int8Lines
	}
	return vectorFunc{
		name: name, doc: "quantizes blocks of 32 elements of x to int8, as plainQuantize does.",
		pointers: []string{"y", "x"}, ints: []string{"blocks"},
		body: func(a *assembler) {
			tail := 4 * (words - 2) // Offset of the scale.
			a.p("VMOVSS %s, X15", constant("limit"))
			a.p("VPMOVZXBD order<>(SB), Y14")
			a.p("TESTQ CX, CX")
			a.p("JEQ done")
			a.label("block")
			// The largest magnitude, by comparing bits: infinities and NaN win.
			for i := range 4 {
				a.p("VMOVUPS %d(SI), Y%d", 32*i, i)
				a.p("VPAND %s, Y%d, Y%d", constant("magnitude"), i, 4+i)
			}
			a.p("VPMAXSD Y5, Y4, Y4")
			a.p("VPMAXSD Y7, Y6, Y6")
			a.p("VPMAXSD Y6, Y4, Y4")
			a.foldRegister("VPMAXSD", "4", "5")
			a.p("VMOVD X4, AX")
			a.p("CMPL AX, $0x7f800000") // Infinite.
			a.p("JGE invalid")
			a.p("CMPL AX, $0x04000000") // 2⁻¹¹⁹.
			a.p("JLT zero")
			a.p("VDIVSS X15, X4, X5")
			a.p("VMOVSS X5, %d(DI)", tail)
			a.p("VDIVSS X4, X15, X5")
			a.p("VBROADCASTSS X5, Y5")
			for i := range 4 {
				a.p("VMULPS Y5, Y%d, Y%d", i, i)
				a.p("VCVTPS2DQ Y%d, Y%d", i, i)
			}
			a.p("VPADDD Y1, Y0, Y4")
			a.p("VPADDD Y3, Y2, Y5")
			a.p("VPADDD Y5, Y4, Y4")
			a.foldRegister("VPADDD", "4", "5")
			a.p("VMOVD X4, AX")
			a.p("SHLL $7, AX")
			a.p("NEGL AX")
			a.p("VPACKSSDW Y1, Y0, Y0")
			a.p("VPACKSSDW Y3, Y2, Y2")
			a.p("VPACKSSWB Y2, Y0, Y0")
			a.p("VPERMD Y0, Y14, Y0")
			a.p("JMP write")
			a.label("invalid")
			a.p("MOVL $0x7fc00000, %d(DI)", tail) // NaN.
			a.p("JMP nothing")
			a.label("zero")
			a.p("MOVL $0, %d(DI)", tail)
			a.label("nothing")
			a.p("XORL AX, AX")
			a.p("VPXOR Y0, Y0, Y0")
			a.label("write")
			a.p("MOVL AX, %d(DI)", tail+4)
			if split {
				a.p("VPSLLW $8, Y0, Y1")
				a.p("VPSRAW $8, Y1, Y1")
				a.p("VPSRAW $8, Y0, Y2")
				a.p("VMOVDQU Y1, (DI)")
				a.p("VMOVDQU Y2, 32(DI)")
			} else {
				a.p("VMOVDQU Y0, (DI)")
			}
			a.p("ADDQ $128, SI")
			a.p("ADDQ $%d, DI", 4*words)
			a.p("DECQ CX")
			a.p("JNE block")
			a.label("done")
		},
	}
}
