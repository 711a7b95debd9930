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
// A step that is recorded is a list of commands until it ends; then the driver captures
// all of them at once, so that what others queue meanwhile is not among them. Its buffers
// have memory of their own. What goes between the host and the device is staged in pinned
// memory, so that the device copies while the host goes on.
//
// Memory that is freed is kept by size. What is reserved for steps is divided, and
// becomes one piece again.
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
//
// On compute capability 9.0 some kernels have twins that only it runs. Opening a device
// compares and times them (hopper.go): those with the same bits are used for everything,
// those with other last bits for composing alone, since which kernel a product takes
// depends on how many rows it has, and Capabilities.RowInvariant promises that their bits
// do not. Describe says what was decided, and Options.Hopper overrides the measurement.
//
// Where Options ask for them, cuBLAS computes products of many rows and composes, and
// cuSOLVER decomposes (package cumath finds them). Both work in the one stream; what
// cuBLAS needs to work in is allocated with it.
package cuda
