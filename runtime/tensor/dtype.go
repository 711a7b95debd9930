package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// DType is a stored number format, named as safetensors names it.
type DType string

// The number formats this project reads and writes.
const (
	// F32 is IEEE 754 binary32.
	F32 DType = "F32"
	// BF16 is the upper half of a binary32: 8 exponent and 7 mantissa bits.
	BF16 DType = "BF16"
	// F16 is IEEE 754 binary16: 5 exponent and 10 mantissa bits.
	F16 DType = "F16"
)

// Size returns the bytes of one element, or 0 for a format that is not known.
func (d DType) Size() int {
	switch d {
	case F32:
		return 4
	case BF16, F16:
		return 2
	default:
		return 0
	}
}

// Decode converts little-endian elements of format d to float32. The lengths
// must agree: len(src) = len(dst)·d.Size().
func Decode(dst []float32, src []byte, d DType) error {
	if err := checkLengths(len(dst), len(src), d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		decodeBF16(dst, src)
	case F16:
		for i := range dst {
			dst[i] = F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
	return nil
}

// decodeBF16 widens four at a time: most published weights are read here.
func decodeBF16(dst []float32, src []byte) {
	for len(dst) >= 4 && len(src) >= 8 {
		four := binary.LittleEndian.Uint64(src)
		dst[0] = math.Float32frombits(uint32(four) << 16)
		dst[1] = math.Float32frombits(uint32(four) & 0xffff0000)
		dst[2] = math.Float32frombits(uint32(four>>16) & 0xffff0000)
		dst[3] = math.Float32frombits(uint32(four>>32) & 0xffff0000)
		dst, src = dst[4:], src[8:]
	}
	for i := range dst {
		dst[i] = BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// Encode converts float32 to little-endian elements of format d, rounding to
// the nearest, ties to even. The lengths must agree as in Decode.
func Encode(dst []byte, src []float32, d DType) error {
	if err := checkLengths(len(src), len(dst), d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToBF16(v))
		}
	case F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToF16(v))
		}
	}
	return nil
}

func checkLengths(elements, bytes int, d DType) error {
	size := d.Size()
	if size == 0 {
		return fmt.Errorf("number format %q is not supported (F32, BF16 and F16 are)", string(d))
	}
	if bytes%size != 0 || bytes/size != elements {
		return fmt.Errorf("%d bytes do not hold %d elements of %s", bytes, elements, d)
	}
	return nil
}

// BF16ToF32 widens a bfloat16; every value is exact.
func BF16ToF32(b uint16) float32 {
	return math.Float32frombits(uint32(b) << 16)
}

// F32ToBF16 rounds to the nearest bfloat16, ties to even. NaN stays NaN and a
// value beyond the largest finite bfloat16 becomes infinite.
func F32ToBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x0040 // Quiet, and never an infinity by losing low bits.
	}
	return uint16((bits + 0x7fff + (bits>>16)&1) >> 16)
}

// F16ToF32 widens a binary16; every value is exact.
func F16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h>>10) & 0x1f
	mantissa := uint32(h & 0x3ff)
	switch exponent {
	case 0: // Zero or subnormal: mantissa·2⁻²⁴.
		v := float32(mantissa) * 0x1p-24
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | mantissa<<13)
	default:
		return math.Float32frombits(sign | (exponent+112)<<23 | mantissa<<13)
	}
}

// F32ToF16 rounds to the nearest binary16, ties to even. NaN stays NaN and a
// value beyond the largest finite binary16 becomes infinite.
func F32ToF16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits>>16) & 0x8000
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000:
		return sign | 0x7e00
	case magnitude >= 0x477ff000: // 65520 and above round to infinity.
		return sign | 0x7c00
	case magnitude >= 0x38800000: // Normal from 2⁻¹⁴ up.
		rounded := magnitude + 0xfff + (magnitude>>13)&1
		return sign | uint16((rounded-(112<<23))>>13)
	default: // Subnormal: count units of 2⁻²⁴; the product is exact in float64.
		units := math.RoundToEven(float64(math.Float32frombits(magnitude)) * 0x1p24)
		return sign | uint16(units)
	}
}
