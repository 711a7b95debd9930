package backend

// Memory is what the buffers of an arena come from: the backend.
type Memory interface {
	Alloc(t DType, n int) (Buffer, error)
	Free(b Buffer)
}

// tracking is an Arena that remembers what is allocated.
type tracking struct {
	memory Memory
	live   map[Buffer]struct{}
}

// NewArena returns an arena whose buffers come from memory one by one, for backends
// whose memory is reused well enough as it is.
func NewArena(memory Memory) Arena {
	return &tracking{memory: memory, live: map[Buffer]struct{}{}}
}

// Alloc implements Arena.
func (a *tracking) Alloc(t DType, n int) (Buffer, error) {
	b, err := a.memory.Alloc(t, n)
	if err == nil {
		a.Adopt(b)
	}
	return b, err
}

// Free implements Arena.
func (a *tracking) Free(b Buffer) {
	a.Release(b)
	a.memory.Free(b)
}

// Adopt implements Arena.
func (a *tracking) Adopt(b Buffer) { a.live[b] = struct{}{} }

// Release implements Arena.
func (a *tracking) Release(b Buffer) { delete(a.live, b) }

// Reset implements Arena.
func (a *tracking) Reset() {
	for b := range a.live {
		a.memory.Free(b)
	}
	clear(a.live)
}
