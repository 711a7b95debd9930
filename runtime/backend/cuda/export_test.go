//go:build cuda

package cuda

// Allocations is how often the device was ever asked for memory.
func (b *Backend) Allocations() int64 { return b.memory.allocations.Load() }
