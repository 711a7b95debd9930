package main

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The instructions on tiles (AMX) are not known to Go's assembler. All are VEX with
// 128 bits, map 0F38 and W0; what tells them apart is a byte and the prefix.

// Prefixes, as VEX has them.
const (
	noPrefix = iota
	prefix66
	prefixF3
	prefixF2
)

// tileOp is an instruction on tiles.
type tileOp struct {
	name   string
	code   byte
	prefix byte
}

var (
	loadConfig  = tileOp{"LDTILECFG", 0x49, noPrefix}
	releaseTile = tileOp{"TILERELEASE", 0x49, noPrefix}
	zeroTile    = tileOp{"TILEZERO", 0x49, prefixF2}
	loadTile    = tileOp{"TILELOADD", 0x4b, prefixF2}
	storeTile   = tileOp{"TILESTORED", 0x4b, prefixF3}
	// dotBF16 adds the products of pairs of bfloat16, a row of pairs by a column of them.
	dotBF16 = tileOp{"TDPBF16PS", 0x5c, prefixF3}
	// dotSU adds the products of groups of four bytes: those of the first factor are
	// signed, those of the second are not.
	dotSU = tileOp{"TDPBSUD", 0x5e, prefixF3}
)

// tileMemory is base + index + displacement.
type tileMemory struct {
	base, index  string // Registers; no index is "".
	displacement int
}

// generalRegisters are the numbers of registers, by Go's names.
var generalRegisters = map[string]int{
	"AX": 0, "CX": 1, "DX": 2, "BX": 3, "SP": 4, "BP": 5, "SI": 6, "DI": 7,
	"R8": 8, "R9": 9, "R10": 10, "R11": 11, "R12": 12, "R13": 13, "R14": 14, "R15": 15,
}

// intelNames are the numbers' names in Intel's manuals.
var intelNames = [16]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// registers encodes an instruction on tiles alone: dst, and the factors of a product.
func (o tileOp) registers(dst, first, second int) []byte {
	return []byte{0xc4, 0xe2, byte(^second&15)<<3 | o.prefix, o.code, 0xc0 | byte(dst<<3) | byte(first)}
}

// memory encodes an instruction on a tile, or on none (0), and memory. Those that load
// and store tiles always have an index, whose register is the distance of rows.
func (o tileOp) memory(tile int, m tileMemory) []byte {
	base, index := generalRegisters[m.base], 4 // 4 is none.
	if m.index != "" {
		index = generalRegisters[m.index]
	}
	not := func(register int) byte { return byte(^register>>3) & 1 }
	out := []byte{0xc4, 0x82 | not(index)<<6 | not(base)<<5, 15<<3 | o.prefix, o.code}
	address := []byte{byte(tile<<3) | byte(base&7)}
	if m.index != "" || base&7 == 4 { // What would be base 4 says that there is a second byte.
		address = []byte{byte(tile<<3) | 4, byte(index&7)<<3 | byte(base&7)}
	}
	short := int8(m.displacement)
	if int(short) == m.displacement {
		address[0] |= 1 << 6
		return append(append(out, address...), byte(short))
	}
	address[0] |= 2 << 6
	return binary.LittleEndian.AppendUint32(append(out, address...), uint32(int32(m.displacement)))
}

// String is the memory as Intel's manuals have it.
func (m tileMemory) String() string {
	index := ""
	if m.index != "" {
		index = "+" + intelNames[generalRegisters[m.index]] + "*1"
	}
	return fmt.Sprintf("[%s%s%+#x]", intelNames[generalRegisters[m.base]], index, m.displacement)
}

// bytesOf writes the bytes of an instruction, with what they mean in Intel's order.
func bytesOf(code []byte, mnemonic string) string {
	parts := make([]string, len(code))
	for i, b := range code {
		parts[i] = fmt.Sprintf("BYTE $0x%02x", b)
	}
	return strings.Join(parts, "; ") + " // " + mnemonic
}

// The instructions, as lines of assembly.

func configure(m tileMemory) string {
	return bytesOf(loadConfig.memory(0, m), fmt.Sprintf("%s %s", loadConfig.name, m))
}

func release() string { return bytesOf(releaseTile.registers(0, 0, 0), releaseTile.name) }

func zeroed(tile int) string {
	return bytesOf(zeroTile.registers(tile, 0, 0), fmt.Sprintf("%s tmm%d", zeroTile.name, tile))
}

func loaded(tile int, m tileMemory) string {
	return bytesOf(loadTile.memory(tile, m), fmt.Sprintf("%s tmm%d, %s", loadTile.name, tile, m))
}

func written(m tileMemory, tile int) string {
	return bytesOf(storeTile.memory(tile, m), fmt.Sprintf("%s %s, tmm%d", storeTile.name, m, tile))
}

func (o tileOp) multiplied(dst, first, second int) string {
	return bytesOf(o.registers(dst, first, second), fmt.Sprintf("%s tmm%d, tmm%d, tmm%d", o.name, dst, first, second))
}
