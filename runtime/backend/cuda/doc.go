// Package cuda computes on an NVIDIA GPU: the project's own kernels (package kernels),
// launched through the driver by gorgonia.org/cu, and where that lacks something by a
// small file of ours (driver.go). It is built with the tag cuda, for the binary
// t2-cuda; without it the package is this text.
//
// One goroutine, locked to its OS thread, owns the device: the context, one stream, and
// every call of the driver. Operations check their operands where they are called and
// are queued for it; what goes wrong with one is told by the next call that waits, as on
// the device itself. All work is in the order of that queue, so that memory which is
// freed can be given out again at once.
//
// Buffers and tables are float32, bfloat16 or int32 elements behind each other. A weight
// is row-major with rows of a multiple of 64 elements, filled up with zeros; int8 weights
// have their scales apart. What a backward product multiplies with is a transposed copy,
// made when it is first needed.
//
// Activations are stored as float32 or as bfloat16, and computed with in float32. An
// operation runs the kernel of what its operands are stored as; one that reads one type
// and writes the other, or has a cache that is narrower, is one of the few that package
// backend names (storage.go).
package cuda
