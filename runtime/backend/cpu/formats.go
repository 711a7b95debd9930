package cpu

import (
	"math"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// format is how a type of weights is laid out in panels. Panels are words: the
// memory of a float32, whatever bits are in it; math.Float32bits and its inverse,
// which cost nothing, say where it is something else.
type format struct {
	// columns of W that a step takes, and the lines of nr words that hold them.
	columns, lines int
	// blockSteps is the number of steps, at most, after which a product goes on to
	// other rows: what is read of a tile of rows stays near L1.
	blockSteps int
	// rowCost is about how much longer it takes to make an element of a row ready for a
	// product than to read one of a panel; see newGrid.
	rowCost float64
	// pack writes row r of a panel; the panel was zero. unpack reads it.
	pack   func(panel, row []float32, r, nr int)
	unpack func(row, panel []float32, r, nr int)
}

const (
	// int8Words is the number of words that hold the integers of a block.
	int8Words = backend.Int8Block / 4
	// int8Step is the number of lines of a step: the scales and the integers of two
	// blocks.
	int8Step = 1 + 2*int8Words
)

var formats = [...]format{
	backend.F32: {
		columns: 1, lines: 1, blockSteps: 768, rowCost: 0.25,
		pack: packF32, unpack: unpackF32,
	},
	backend.BF16: {
		columns: 2, lines: 1, blockSteps: 768, rowCost: 1.5,
		pack: packBF16, unpack: unpackBF16,
	},
	backend.Int8: {
		columns: 2 * backend.Int8Block, lines: int8Step, blockSteps: 32, rowCost: 15,
		pack: packInt8, unpack: unpackInt8,
	},
}

// A float32 step is one column of W.

func packF32(panel, row []float32, r, nr int) {
	for i, v := range row {
		panel[i*nr+r] = v
	}
}

func unpackF32(row, panel []float32, r, nr int) {
	for i := range row {
		row[i] = panel[i*nr+r]
	}
}

// A bfloat16 step is two columns, in the halves of a word, the low one first.

func packBF16(panel, row []float32, r, nr int) {
	for ; len(row) > 1; row, panel = row[2:], panel[nr:] {
		low, high := uint32(tensor.F32ToBF16(row[0])), uint32(tensor.F32ToBF16(row[1]))
		panel[r] = math.Float32frombits(low | high<<16)
	}
	if len(row) == 1 {
		panel[r] = math.Float32frombits(uint32(tensor.F32ToBF16(row[0])))
	}
}

func unpackBF16(row, panel []float32, r, nr int) {
	for i := range row {
		word := math.Float32bits(panel[i/2*nr+r])
		row[i] = tensor.BF16ToF32(uint16(word >> (16 * (i % 2))))
	}
}

// An int8 step is two blocks: a line of words with the scales of both, the first
// in the low half, and for each block eight lines of words with four columns, the
// first in the lowest byte. 128 is added to each, because the instructions that
// multiply bytes want one factor without a sign. So that this adds nothing to a
// product, a prepared row has, after the eight words and the float32 scale of a
// block, −128 times the sum of the block's integers, from which its sum starts.

const (
	int8Limit    = 127
	int8Bias     = 128
	int8Smallest = 0x1p-119 // The least magnitude whose bfloat16 scale is not subnormal.
)

func packInt8(panel, row []float32, r, nr int) {
	var q [backend.Int8Block]int8
	for i := 0; len(row) > 0; i++ {
		block := row[:min(len(row), backend.Int8Block)]
		row = row[len(block):]
		step := panel[i/2*int8Step*nr:]
		scale := quantizeWeights(&q, block)
		step[r] = math.Float32frombits(math.Float32bits(step[r]) | uint32(scale)<<(16*(i%2)))
		for w := range int8Words {
			var word uint32
			for j, v := range q[4*w : 4*w+4] {
				word |= uint32(int(v)+int8Bias) << (8 * j)
			}
			step[(1+i%2*int8Words+w)*nr+r] = math.Float32frombits(word)
		}
	}
}

func unpackInt8(row, panel []float32, r, nr int) {
	for i := range row {
		const columns = 2 * backend.Int8Block
		step := panel[i/columns*int8Step*nr:]
		scale := tensor.BF16ToF32(uint16(math.Float32bits(step[r]) >> (16 * (i / backend.Int8Block % 2))))
		word := math.Float32bits(step[(1+i%columns/4)*nr+r])
		row[i] = scale * float32(int(word>>(8*(i%4))&0xff)-int8Bias)
	}
}

// quantizeWeights sets q to the integers of a block, with zeros where it is short,
// and returns the bits of their scale; see backend.Int8.
func quantizeWeights(q *[backend.Int8Block]int8, block []float32) uint16 {
	*q = [backend.Int8Block]int8{}
	top := magnitude(block)
	if !(top >= int8Smallest) {
		return 0
	}
	scale := tensor.F32ToBF16(top / int8Limit)
	multiplyToIntegers(q, block, 1/tensor.BF16ToF32(scale))
	return scale
}

// quantizeRow does the same for a block of a row to be multiplied, whose scale is
// float32. That of a block with an element that is not finite is NaN.
func quantizeRow(q *[backend.Int8Block]int8, block []float32) float32 {
	*q = [backend.Int8Block]int8{}
	top := magnitude(block)
	if top < int8Smallest {
		return 0
	}
	if top == top {
		multiplyToIntegers(q, block, int8Limit/top)
	}
	return top / int8Limit
}

// magnitude returns the largest magnitude, or NaN if an element is not finite.
func magnitude(block []float32) float32 {
	var top float32
	for _, v := range block {
		if v-v != 0 {
			return float32(math.NaN())
		}
		top = max(top, v, -v)
	}
	return top
}

func multiplyToIntegers(q *[backend.Int8Block]int8, block []float32, by float32) {
	for i, v := range block {
		q[i] = int8(math.RoundToEven(float64(v * by)))
	}
}
