//go:build !amd64

package svd

func multiplyTile(tile *[tileRows * tileColumns]float64, a, b []float64, depth int) {
	plainTile(tile, a, b, depth)
}
