package cpu

import (
	"math"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/tensor"
)

// The products with bfloat16 and int8 weights in plain Go; formats.go has the
// layouts.

// plainRoundBF16 prepares a row: bfloat16 values in float32. A missing last
// column is zero.
func plainRoundBF16(dst, src []float32) {
	for i, v := range src {
		dst[i] = tensor.BF16ToF32(tensor.F32ToBF16(v))
	}
}

func plainTileBF16(t *tileArgs) {
	const nr = plainColumns
	for r := range t.rows {
		a := t.a[r*t.lda:][:2*t.steps]
		c := (*[nr]float32)(t.c[r*t.ldc:])
		var sum [nr]float32
		if t.add {
			sum = *c
		}
		c0, c1, c2, c3 := sum[0], sum[1], sum[2], sum[3]
		c4, c5, c6, c7 := sum[4], sum[5], sum[6], sum[7]
		panel := t.panel
		for ; len(a) > 1; a = a[2:] {
			w := (*[nr]float32)(panel)
			x, y := a[0], a[1]
			c0 = c0 + x*lowHalf(w[0]) + y*highHalf(w[0])
			c1 = c1 + x*lowHalf(w[1]) + y*highHalf(w[1])
			c2 = c2 + x*lowHalf(w[2]) + y*highHalf(w[2])
			c3 = c3 + x*lowHalf(w[3]) + y*highHalf(w[3])
			c4 = c4 + x*lowHalf(w[4]) + y*highHalf(w[4])
			c5 = c5 + x*lowHalf(w[5]) + y*highHalf(w[5])
			c6 = c6 + x*lowHalf(w[6]) + y*highHalf(w[6])
			c7 = c7 + x*lowHalf(w[7]) + y*highHalf(w[7])
			panel = panel[nr:]
		}
		*c = [nr]float32{c0, c1, c2, c3, c4, c5, c6, c7}
	}
}

// plainStoreBF16 and plainLoadBF16 round to bfloat16, and widen it.
func plainStoreBF16(dst []uint16, src []float32) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] = tensor.F32ToBF16(src[i])
	}
}

func plainLoadBF16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] = tensor.BF16ToF32(src[i])
	}
}

// plainDotsBF16 and plainCombineBF16 add in the order of plainDots and plainCombine.
func plainDotsBF16(y, q []float32, k []uint16, n, ldy, rows, stride int, scale float32) {
	row := make([]float32, n)
	for j := range rows {
		plainLoadBF16(row, k[j*stride:])
		for h := range len(q) / n {
			y[h*ldy+j] = scale * plainDot(q[h*n:][:n], row)
		}
	}
}

func plainCombineBF16(y, p []float32, v []uint16, n, ldp, rows, stride int, pages []int32, pageRows int) {
	clear(y)
	row := make([]float32, n)
	for j := range rows {
		at := int(pages[j/pageRows])*pageRows + j%pageRows
		plainLoadBF16(row, v[at*stride:])
		for h := range len(y) / n {
			plainAxpy(y[h*n:][:n], p[h*ldp+j], row)
		}
	}
}

// lowHalf and highHalf are the bfloat16 values of a word.
func lowHalf(word float32) float32 {
	return math.Float32frombits(math.Float32bits(word) << 16)
}

func highHalf(word float32) float32 {
	return math.Float32frombits(math.Float32bits(word) & 0xffff0000)
}

// plainQuantize prepares a row: for each block eight words of integers, the scale
// and the offset of the sum.
func plainQuantize(dst, src []float32) {
	var q [backend.Int8Block]int8
	for ; len(src) > 0; dst = dst[int8Words+2:] {
		n := min(len(src), backend.Int8Block)
		dst[int8Words] = quantizeRow(&q, src[:n])
		var total int32
		for w := range int8Words {
			var word uint32
			for i, v := range q[4*w : 4*w+4] {
				word |= uint32(uint8(v)) << (8 * i)
				total += int32(v)
			}
			dst[w] = math.Float32frombits(word)
		}
		dst[int8Words+1] = math.Float32frombits(uint32(-int8Bias * total))
		src = src[n:]
	}
}

func plainTileInt8(t *tileArgs) {
	const nr, blockWords = plainColumns, int8Words + 2
	for r := range t.rows {
		a := t.a[r*t.lda:][:t.steps*2*blockWords]
		c := (*[nr]float32)(t.c[r*t.ldc:])
		var sum [nr]float32
		if t.add {
			sum = *c
		}
		panel := t.panel
		for ; len(a) > 0; a = a[2*blockWords:] {
			scales, lines := (*[nr]float32)(panel), panel[nr:][:2*int8Words*nr]
			plainAddBlock(&sum, a[:blockWords], lines[:int8Words*nr], scales, lowHalf)
			plainAddBlock(&sum, a[blockWords:], lines[int8Words*nr:], scales, highHalf)
			panel = panel[int8Step*nr:]
		}
		*c = sum
	}
}

// plainAddBlock adds the product of a prepared block of a row and the lines of a
// panel to sum; half takes their scales out of words.
func plainAddBlock(sum *[plainColumns]float32, a, lines []float32, scales *[plainColumns]float32, half func(float32) float32) {
	var sums [plainColumns]int32
	for j := range sums {
		sums[j] = int32(math.Float32bits(a[int8Words+1]))
	}
	for i := range int8Words {
		x := math.Float32bits(a[i])
		x0, x1, x2, x3 := int32(int8(x)), int32(int8(x>>8)), int32(int8(x>>16)), int32(int8(x>>24))
		w := (*[plainColumns]float32)(lines[i*plainColumns:])
		for j := range sums {
			b := math.Float32bits(w[j])
			sums[j] += x0*int32(b&0xff) + x1*int32(b>>8&0xff) + x2*int32(b>>16&0xff) + x3*int32(b>>24)
		}
	}
	for j := range sum {
		sum[j] += float32(sums[j]) * half(scales[j]) * a[int8Words]
	}
}
