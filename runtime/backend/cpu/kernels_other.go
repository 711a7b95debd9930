//go:build !amd64

package cpu

// accelerated returns the paths beyond plain Go, best first: none here yet.
func accelerated() []*kernels { return nil }
