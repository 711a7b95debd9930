package cpu

import "sync"

// arena hands out memory for weights. They are read from one end to the other for
// each token, at the speed of the memory, of which looking up the address of every
// small page takes a tenth to a fifth. So weights lie close together in chunks that
// the system is asked to keep in huge pages. A chunk is garbage when no weight in
// it is used any more.
type arena struct {
	mu    sync.Mutex
	rest  []float32 // Of the newest chunk.
	total int       // Floats handed out.
}

const (
	hugePage = 2 << 20
	// Chunks have a sixteenth of what was handed out before, within these bounds:
	// little is left over, and a large model has few.
	minChunk = 64 << 10 // Floats.
	maxChunk = 8 << 20
	// alignment of weights in floats: a cache line.
	alignment = 16
)

// floats returns n zeros.
func (a *arena) floats(n int) []float32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := roundUp(n, alignment)
	a.total += size
	chunk := min(max(a.total/16, minChunk), maxChunk)
	switch {
	case size <= len(a.rest):
	case size > chunk/8:
		return newChunk(size)[:n:n] // Little is left at the end of a chunk.
	default:
		a.rest = newChunk(chunk)
	}
	out := a.rest[:n:n]
	a.rest = a.rest[size:]
	return out
}

// handedOut is how many floats weights have been given. What the collector has freed
// since counts, too.
func (a *arena) handedOut() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int64(a.total)
}

// newChunk allocates n floats, in huge pages where there are such.
func newChunk(n int) []float32 {
	chunk := make([]float32, n)
	if 4*n >= hugePage {
		adviseHuge(chunk)
	}
	return chunk
}
