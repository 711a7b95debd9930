//go:build !cuda

package registry

// devices are the backends beside the processor's: none in a binary without cgo.
var devices []entry
