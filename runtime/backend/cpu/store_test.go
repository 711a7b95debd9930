package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/transformersquared/operator/runtime/tensor"
)

// TestKernelsOfNarrowKeysAddAsThoseOfWideOnes wants of every path, number of heads and
// dimension the bits that the same numbers give as float32.
func TestKernelsOfNarrowKeysAddAsThoseOfWideOnes(t *testing.T) {
	const rows, pageRows, most = 53, 16, 9
	pages := []int32{5, 0, 3, 4}
	for _, path := range Paths() {
		k := newTest(t, 1, path).kernels
		for _, d := range []int{1, 6, 16, 48, 64, 80, 112, 128, 192} {
			for heads := 1; heads <= most; heads++ {
				stride, ld := 2*d, roundUp(rows, vectorStep)
				half := make([]uint16, 6*pageRows*stride)
				k.storeBF16(half, random(len(half), 1))
				wide := make([]float32, len(half))
				plainLoadBF16(wide, half)
				q, p := random(heads*d, 2), random(heads*ld, 3)
				check := func(what string, got, want []float32) {
					t.Helper()
					for i := range want {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
							t.Fatalf("%s, %s of %d heads of %d: element %d is %v, and of float32 %v", path, what, heads, d, i, got[i], want[i])
						}
					}
				}
				got, want := make([]float32, heads*ld), make([]float32, heads*ld)
				k.dotsBF16(got, q, half[d:], d, ld, rows, stride, 0.3)
				k.dots(want, q, wide[d:], d, ld, rows, stride, 0.3)
				check("dots", got, want)
				got, want = make([]float32, heads*d), make([]float32, heads*d)
				k.combineBF16(got, p, half[d:], d, ld, rows, stride, pages, pageRows)
				k.combine(want, p, wide[d:], d, ld, rows, stride, pages, pageRows)
				check("combine", got, want)
			}
		}
	}
}

// TestStoredNumbersAreTheNearest wants of every path what package tensor rounds to, for
// all exponents, ties, subnormal numbers, infinities and what is none.
func TestStoredNumbersAreTheNearest(t *testing.T) {
	var all []float32
	for exponent := range uint32(256) {
		for _, fraction := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x17fff, 0x18000, 0x18001, 0x7f7fff, 0x7f8000, 0x7fffff} {
			for sign := range uint32(2) {
				all = append(all, math.Float32frombits(sign<<31|exponent<<23|fraction))
			}
		}
	}
	for _, path := range Paths() {
		k := newTest(t, 1, path).kernels
		for _, n := range []int{1, 15, 16, 17, len(all)} {
			t.Run(fmt.Sprint(path, ", ", n), func(t *testing.T) {
				got := make([]uint16, n)
				k.storeBF16(got, all[:n])
				for i, x := range all[:n] {
					if want := tensor.F32ToBF16(x); got[i] != want {
						t.Errorf("%v (%#x) is stored as %#x, want %#x", x, math.Float32bits(x), got[i], want)
					}
				}
			})
		}
	}
}
