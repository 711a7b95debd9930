package svd

import "golang.org/x/sys/cpu"

var (
	hasAVX512 = cpu.X86.HasAVX512F
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA
)

// tileAVX512 and tileAVX2 compute tile [8, 16] = Σ over depth of a's column
// [8] times b's row [16].
//
//go:noescape
func tileAVX512(tile, a, b *float64, depth int)

//go:noescape
func tileAVX2(tile, a, b *float64, depth int)

func multiplyTile(tile *[tileRows * tileColumns]float64, a, b []float64, depth int) {
	switch {
	case hasAVX512:
		tileAVX512(&tile[0], &a[0], &b[0], depth)
	case hasAVX2:
		tileAVX2(&tile[0], &a[0], &b[0], depth)
	default:
		plainTile(tile, a, b, depth)
	}
}
