//go:build !linux

package cpu

// adviseHuge has nothing to ask for.
func adviseHuge([]byte) {}
