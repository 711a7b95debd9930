package main

import "fmt"

// A bfloat16 panel holds pairs: the word of a column in a line is the weights of
// two columns of W that follow each other, the first in the low half.

// bf16Product multiplies pairs by the instruction made for it, on rows that are
// rounded to pairs as well.
func bf16Product() product {
	return product{
		isa: avx512, name: "BF16", mr: 12, unroll: 4, rowWords: 1, panelWords: 1,
		step: func(k *kernel, i int) {
			line := k.accumulators()
			used := line + k.vectors
			for j := range k.vectors {
				k.p("VMOVDQU32 %s, %s", k.panel(j, i, 0), k.r(line+j))
				k.fetch()
			}
			for r := range k.rows {
				broadcast := k.spare(used, r)
				k.p("VPBROADCASTD %s, %s", k.row(r, i, 0), k.r(broadcast))
				for j := range k.vectors {
					k.p("%s", instruction(dotPairs, k.acc(r, j), line+j, broadcast))
				}
			}
		},
	}
}

// widenedProduct multiplies by weights that it widens to float32, one half of
// the pairs after the other, and rows of float32 that are rounded already.
func widenedProduct(s isa) product {
	return product{
		isa: s, name: "Widened" + s.name, mr: s.mr, unroll: 1, rowWords: 2, panelWords: 1,
		setup: func(k *kernel) { k.mask(0xffff0000) },
		step: func(k *kernel, i int) {
			mask, line := k.registers-1, k.accumulators()
			for half := range 2 {
				if k.rows == 1 { // One weight vector is used once: keep few registers busy.
					k.p("VBROADCASTSS %s, %s", k.row(0, i, half), k.r(line))
				}
				for j := range k.vectors {
					w := line + 1 + j%2
					if k.rows > 1 {
						w = line + j
					}
					k.widen(k.panel(j, i, 0), half, mask, w)
					if half == 0 {
						k.fetch()
					}
					if k.rows == 1 {
						k.p("VFMADD231PS %s, %s, %s", k.r(w), k.r(line), k.r(k.acc(0, j)))
					}
				}
				for r := range k.rows {
					if k.rows == 1 {
						break
					}
					used := line + k.vectors
					broadcast := k.r(used + r%(mask-used))
					k.p("VBROADCASTSS %s, %s", k.row(r, i, half), broadcast)
					for j := range k.vectors {
						k.p("VFMADD231PS %s, %s, %s", k.r(line+j), broadcast, k.r(k.acc(r, j)))
					}
				}
			}
		},
	}
}

// widen sets register w to one half of the pairs at an address, as float32.
func (k *kernel) widen(address string, half, mask, w int) {
	if half == 1 {
		k.p("%s %s, %s, %s", k.and, address, k.r(mask), k.r(w))
		return
	}
	k.p("%s %s, %s", k.move, address, k.r(w))
	k.p("VPSLLD $16, %s, %s", k.r(w), k.r(w))
}

// opcode is an instruction of AVX-512 BF16 on 512 bits, which Go's assembler does
// not know: EVEX.512.F3.0F38.W0 and one byte.
type opcode struct {
	name string
	code byte
	// operands is 3, or 2 for an instruction without a first source.
	operands int
}

var (
	// dotPairs adds to each float32 of dst the two products of a pair. It takes
	// subnormal numbers for zero, also as its result.
	dotPairs = opcode{"VDPBF16PS", 0x52, 3}
	// narrow rounds float32 to bfloat16, 32 bytes for a register.
	narrow = opcode{"VCVTNEPS2BF16", 0x72, 2}
)

// encode returns the bytes of an instruction on registers 0 to 31: dst, the first
// source (ignored where there is none) and the second.
func encode(o opcode, dst, first, second int) [6]byte {
	if o.operands == 2 {
		first = 0
	}
	not := func(register, bit int) byte { return byte(^register>>bit) & 1 }
	return [6]byte{
		0x62,
		not(dst, 3)<<7 | not(second, 4)<<6 | not(second, 3)<<5 | not(dst, 4)<<4 | 0x02, // Map 0F38.
		byte(^first&15)<<3 | 0x04 | 0x02,                                               // W0, prefix F3.
		0x40 | not(first, 4)<<3,                                                        // 512 bits, no mask.
		o.code,
		0xc0 | byte(dst&7)<<3 | byte(second&7),
	}
}

// instruction writes the bytes, with what they mean in Intel's order.
func instruction(o opcode, dst, first, second int) string {
	b := encode(o, dst, first, second)
	operands := fmt.Sprintf("zmm%d, zmm%d, zmm%d", dst, first, second)
	if o.operands == 2 {
		operands = fmt.Sprintf("ymm%d, zmm%d", dst, second)
	}
	return fmt.Sprintf("LONG $0x%02x%02x%02x%02x; WORD $0x%02x%02x // %s %s",
		b[3], b[2], b[1], b[0], b[5], b[4], o.name, operands)
}

// narrowBF16 makes rows for bf16Product.
var narrowBF16 = vectorFunc{
	name: "narrowBF16", doc: "rounds x to pairs of bfloat16; it takes subnormal numbers for zero.",
	pointers: []string{"y", "x"}, ints: []string{"n"},
	body: func(a *assembler) {
		a.loop(func() { // DX counts the bytes of x; y is half as long.
			a.p("VMOVUPS (SI)(DX*1), Z0")
			a.p("%s", instruction(narrow, 1, 0, 0))
			a.p("VMOVDQU Y1, (DI)")
			a.p("ADDQ $32, DI")
		})
	},
}

// roundBF16 makes rows for widenedProduct.
var roundBF16 = vectorFunc{
	name: "roundBF16", doc: "rounds x to the nearest bfloat16, ties to even, and leaves it float32.",
	pointers: []string{"y", "x"}, ints: []string{"n"},
	body: func(a *assembler) {
		a.loop(func() {
			a.each(func(h int) {
				a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(0, h))
				a.roundToBF16(a.r(0, h), a.r(1, h), a.r(2, h))
				a.p("VANDPS %s, %s, %s", constant("highHalf"), a.r(1, h), a.r(1, h))
				a.p("VMOVUPS %s, %s", a.r(1, h), a.at("DI", "DX", h))
			})
		})
	},
}

// roundToBF16 sets the high halves of t to x as bfloat16, and leaves something in the
// low ones. It changes x where that is no number.
func (a *assembler) roundToBF16(x, t, nan string) {
	a.p("VPSRLD $16, %s, %s", x, t)
	a.p("VPAND %s, %s, %s", constant("unit"), t, t)
	a.p("VPADDD %s, %s, %s", constant("belowHalf"), t, t)
	a.p("VPADDD %s, %s, %s", x, t, t)
	a.p("VCMPPS $3, %s, %s, %s", x, x, nan)
	a.p("VORPS %s, %s, %s", constant("quiet"), x, x)
	a.p("VBLENDVPS %s, %s, %s, %s", nan, x, t, t)
}

// narrowRounded makes rows for the products on tiles: what roundBF16 does, in pairs.
var narrowRounded = vectorFunc{
	name: "narrowBF16", doc: "rounds x to the nearest bfloat16, ties to even, and pairs of them to a word.",
	pointers: []string{"y", "x"}, ints: []string{"n"},
	body: func(a *assembler) {
		a.loop(func() { // DX counts the bytes of x; y is half as long.
			a.each(func(h int) {
				a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(0, h))
				a.roundToBF16(a.r(0, h), a.r(1, h), a.r(2, h))
			})
			x, y, even, odd := a.r(1, 0), a.r(1, 1), a.r(0, 0), a.r(0, 1)
			a.p("VSHUFPS $0x88, %s, %s, %s", y, x, even)
			a.p("VSHUFPS $0xdd, %s, %s, %s", y, x, odd)
			a.p("VPSRLD $16, %s, %s", even, even)
			a.p("VANDPS %s, %s, %s", constant("highHalf"), odd, odd)
			a.p("VORPS %s, %s, %s", even, odd, odd)
			a.p("VPERMQ $0xd8, %s, %s", odd, odd)
			a.p("VMOVDQU %s, (DI)", odd)
			a.p("ADDQ $32, DI")
		})
	},
}
