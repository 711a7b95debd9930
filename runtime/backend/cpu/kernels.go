package cpu

import (
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
)

//go:generate go run ./gen

const (
	// maxTile is the largest mr·nr of any path.
	maxTile = 192 * 32
	// vectorStep is the number of elements the vector kernels work on at once.
	vectorStep = 16
	cacheLine  = 64 // Bytes.
	lineWords  = cacheLine / 4
)

// kernels is one instruction path: the inner loops that the operations are made
// of. Each is deterministic in its arguments; the order of a sum depends on its
// length only.
type kernels struct {
	name string
	// nr is the number of outputs of a panel of float32, and of the types whose product
	// has none of its own.
	nr int
	// ownOrder says that sums of a product are not always in the order of the columns,
	// two and two; see backend.Capabilities.OrderedSums.
	ownOrder bool
	// widenedInt8 is backend.Capabilities.WidenedInt8.
	widenedInt8 bool
	// products multiply with the types of weights.
	products [len(formats)]product
	// dot returns Σ a·b over len(a) elements.
	dot func(a, b []float32) float32
	// axpy computes y += alpha·x over len(y) elements.
	axpy func(y []float32, alpha float32, x []float32)
	// mul computes y = a·b, element by element.
	mul func(y, a, b []float32)
	// mulScaled computes y = a·alpha·b, element by element.
	mulScaled func(y, a, b []float32, alpha float32)
	// maximum returns the largest element; a has at least one.
	maximum func(a []float32) float32
	// expShifted computes y = e^(x−shift) and returns the sum of y.
	expShifted func(y, x []float32, shift float32) float32
	// swiglu computes y = silu(gate)·up.
	swiglu func(y, gate, up []float32)
	// swigluBackward computes the gradients with respect to gate and up.
	swigluBackward func(dGate, dUp, dy, gate, up []float32)
	// rotate turns the pairs (a[i], b[i]) by the angles with these cosines and
	// sines.
	rotate func(a, b, cos, sin []float32)

	// Those that follow walk over rows which are stride elements apart.

	// columnDots computes d[c] = Σ a[row,c]·b[row,c] in the order of the rows.
	columnDots func(d, a, b []float32, rows, stride int)
	// dots computes y[h,j] = scale·⟨q[h], k[j]⟩ for the heads h of n elements in q; a
	// row of y has ldy elements. It may write to a row up to the next multiple of
	// four.
	dots func(y, q, k []float32, n, ldy, rows, stride int, scale float32)
	// combine computes y[h] = Σ p[h,j]·v[j] for the heads h of n elements in y, where
	// row j of v is row j%pageRows of page pages[j/pageRows] and a row of p has ldp
	// elements. It is the same sum, bit for bit, for all pages of a multiple of four
	// rows, and for one page of all rows.
	combine func(y, p, v []float32, n, ldp, rows, stride int, pages []int32, pageRows int)
	// dotsBF16 and combineBF16 are the two for keys and values in bfloat16: the same bits
	// as of their numbers in float32.
	dotsBF16    func(y, q []float32, k []uint16, n, ldy, rows, stride int, scale float32)
	combineBF16 func(y, p []float32, v []uint16, n, ldp, rows, stride int, pages []int32, pageRows int)
	// storeBF16 rounds to nearest, ties to even, len(dst) elements.
	storeBF16 func(dst []uint16, src []float32)
}

// product is how a path multiplies with one type of weights. A step of it takes
// the columns of W that formats says.
type product struct {
	// mr is the number of rows of a tile at most, and nr that of the outputs of a panel
	// where it is not kernels.nr.
	mr, nr int
	// rowWords is what a step takes of a row that prepare made of in elements; a
	// word is the memory of one float32, whatever is in it. What the last step has
	// no elements for is zero before. Where prepare is nil a row is used as it is.
	rowWords int
	prepare  func(dst, src []float32)
	// spread says that rows which are made ready lie an odd number of cache lines apart,
	// for a tile that reads many of them at the same column.
	spread bool
	// unit is the number of steps of which all blocks but the last have a multiple, where
	// it is not that of most kernels; and blockSteps the number of steps of a block, where
	// it is not the format's.
	unit, blockSteps int
	// fetches is how often a step of tile fetches what is ahead; see tileArgs.
	fetches int
	// tile computes one tile of a product.
	tile func(t *tileArgs)
}

// tileArgs describes c [rows, nr] (+)= a [rows, steps]·panel [steps, nr]; rows is 1
// to mr. Every element is one chain of additions over the steps, whatever rows is.
// While a tile of several rows reads its panel, it brings memory from ahead on to the
// second cache, for those that follow: a cache line at a time, each stride bytes behind
// the last. It does not read what is there.
// The assembly reads the fields by name.
type tileArgs struct {
	c, a, panel []float32
	ldc, lda    int
	steps, rows int
	add         bool
	ahead       []float32
	stride      int
	// Memory of the tile's own.
	sums []int32
	wide []float32
}

// width is the number of outputs of a panel of weights of a type.
func (k *kernels) width(kind backend.DType) int {
	if nr := k.products[kind].nr; nr > 0 {
		return nr
	}
	return k.nr
}

// Paths lists the instruction paths of this processor and build that EnvPath can
// force, in the order in which they are preferred before anything is measured.
func Paths() []string {
	var names []string
	for _, k := range append(accelerated(), plainKernels()) {
		names = append(names, k.name)
	}
	return names
}

// emulated are paths of which tests carry out the instructions that the processor lacks.
var emulated []*kernels

// chooseKernels returns the named path, or the best one for "".
func chooseKernels(path string) (*kernels, error) {
	available := append(accelerated(), plainKernels())
	if path == "" {
		return available[0], nil
	}
	for _, k := range append(available, emulated...) {
		if k.name == path {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s=%q: this processor and build offer %s", EnvPath, path, strings.Join(Paths(), ", "))
}

func plainKernels() *kernels {
	return &kernels{
		name: "plain", nr: plainColumns,
		products: [...]product{
			backend.F32:  {mr: 4, rowWords: 1, tile: plainTile},
			backend.BF16: {mr: 4, rowWords: 2, prepare: plainRoundBF16, tile: plainTileBF16},
			backend.Int8: {mr: 4, rowWords: 2 * (int8Words + 2), prepare: plainQuantize, tile: plainTileInt8},
		},
		dot:            plainDot,
		axpy:           plainAxpy,
		mul:            plainMul,
		mulScaled:      plainMulScaled,
		maximum:        plainMaximum,
		expShifted:     plainExpShifted,
		swiglu:         plainSwiGLU,
		swigluBackward: plainSwiGLUBackward,
		rotate:         plainRotate,
		columnDots:     plainColumnDots,
		dots:           plainDots,
		combine:        plainCombine,
		dotsBF16:       plainDotsBF16,
		combineBF16:    plainCombineBF16,
		storeBF16:      plainStoreBF16,
	}
}

// lowest is a step of numbers whose exponential is zero.
var lowest = [vectorStep]float32{
	-1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30,
}
