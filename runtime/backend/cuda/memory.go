//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// memory gives out device memory, and keeps what is freed for the next who needs as
// much. All work is in the order of one queue, so that it can be given out at once.
type memory struct {
	owner *owner
	limit int64 // 0 is what the device has.

	mu    sync.Mutex
	idle  map[int64][]address // By size.
	all   map[address]int64   // Sizes of all that the device has given.
	held  int64               // Bytes in idle.
	used  int64
	total int64 // Of the device.

	allocations atomic.Int64 // That the device was ever asked for.
}

func newMemory(o *owner, limit, total int64) *memory {
	return &memory{owner: o, limit: limit, total: total, idle: map[int64][]address{}, all: map[address]int64{}}
}

// block is a piece of memory.
type block struct {
	at   address
	size int64
	home home // Where it goes back to.
}

type home interface{ give(b block) }

const (
	smallestBlock = 256
	maxBlock      = 1 << 42
)

// sizeClass rounds up to one of eight sizes an octave.
func sizeClass(n int64) int64 {
	if n <= smallestBlock {
		return smallestBlock
	}
	step := int64(1) << max(8, bits.Len64(uint64(n-1))-4)
	return (n + step - 1) / step * step
}

// take returns so many bytes at least, with undefined contents.
func (m *memory) take(bytes int64) (block, error) {
	if bytes < 0 || bytes > maxBlock {
		return block{}, fmt.Errorf("allocate %d bytes on the device: not between 0 and %d", bytes, int64(maxBlock))
	}
	size := sizeClass(bytes)
	m.mu.Lock()
	if free := m.idle[size]; len(free) > 0 {
		at := free[len(free)-1]
		m.idle[size] = free[:len(free)-1]
		m.held -= size
		m.used += size
		m.mu.Unlock()
		return block{at, size, m}, nil
	}
	full := m.limit > 0 && m.used+m.held+size > m.limit
	m.mu.Unlock()
	if full {
		if err := m.releaseIdle(); err != nil {
			return block{}, err
		}
	}
	at, err := m.allocate(size)
	if errors.Is(err, backend.ErrDeviceMemory) {
		if released := m.releaseIdle(); released != nil {
			return block{}, released
		}
		at, err = m.allocate(size)
	}
	if err != nil {
		return block{}, err
	}
	m.mu.Lock()
	m.used += size
	m.mu.Unlock()
	return block{at, size, m}, nil
}

func (m *memory) allocate(size int64) (at address, err error) {
	m.mu.Lock()
	used, held := m.used, m.held
	m.mu.Unlock()
	if m.limit > 0 && used+held+size > m.limit {
		return 0, fmt.Errorf("%w: %d bytes more are needed, and %d of the %d allowed are in use", backend.ErrDeviceMemory, size, used, m.limit)
	}
	m.allocations.Add(1)
	err = m.owner.now(func() error {
		p, err := cu.MemAlloc(size)
		at = address(p)
		return of("cuMemAlloc", err)
	})
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.all[at] = size
	}
	if errors.Is(err, backend.ErrDeviceMemory) {
		return 0, fmt.Errorf("%d bytes more are needed, and %d of %d are in use here: %w", size, used, m.total, err)
	}
	return at, err
}

// give returns a block.
func (m *memory) give(b block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= b.size
	m.held += b.size
	m.idle[b.size] = append(m.idle[b.size], b.at)
}

// releaseIdle gives what is not in use back to the device.
func (m *memory) releaseIdle() error {
	m.mu.Lock()
	idle := m.idle
	m.idle = map[int64][]address{}
	m.held = 0
	for _, list := range idle {
		for _, at := range list {
			delete(m.all, at)
		}
	}
	m.mu.Unlock()
	return m.owner.now(func() error {
		if err := m.owner.stream.Synchronize(); err != nil {
			return of("cuStreamSynchronize", err)
		}
		var errs []error
		for _, list := range idle {
			for _, at := range list {
				errs = append(errs, of("cuMemFree", cu.MemFree(cu.DevicePtr(at))))
			}
		}
		return errors.Join(errs...)
	})
}

// releaseAll gives everything back, in use or not. It runs on the owner, at its end.
func (m *memory) releaseAll() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for at := range m.all {
		errs = append(errs, of("cuMemFree", cu.MemFree(cu.DevicePtr(at))))
	}
	m.all, m.idle = nil, map[int64][]address{}
	return errors.Join(errs...)
}

// held is a block that is given back once: when it is freed, or when nobody has it any
// more.
type held struct{ giver *giver }

type giver struct {
	once  sync.Once
	to    home
	block block
}

func (g *giver) give() { g.once.Do(func() { g.to.give(g.block) }) }

// pool is where blocks come from.
type pool interface {
	take(bytes int64) (block, error)
}

// hold takes a block of the device's memory and gives it back when nobody has it any
// more; holdStep takes one that a step needs, of what was reserved for steps.
func (b *Backend) hold(bytes int64) (*held, error) {
	if b.recording != nil {
		return b.recording.memory.hold(bytes)
	}
	return hold(b.memory, nil, bytes)
}

func (b *Backend) holdStep(bytes int64) (*held, error) {
	if b.recording != nil {
		return b.recording.memory.hold(bytes)
	}
	return hold(b.device, nil, bytes)
}

// hold takes a block and gives it back to a home, or else to its own.
func hold(from pool, to home, bytes int64) (*held, error) {
	taken, err := from.take(bytes)
	if err != nil {
		return nil, err
	}
	if to == nil {
		to = taken.home
	}
	h := &held{giver: &giver{to: to, block: taken}}
	runtime.AddCleanup(h, (*giver).give, h.giver)
	return h, nil
}

func (h *held) at() address { return h.giver.block.at }

// buffer is a backend.Buffer. The block of a part is that of the whole.
type buffer struct {
	kind  backend.DType
	n     int
	start address
	block *held // nil after Free.
	part  bool
}

// Len implements backend.Buffer.
func (b *buffer) Len() int { return b.n }

// Type implements backend.Buffer.
func (b *buffer) Type() backend.DType { return b.kind }

func (b *buffer) bytes() int64 { return b.kind.Bytes(1, b.n) }

// Alloc implements backend.Device.
func (b *Backend) Alloc(t backend.DType, n int) (backend.Buffer, error) {
	buf, err := b.alloc(t, n)
	if err != nil {
		return nil, err
	}
	return buf, nil
}

func (b *Backend) alloc(t backend.DType, n int) (*buffer, error) { return allocate(b.hold, t, n) }

// allocStep is alloc of what a step needs.
func (b *Backend) allocStep(t backend.DType, n int) (*buffer, error) {
	return allocate(b.holdStep, t, n)
}

func allocate(hold func(bytes int64) (*held, error), t backend.DType, n int) (*buffer, error) {
	if !slices.Contains(storage, t) {
		return nil, fmt.Errorf("allocate %d elements of type %s: %w", n, t, backend.ErrUnsupported)
	}
	if n < 0 {
		return nil, fmt.Errorf("allocate %d elements", n)
	}
	block, err := hold(t.Bytes(1, n))
	if err != nil {
		return nil, err
	}
	return &buffer{kind: t, n: n, start: block.at(), block: block}, nil
}

// Free implements backend.Device.
func (b *Backend) Free(buf backend.Buffer) {
	own, ok := buf.(*buffer)
	if !ok || own == nil || own.block == nil {
		return
	}
	block := own.block
	own.block = nil
	if !own.part {
		block.giver.give()
	}
}

// Rows implements backend.Device.
func (b *Backend) Rows(buf backend.Buffer, c, from, to int) (backend.Buffer, error) {
	own, err := owned("the buffer", buf, -1)
	if err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	if err := check.Part(own.n, c, from, to); err != nil {
		return nil, err
	}
	return &buffer{
		kind: own.kind, n: (to - from) * c, start: own.start + address(own.kind.Bytes(1, from*c)), block: own.block, part: true,
	}, nil
}

// owned returns a live buffer of this backend with so many elements (any number if want
// is negative).
func owned(name string, b backend.Buffer, want int) (*buffer, error) {
	own, ok := b.(*buffer)
	if !ok || own == nil || own.block == nil {
		return nil, fmt.Errorf("%s is no live buffer of the cuda backend", name)
	}
	if want >= 0 && own.n != want {
		return nil, fmt.Errorf("%s has %d elements, want %d", name, own.n, want)
	}
	return own, nil
}

// operand is one buffer of an operation with the size it must have.
type operand struct {
	name string
	buf  backend.Buffer
	want int
}

// resolved are the buffers of an operation, in its operands' order: not allocated for
// each call.
type resolved [maxOperands]*buffer

const maxOperands = 9

// operands resolves buffers that an operation reads and writes as float32, whatever
// activations are stored as.
func operands(op string, args ...operand) (out resolved, err error) {
	for i, a := range args {
		own, err := owned(a.name, a.buf, a.want)
		if err != nil {
			return out, fmt.Errorf("%s: %w", op, err)
		}
		if own.kind != backend.F32 {
			return out, fmt.Errorf("%s: %s is stored as %s, and must be f32: %w", op, a.name, own.kind, backend.ErrUnsupported)
		}
		out[i] = own
	}
	return out, nil
}

// length is b.Len() for a buffer and 0 for nil.
func length(b backend.Buffer) int {
	if b == nil {
		return 0
	}
	return b.Len()
}

// Upload implements backend.Device.
func (b *Backend) Upload(dst backend.Buffer, src []float32) error {
	args, err := activations("upload", operand{"dst", dst, len(src)})
	if err != nil {
		return err
	}
	return b.uploadAs(args[0], src)
}

// Download implements backend.Device.
func (b *Backend) Download(dst []float32, src backend.Buffer) error {
	args, err := activations("download", operand{"src", src, len(dst)})
	if err != nil {
		return err
	}
	return b.downloadAs(dst, args[0])
}

// toDevice copies behind all that was queued. It waits until it has read what it copies,
// and not for the device.
func (b *Backend) toDevice(dst address, src unsafe.Pointer, bytes int64) error {
	return b.now(func() error { return b.owner.copyUp(dst, src, bytes) })
}

// upload is toDevice of all elements of a slice, and download the opposite.
func upload[T any](b *Backend, dst address, src []T) error {
	var one T
	return b.toDevice(dst, elements(src), int64(len(src))*int64(unsafe.Sizeof(one)))
}

func download[T any](b *Backend, dst []T, src address) error {
	if len(dst) == 0 {
		return b.Sync()
	}
	return b.toHost([]piece{pieceOf(dst, src)})
}

// stage is toDevice of bytes that nobody changes any more; it waits for nothing.
func (b *Backend) stage(dst address, bytes []byte) error {
	return b.fromHost(func() error { return b.owner.copyUp(dst, elements(bytes), int64(len(bytes))) })
}

// toHost copies behind all that was queued, and waits once for all of it.
func (b *Backend) toHost(pieces []piece) error {
	return b.now(func() error { return b.owner.copyDown(pieces) })
}

// Take implements backend.Device.
func (b *Backend) Take(buf backend.Buffer) ([]float32, error) {
	own, err := owned("the buffer", buf, -1)
	if err != nil {
		return nil, fmt.Errorf("take: %w", err)
	}
	if own.part {
		return nil, errors.New("take: the buffer is a part of another")
	}
	data := make([]float32, own.n)
	if err := b.Download(data, buf); err != nil {
		return nil, err
	}
	b.Free(buf)
	return data, nil
}

// Give implements backend.Device.
func (b *Backend) Give(data []float32) (backend.Buffer, error) {
	buf, err := b.Alloc(backend.F32, len(data))
	if err != nil {
		return nil, err
	}
	if err := b.Upload(buf, data); err != nil {
		b.Free(buf)
		return nil, err
	}
	return buf, nil
}

// Copy implements backend.Device.
func (b *Backend) Copy(dst, src backend.Buffer) error {
	y, err := owned("dst", dst, -1)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	x, err := owned("src", src, y.n)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if x.kind != y.kind {
		return b.convert(y, x)
	}
	if y.n == 0 {
		return nil
	}
	to, from, bytes := cu.DevicePtr(y.start), cu.DevicePtr(x.start), y.bytes()
	return b.later(func() error { return of("cuMemcpyDtoDAsync", cu.MemcpyDtoDAsync(to, from, bytes, b.owner.stream)) })
}

// Zero implements backend.Device.
func (b *Backend) Zero(buf backend.Buffer) error {
	own, err := owned("the buffer", buf, -1)
	if err != nil {
		return fmt.Errorf("zero: %w", err)
	}
	return b.clear(own.start, own.bytes())
}

func (b *Backend) clear(at address, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	return b.later(func() error {
		return of("cuMemsetD8Async", cu.MemsetD8Async(cu.DevicePtr(at), 0, bytes, b.owner.stream))
	})
}
