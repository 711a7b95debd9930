// Package cpu computes on the processor, in float32, without cgo. It is the
// specification of package backend and at the same time the fast CPU path:
// matrix products and the transcendental functions run in AVX-512 or AVX2
// kernels where the processor has them, and in plain Go elsewhere. Weights may be
// bfloat16 or int8 (backend.DType), to read less memory, and where the
// processor multiplies them as such (AVX-512 BF16 and VNNI) to compute less. They lie
// outside of Go's heap, in memory of this process or in files that several map
// (backend.Sharer).
//
// Which path computes is measured when the first backend is opened, in at most some tens of
// milliseconds, and remembered in the user's cache folder; see choose.go. The environment
// variable T2_CPU (plain, avx2, avx512, avx512bf16, amx or amxwide) forces one, for tests, for comparing
// machines, and where all of them are to compute the same bits; T2_CPU=flags takes the first
// of Paths without measuring. Results are the same on every run of
// one path, whatever the number of threads; between paths they differ by rounding.
// The paths avx512bf16, amx and amxwide take subnormal numbers in products with bfloat16
// weights for zero, because their instructions do; avx512bf16 is avx512 in all other
// respects, and amxwide is amx, but for products with int8 weights, which it takes for
// bfloat16 (backend.Capabilities.WidenedInt8).
package cpu

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/transformersquared/operator/runtime/backend"
)

// EnvPath names the environment variable that forces an instruction path.
const EnvPath = "T2_CPU"

// freelyHeld is how many elements buffers may hold, in use and freed together,
// before freed ones make room for new ones: 64 Mi, so 256 MiB. More is held only
// where about as much has been in use at once. A training step needs the same
// gigabytes again and again, and new memory costs a quarter of the step's time.
const freelyHeld = 64 << 20

// maxFloats bounds one buffer: 4 TiB, past which Go's runtime would panic sooner
// or later instead of failing.
const maxFloats = 1 << 40

var errClosed = errors.New("the cpu backend is closed")

// Backend is a backend.Backend on the processor.
type Backend struct {
	pool      *pool
	kernels   *kernels
	choice    choice    // Of kernels.
	tilers    sync.Pool // Of *tiler.
	gradients sync.Pool // Of *gradientMemory.
	scores    sync.Pool // Of *scoreMemory.
	choosers  sync.Pool // Of *sample.Chooser.
	weights   *memory
	lasting   *memory                 // Of buffers that their owners free; it is not closed.
	shared    atomic.Pointer[sharing] // nil where weights are this process's own.
	// Held for reading while weights are used, and for good once the backend is closed.
	life sync.RWMutex
	last atomic.Pointer[successor] // Of the products that it was at last.

	mu     sync.Mutex
	closed bool
	idle   map[int][][]float32 // By capacity.
	held   int                 // Elements in idle.
	used   int                 // Elements of buffers that are not freed.
	most   int                 // That used ever was.
}

var _ backend.Backend = (*Backend)(nil)

// New starts a backend with this many threads: the caller's goroutine and
// threads−1 workers, which sleep when there is nothing to do. Zero or less
// means as many as GOMAXPROCS. It fails when EnvPath names a path that does not
// exist or that this processor lacks.
func New(threads int) (*Backend, error) {
	return newWithPath(threads, os.Getenv(EnvPath))
}

func newWithPath(threads int, path string) (*Backend, error) {
	c, err := choosePath(path)
	if err != nil {
		return nil, err
	}
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	b := newWithKernels(threads, c.kernels)
	b.choice = c
	return b, nil
}

func newWithKernels(threads int, k *kernels) *Backend {
	b := &Backend{pool: newPool(threads), kernels: k, weights: &memory{}, lasting: &memory{}, idle: map[int][][]float32{}}
	runtime.AddCleanup(b, (*memory).close, b.weights) // Of who forgets to.
	return b
}

// Name implements backend.Device.
func (b *Backend) Name() string {
	return fmt.Sprintf("cpu (%s, %d threads)", b.kernels.name, b.pool.threads)
}

// Capabilities implements backend.Device.
func (b *Backend) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Backward: true, RowInvariant: true, RowInvariantBackward: true,
		OrderedSums: !b.kernels.ownOrder, WidenedInt8: b.kernels.widenedInt8, Storage: []backend.DType{backend.F32}, Cache: cacheTypes,
	}
}

// Memory implements backend.Device. What the machine has is shared with others, so
// nothing is said of it.
func (b *Backend) Memory() backend.MemoryInfo {
	const float = 4
	b.mu.Lock()
	defer b.mu.Unlock()
	return backend.MemoryInfo{Used: float*int64(b.used) + b.weights.inUse() + b.lasting.inUse()}
}

// Sync implements backend.Device: every operation is done when it returns.
func (b *Backend) Sync() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	return nil
}

// enter begins to use weights; what is returned ends it. It fails once the backend is
// closed, as their memory is gone.
func (b *Backend) enter() (leave func(), err error) {
	// Nobody but Close ever wants it for writing.
	if !b.life.TryRLock() {
		return nil, errClosed
	}
	return b.life.RUnlock, nil
}

// Close implements backend.Device. It waits for the workers, and for what uses weights,
// to end.
func (b *Backend) Close() error {
	b.mu.Lock()
	already := b.closed
	b.closed = true
	b.idle = nil
	b.held = 0
	b.mu.Unlock()
	if already {
		return nil
	}
	b.pool.close()
	b.life.Lock() // For good.
	b.weights.close()
	return b.shared.Load().close()
}

// allocatable refuses buffers that there are none of.
func allocatable(t backend.DType, n int) error {
	if !slices.Contains(cacheTypes, t) {
		return fmt.Errorf("allocate %d elements of type %s: %w", n, t, backend.ErrUnsupported)
	}
	if n < 0 || n > maxFloats {
		return fmt.Errorf("allocate %d elements: not between 0 and %d", n, maxFloats)
	}
	return nil
}

// AllocLasting implements backend.LastingAllocator. The buffer is outside of Go's heap, as
// weights are, which its collector would let grow by as much again.
func (b *Backend) AllocLasting(t backend.DType, n int) (backend.Buffer, error) {
	if err := allocatable(t, n); err != nil {
		return nil, err
	}
	if err := b.Sync(); err != nil {
		return nil, err
	}
	words, at := b.lasting.take(wordsOf(t, n))
	if at.chunk == nil {
		if err := b.count(cap(words)); err != nil {
			return nil, err
		}
	}
	return newBuffer(t, n, words, at), nil
}

// Alloc implements backend.Device.
func (b *Backend) Alloc(t backend.DType, n int) (backend.Buffer, error) {
	if err := allocatable(t, n); err != nil {
		return nil, err
	}
	capacity := sizeClass(wordsOf(t, n))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	b.used += capacity
	b.most = max(b.most, b.used)
	if free := b.idle[capacity]; len(free) > 0 {
		data := free[len(free)-1]
		b.idle[capacity] = free[:len(free)-1]
		b.held -= capacity
		return newBuffer(t, n, data, span{}), nil
	}
	b.makeRoom()
	return newBuffer(t, n, newFloats(capacity), span{}), nil
}

// holdable is how many elements may be held. It is an eighth more than was in use
// at once, because a step's buffers are not all in use when most are: if each of its
// phases had to make room for the next one's, all memory would be new in each layer.
func (b *Backend) holdable() int { return max(b.most+b.most/8, freelyHeld) }

// makeRoom leaves freed buffers to Go's collector until no more is held than may be.
func (b *Backend) makeRoom() {
	for capacity, free := range b.idle {
		for len(free) > 0 && b.used+b.held > b.holdable() {
			free[len(free)-1] = nil
			free = free[:len(free)-1]
			b.held -= capacity
		}
		b.idle[capacity] = free
	}
}

// Free implements backend.Device.
func (b *Backend) Free(buf backend.Buffer) {
	own, ok := buf.(*buffer)
	if !ok || own == nil || own.isFreed() {
		return
	}
	data := own.free()
	if own.part {
		return
	}
	if own.at.chunk != nil {
		b.lasting.give(own.at)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.used -= cap(data)
	if sizeClass(cap(data)) != cap(data) {
		return // Was given, and no Alloc would find it.
	}
	b.held += cap(data)
	b.idle[cap(data)] = append(b.idle[cap(data)], data)
}

// Give implements backend.Device.
func (b *Backend) Give(data []float32) (backend.Buffer, error) {
	if err := b.count(cap(data)); err != nil {
		return nil, err
	}
	return bufferOf(data), nil
}

// count counts words that a buffer gets without Alloc.
func (b *Backend) count(words int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	b.used += words
	b.most = max(b.most, b.used)
	return nil
}

// sizeClass rounds up to one of four capacities an octave, so that buffers of
// slightly different batches reuse each other's memory.
func sizeClass(n int) int {
	const smallest = 64
	if n <= smallest {
		return smallest
	}
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n + step - 1) / step * step
}
