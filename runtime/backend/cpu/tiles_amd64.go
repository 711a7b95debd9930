package cpu

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/transformersquared/operator/runtime/backend"
)

// Path amx multiplies on the processor's tiles (Intel's AMX): with bfloat16 weights by
// TDPBF16PS, with int8 weights by TDPBSUD. A tile has 16 rows of 64 bytes. Products with
// float32 weights and all other operations are those of AVX-512 or, where that is
// missing, AVX2. gen/amx.go says how kernels use the tiles.
//
// An element of a bfloat16 product is one chain over blocks of 32 columns, whatever rows
// are beside it. Within a block the processor has an order of its own, so that a sum is
// not the same when columns of zeros are left out (Capabilities.OrderedSums). An int8
// product is that of the other paths, bit for bit.

const (
	amxColumns = 32 // Of a panel: two tiles.
	amxGroup   = 32 // Rows that share what is loaded of a panel.
	// amxRows is the number of rows of a call, for which tiles are configured once: that
	// takes as long as some hundred thousand multiply-adds.
	amxRows = 3 * amxGroup
	// amxDepth is the number of bfloat16 steps of a block of columns.
	amxDepth = 16
	// amxBlockSteps are those of a block of a bfloat16 product: a panel's stay in L1 while
	// groups of rows pass by.
	amxBlockSteps = 16 * amxDepth
	// amxSums are the integers of two blocks of int8 columns of a group.
	amxSums = 2 * amxGroup * amxColumns
	// amxWideRows is the number of rows for which a panel is widened once, and amxWideSteps
	// of how many steps at a time: 32 KiB.
	amxWideRows, amxWideSteps = 2 * amxRows, 8
	// amxFewInt8 is the number of rows up to which VNNI computes an int8 product: it
	// reads a panel once then, and has the same bits.
	amxFewInt8 = 6
)

// amxKernels returns the path of tiles with the other features of a processor.
func amxKernels(f features) *kernels {
	k := avx2Kernels()
	if f.avx512 {
		k = avx512Kernels(f.vnni)
	}
	k.name, k.ownOrder = "amx", true
	k.products[backend.BF16] = product{
		mr: amxRows, nr: amxColumns, rowWords: 1, prepare: narrowRoundedRow, spread: true,
		unit: amxDepth, blockSteps: amxBlockSteps,
		fetches: fetchesAMXBF16, tile: tileAMXBF16,
	}
	k.products[backend.Int8] = product{
		mr: amxRows, nr: amxColumns, rowWords: 2 * (int8Words + 2), prepare: quantizeWhole, spread: true,
		fetches: fetchesAMXInt8, tile: tileAMXInt8,
	}
	if f.vnni {
		k.products[backend.Int8].tile = tileFewVNNI
	}
	return k
}

func narrowRoundedRow(dst, src []float32) {
	narrowPairs(dst, src, func(y, x *float32, n int) { storeBF16AVX2((*uint16)(unsafe.Pointer(y)), x, n) }) //nolint:gosec // A word of the row is two of them.
}

// tileConfig is what LDTILECFG reads.
type tileConfig [64]byte

// newTileConfig describes the tiles of a product of so many rows by a panel, of which the
// tiles have this many words of a row of a and lines of the panel.
func newTileConfig(rows, depth int) (c tileConfig) {
	const (
		palette     = 1
		tileWords   = 16
		columnBytes = 16 // Where there are two bytes a tile,
		tileRows    = 48 // and one.
	)
	c[0] = palette
	set := func(tile, rows, words int) {
		if rows > 0 {
			c[columnBytes+2*tile], c[tileRows+tile] = byte(4*words), byte(rows)
		}
	}
	for i, n := range []int{min(rows, tileWords), max(0, rows-tileWords)} {
		set(2*i, n, tileWords)
		set(2*i+1, n, tileWords)
		set(4+i, n, depth)
	}
	set(6, depth, tileWords)
	set(7, depth, tileWords)
	return c
}

// groups returns the whole groups of rows, and behind them the rest, which may be none.
func (t *tileArgs) groups() (whole tileArgs, n int, rest tileArgs) {
	whole, rest, n = *t, *t, t.rows/amxGroup
	whole.rows, rest.rows = amxGroup, t.rows%amxGroup
	if n > 0 && rest.rows > 0 {
		rest.a, rest.c = t.a[n*amxGroup*t.lda:], t.c[n*amxGroup*t.ldc:]
		rest.stride = 0 // All is fetched.
	}
	return whole, n, rest
}

func tileAMXBF16(t *tileArgs) {
	whole, n, rest := t.groups()
	if n > 0 {
		blocksAMXBF16(&whole, n)
	}
	if rest.rows > 0 {
		blocksAMXBF16(&rest, 1)
	}
}

// blocksAMXBF16 multiplies the whole blocks of columns, and then the rest with tiles that
// are as narrow.
func blocksAMXBF16(t *tileArgs, groups int) {
	depth, rest := t.steps/amxDepth, t.steps%amxDepth
	if depth > 0 {
		config := newTileConfig(t.rows, amxDepth)
		multiplyAMXBF16(t, &config, groups, depth)
		t.add, t.stride = true, 0
		t.a, t.panel = t.a[depth*amxDepth:], t.panel[depth*amxDepth*amxColumns:]
	}
	if rest > 0 {
		config := newTileConfig(t.rows, rest)
		multiplyAMXBF16(t, &config, groups, 1)
	}
}

func multiplyAMXBF16(t *tileArgs, config *tileConfig, groups, depth int) {
	if t.rows > amxGroup/2 {
		multiplyAMXBF16_32(t, config, groups, depth)
	} else {
		multiplyAMXBF16_16(t, config, groups, depth)
	}
}

// tileFewVNNI is for processors that have VNNI beside tiles, as all have.
func tileFewVNNI(t *tileArgs) {
	if t.rows <= amxFewInt8 {
		tileVNNI(t)
	} else {
		tileAMXInt8(t)
	}
}

func tileAMXInt8(t *tileArgs) {
	if !t.add {
		for r := range t.rows {
			clear(t.c[r*t.ldc:][:amxColumns])
		}
	}
	if t.sums == nil {
		t.sums = make([]int32, amxSums)
	}
	whole, n, rest := t.groups()
	if n > 0 {
		multiplyAMXInt8(&whole, n)
	}
	if rest.rows > 0 {
		multiplyAMXInt8(&rest, 1)
	}
}

func multiplyAMXInt8(t *tileArgs, groups int) {
	config := newTileConfig(t.rows, int8Words)
	if t.rows > amxGroup/2 {
		multiplyAMXInt8_32(t, &config, groups, &t.sums[0])
	} else {
		multiplyAMXInt8_16(t, &config, groups, &t.sums[0])
	}
}

// amxWideKernels returns the path that widens int8 weights to bfloat16. That takes longer
// than to multiply with them up to some hundred rows, and about half as long for many.
func amxWideKernels(f features) *kernels {
	k := amxKernels(f)
	k.name, k.widenedInt8 = "amxwide", true
	k.products[backend.Int8] = product{
		mr: amxWideRows, nr: amxColumns, rowWords: wideWords, prepare: narrowRoundedRow, spread: true,
		fetches: wideWords * fetchesAMXBF16, tile: tileAMXWide,
	}
	return k
}

// wideWords are the bfloat16 steps of a step of int8 weights.
const wideWords = backend.Int8Block

func tileAMXWide(t *tileArgs) {
	if t.wide == nil {
		t.wide = make([]float32, amxWideSteps*wideWords*amxColumns)
	}
	part, fetched := *t, 0
	for first := 0; first < t.steps; first += amxWideSteps {
		n := min(amxWideSteps, t.steps-first)
		widenInt8AVX2(&t.wide[0], &t.panel[first*int8Step*amxColumns], n)
		part.steps, part.add = n*wideWords, t.add || first > 0
		part.a, part.panel = t.a[first*wideWords:], t.wide
		part.ahead = t.ahead[min(fetched, len(t.ahead)-1):]
		tileAMXBF16(&part)
		fetched += part.steps * fetchesAMXBF16 * t.stride / 4
	}
}

// tilesUsable says whether this processor has tiles and this process may use them.
var tilesUsable = sync.OnceValue(func() bool {
	x := cpu.X86
	return x.HasAMXTile && x.HasAMXBF16 && x.HasAMXInt8 && x.HasOSXSAVE && tilesEnabled() && permitTiles()
})

// tilesEnabled says whether the system keeps the state of tiles.
func tilesEnabled() bool {
	const configAndData = 1<<17 | 1<<18
	return enabledStates()&configAndData == configAndData
}

// enabledStates returns the low half of XCR0: what is enabled of the processor's states.
func enabledStates() uint32
