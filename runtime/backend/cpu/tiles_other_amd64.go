//go:build !linux

package cpu

// permitTiles is not known here.
func permitTiles() bool { return false }
