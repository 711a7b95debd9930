package cpu

import (
	"golang.org/x/sys/cpu"

	"github.com/transformersquared/operator/runtime/backend"
)

// features are the instruction sets that make a difference.
type features struct {
	avx2, avx512, vnni, bf16, amx bool
}

// detect returns those of this processor.
func detect() features {
	x := cpu.X86
	avx2 := x.HasAVX2 && x.HasFMA
	avx512 := avx2 && x.HasAVX512F && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512BW
	return features{
		avx2: avx2, avx512: avx512,
		vnni: avx512 && x.HasAVX512VNNI, bf16: avx512 && x.HasAVX512BF16,
		amx: avx2 && tilesUsable(),
	}
}

// accelerated returns the paths beyond plain Go that this processor has, best
// first.
func accelerated() []*kernels { return pathsWith(detect()) }

// pathsWith returns the paths beyond plain Go that these features allow. VNNI has
// no path of its own, since it changes no bit of a result.
func pathsWith(f features) []*kernels {
	var out []*kernels
	if f.amx {
		out = append(out, amxKernels(f), amxWideKernels(f))
	}
	if f.bf16 {
		k := avx512Kernels(f.vnni)
		k.name = "avx512bf16"
		k.products[backend.BF16] = product{
			mr: 12, rowWords: 1, prepare: narrowRow,
			fetches: fetchesBF16, tile: tileBF16,
		}
		out = append(out, k)
	}
	if f.avx512 {
		out = append(out, avx512Kernels(f.vnni))
	}
	if f.avx2 {
		out = append(out, avx2Kernels())
	}
	return out
}

func avx2Kernels() *kernels {
	k := plainKernels()
	k.name, k.nr = "avx2", 16
	k.products = [...]product{
		backend.F32:  {mr: 6, rowWords: 1, fetches: fetchesAVX2, tile: tileAVX2},
		backend.BF16: {mr: 6, rowWords: 2, prepare: roundRow, fetches: fetchesWidenedAVX2, tile: tileWidenedAVX2},
		backend.Int8: {mr: 2, rowWords: 2 * (2*int8Words + 2), prepare: quantizeSplit, fetches: fetchesInt8AVX2, tile: tileInt8AVX2},
	}
	useAVX2(k)
	return k
}

func avx512Kernels(vnni bool) *kernels {
	k := plainKernels()
	k.name, k.nr = "avx512", 32
	k.products = [...]product{
		backend.F32:  {mr: 12, rowWords: 1, fetches: fetchesAVX512, tile: tileAVX512},
		backend.BF16: {mr: 12, rowWords: 2, prepare: roundRow, fetches: fetchesWidenedAVX512, tile: tileWidenedAVX512},
		backend.Int8: {mr: 6, rowWords: 2 * (2*int8Words + 2), prepare: quantizeSplit, fetches: fetchesInt8AVX512, tile: tileInt8AVX512},
	}
	if vnni {
		k.products[backend.Int8] = product{
			mr: 6, rowWords: 2 * (int8Words + 2), prepare: quantizeWhole,
			fetches: fetchesVNNI, tile: tileVNNI,
		}
	}
	useAVX512(k)
	return k
}

// The functions that prepare rows pad what the kernels do not take to a whole
// step; the tail of dst is what they write beyond it.

func roundRow(dst, src []float32) {
	whole := len(src) &^ (vectorStep - 1)
	if whole > 0 {
		_ = dst[whole-1]
		roundBF16AVX2(&dst[0], &src[0], whole)
	}
	if whole < len(src) {
		var t [vectorStep]float32
		copy(t[:], src[whole:])
		roundBF16AVX2(&t[0], &t[0], vectorStep)
		copy(dst[whole:], t[:])
	}
}

// storeBF16Slice is AVX2's on every path: what AVX-512 BF16 has for it takes subnormal
// numbers for zero.
func storeBF16Slice(dst []uint16, src []float32) {
	src = src[:len(dst)]
	whole := len(dst) &^ (vectorStep - 1)
	if whole > 0 {
		storeBF16AVX2(&dst[0], &src[0], whole)
	}
	if whole < len(dst) {
		plainStoreBF16(dst[whole:], src[whole:])
	}
}

func narrowRow(dst, src []float32) { narrowPairs(dst, src, narrowBF16AVX512) }

// narrowPairs calls kernel for the whole steps of a row and then for what is left over.
func narrowPairs(dst, src []float32, kernel func(y, x *float32, n int)) {
	whole := len(src) &^ (vectorStep - 1)
	if whole > 0 {
		_ = dst[whole/2-1]
		kernel(&dst[0], &src[0], whole)
	}
	if whole < len(src) {
		var t [vectorStep]float32
		copy(t[:], src[whole:])
		var pairs [vectorStep / 2]float32
		kernel(&pairs[0], &t[0], vectorStep)
		copy(dst[whole/2:], pairs[:])
	}
}

func quantizeWhole(dst, src []float32) { quantizeBlocks(dst, src, int8Words+2, quantizeAVX2) }

func quantizeSplit(dst, src []float32) {
	quantizeBlocks(dst, src, 2*int8Words+2, quantizeSplitAVX2)
}

// quantizeBlocks calls kernel for the whole blocks of a row and then for the last
// one, filled up with zeros. A block makes this many words.
func quantizeBlocks(dst, src []float32, words int, kernel func(y, x *float32, blocks int)) {
	blocks := len(src) / backend.Int8Block
	if blocks > 0 {
		_ = dst[blocks*words-1]
		kernel(&dst[0], &src[0], blocks)
	}
	if rest := src[blocks*backend.Int8Block:]; len(rest) > 0 {
		var t [backend.Int8Block]float32
		copy(t[:], rest)
		_ = dst[(blocks+1)*words-1]
		kernel(&dst[blocks*words], &t[0], 1)
	}
}
