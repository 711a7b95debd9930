package backend

import (
	"fmt"
	"slices"
	"strings"
)

// DType says how numbers are stored: activations, the key-value cache and weights,
// for which it also says what a product rounds. Bytes count what a backend keeps and
// reads for each element. Buffers are F32 or BF16, weights any of them.
type DType uint8

const (
	// F32 stores float32, four bytes. MatMul multiplies and adds in float32.
	F32 DType = iota

	// BF16 stores bfloat16, two bytes: NewWeight rounds to nearest, ties to even,
	// so that a matrix of bfloat16 values is stored exactly. Products round x (or dy)
	// in the same way, and add the products of both, which float32 holds exactly, in
	// float32. A backend may take subnormal numbers (below 2⁻¹²⁶) for zero.
	BF16

	// Int8 stores, for each block of Int8Block elements of a row, integers q from
	// −127 to 127 and a bfloat16 scale s, which stand for q·s: 1¹⁄₁₆ bytes. With m the
	// largest magnitude of the block, s = m/127, rounded to float32 and then to
	// bfloat16, and q = x·(1/s), each operation rounded to float32 and then q to the
	// nearest integer, ties to even; where m is below 2⁻¹¹⁹ all are zero. The last
	// block of a row is filled up with zeros. Magnitudes from 2¹²⁷ on are refused.
	//
	// MatMul quantises each block of x's rows likewise, but with a float32 scale
	// m/127 and q = x·(127/m), adds the products of the integers exactly, and the
	// blocks' sums times both scales in float32. A row of x in which a block has an
	// infinite element or NaN gives NaN.
	//
	// A backend whose Capabilities.WidenedInt8 says so rounds what is stored, q·s, to
	// bfloat16 instead, and x as for BF16, and multiplies as that type says.
	Int8
)

// Int8Block is the number of elements that share a scale.
const Int8Block = 32

var dtypes = [...]string{F32: "f32", BF16: "bf16", Int8: "int8"}

// DTypes lists the types.
func DTypes() []DType { return []DType{F32, BF16, Int8} }

// String returns the type's name.
func (t DType) String() string {
	if int(t) < len(dtypes) {
		return dtypes[t]
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

// Bytes is the memory that the elements and scales of a matrix [out, in] take,
// without what a backend fills its layout up with.
func (t DType) Bytes(out, in int) int64 {
	n := int64(out) * int64(in)
	switch t {
	case BF16:
		return 2 * n
	case Int8:
		blocks := int64(out) * int64((in+Int8Block-1)/Int8Block)
		return n + 2*blocks
	default:
		return 4 * n
	}
}

// ParseDType returns the type of this name, in any case; an empty one means
// F32.
func ParseDType(name string) (DType, error) {
	var t DType
	if name == "" {
		return F32, nil
	}
	err := t.UnmarshalText([]byte(name))
	return t, err
}

// MarshalText returns the type's name.
func (t DType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText sets the type by its name, in any case. The error says which names
// there are.
func (t *DType) UnmarshalText(name []byte) error {
	i := slices.Index(dtypes[:], strings.ToLower(string(name)))
	if i < 0 {
		return fmt.Errorf("dtype %q is none of %s", name, strings.Join(dtypes[:], ", "))
	}
	*t = DType(i)
	return nil
}
