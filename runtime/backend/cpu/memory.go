package cpu

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"
)

// memory is what weights lie in, and buffers that last. It is outside of Go's heap, for two reasons. Weights are
// read from one end to the other for each token, at the speed of the memory, of which
// looking up the address of every small page takes a tenth to a fifth; the system makes
// huge pages of memory that it was asked to before anybody touched it, which of a heap it
// seldom is. And a heap may grow to twice of what is in use before it is collected, which
// is too much where most of what is in use never changes.
//
// A matrix has whole pages to itself, which go back to the system when nobody refers to it
// any more, or when the backend is closed.
type memory struct {
	mu     sync.Mutex
	chunks []*chunk
	files  map[*byte][]byte // What maps files, by the first byte.
	used   int64            // Bytes in use, of chunks and of files.
	since  int64            // Bytes that were taken since the last collection.
	closed bool
}

// chunk is a mapping whose pages begin and end with huge ones.
type chunk struct {
	mapped []byte
	pages  []byte // The part of it that is aligned.
	free   []interval
}

const (
	hugePage = 2 << 20
	// Chunks have an eighth of what is in use, at most so much, and whole huge pages: what
	// of one is not used costs addresses, and at most a huge page.
	maxChunk = 64 << 20
	// Of what is not in Go's heap its collector does not know how much there is. So it is
	// run when an eighth of what is in use was taken since it ran, and at least so much.
	collectEach = 64 << 20
	// alignment of weights in floats: a cache line.
	alignment = 16
)

// span is a part of a chunk, in bytes; of no chunk where it is not memory's.
type span struct {
	chunk *chunk
	at    interval
}

// take returns n zeros and the span that they are, which is to be given back. Where the
// system gives no more, they are of Go's heap.
func (m *memory) take(n int) ([]float32, span) {
	if n <= 0 || n > maxFloats {
		return make([]float32, n), span{}
	}
	size := roundUp(4*n, os.Getpagesize())
	if m.wantsCollection(int64(size)) {
		runtime.GC()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.chunks {
		if words, at := c.take(size, n); words != nil {
			m.used += int64(size)
			return words, span{c, at}
		}
	}
	if m.closed {
		return make([]float32, n), span{}
	}
	c, err := newChunk(roundUp(max(size, min(int(m.used/8), maxChunk)), hugePage))
	if err != nil {
		return make([]float32, n), span{}
	}
	m.chunks = append(m.chunks, c)
	m.used += int64(size)
	words, at := c.take(size, n)
	return words, span{c, at}
}

// wantsCollection counts what is about to be taken.
func (m *memory) wantsCollection(size int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since += size; m.since < max(collectEach, m.used/8) {
		return false
	}
	m.since = 0
	return true
}

// newChunk maps so many bytes, a multiple of a huge page, that nobody has touched.
func newChunk(size int) (*chunk, error) {
	mapped, err := syscall.Mmap(-1, 0, size+hugePage, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	first := int(-uintptr(unsafe.Pointer(unsafe.SliceData(mapped))) & (hugePage - 1)) //nolint:gosec // An address' remainder.
	pages := mapped[first:][:size:size]
	adviseHuge(pages)
	return &chunk{mapped: mapped, pages: pages, free: []interval{{0, size}}}, nil
}

// take returns the first n floats of so many free bytes, and where they are; or nil.
func (c *chunk) take(size, n int) ([]float32, interval) {
	for i, f := range c.free {
		if f.to-f.from < size {
			continue
		}
		if c.free[i].from += size; c.free[i].from == f.to {
			c.free = slices.Delete(c.free, i, i+1)
		}
		words := unsafe.Slice((*float32)(unsafe.Pointer(&c.pages[f.from])), n) //nolint:gosec // Aligned to a page, and within the mapping.
		return words[:n:n], interval{f.from, f.from + size}
	}
	return nil, interval{}
}

// give gives a span back to the system. It holds zeros when it is taken again.
func (m *memory) give(s span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	c := s.chunk
	m.used -= int64(s.at.to - s.at.from)
	i, _ := slices.BinarySearchFunc(c.free, s.at, func(f, at interval) int { return f.from - at.from })
	c.free = slices.Insert(c.free, i, s.at)
	if i+1 < len(c.free) && c.free[i].to == c.free[i+1].from {
		c.free[i].to = c.free[i+1].to
		c.free = slices.Delete(c.free, i+1, i+2)
	}
	if i > 0 && c.free[i-1].to == c.free[i].from {
		c.free[i-1].to = c.free[i].to
		c.free = slices.Delete(c.free, i, i+1)
	}
	if c.free[0] == (interval{0, len(c.pages)}) {
		m.chunks = slices.DeleteFunc(m.chunks, func(other *chunk) bool { return other == c })
		_ = syscall.Munmap(c.mapped) // Nothing can be done about it, and nobody will use it.
		return
	}
	if syscall.Madvise(c.pages[s.at.from:s.at.to], syscall.MADV_DONTNEED) != nil {
		clear(c.pages[s.at.from:s.at.to])
	}
}

// adopt makes the mapping of a file memory's to unmap.
func (m *memory) adopt(mapped []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[*byte][]byte{}
	}
	m.files[&mapped[0]] = mapped
	m.used += int64(len(mapped))
}

// drop unmaps one.
func (m *memory) drop(first *byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mapped := m.files[first]; mapped != nil {
		delete(m.files, first)
		m.used -= int64(len(mapped))
		_ = syscall.Munmap(mapped) // As above.
	}
}

// inUse is how many bytes weights have.
func (m *memory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// close gives everything back. Nobody may use it any more.
func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, c := range m.chunks {
		_ = syscall.Munmap(c.mapped) // As above.
	}
	for _, mapped := range m.files {
		_ = syscall.Munmap(mapped)
	}
	m.chunks, m.files, m.used = nil, nil, 0
}

// newFloats allocates n zeros in Go's heap, in huge pages where there are such.
func newFloats(n int) []float32 {
	buffer := make([]float32, n)
	if 4*n >= hugePage {
		adviseHuge(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(buffer))), 4*n)) //nolint:gosec // The same memory.
	}
	return buffer
}
