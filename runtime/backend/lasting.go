package backend

// LastingAllocator is a backend that keeps apart what is allocated once and stays until its
// owner frees it: the cache of keys and values. It is optional.
type LastingAllocator interface {
	// AllocLasting is Alloc for such a buffer. It is not collected: who does not free it
	// keeps its memory for as long as the process runs.
	AllocLasting(t DType, n int) (Buffer, error)
}

// AllocLasting returns a buffer by a device's AllocLasting, or by Alloc where it has none.
func AllocLasting(d Device, t DType, n int) (Buffer, error) {
	if a, ok := d.(LastingAllocator); ok {
		return a.AllocLasting(t, n)
	}
	return d.Alloc(t, n)
}
