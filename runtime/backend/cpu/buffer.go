package cpu

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/check"
)

// cacheTypes are the types that buffers may have. Keys and values alone may be narrower
// than float32.
var cacheTypes = []backend.DType{backend.F32, backend.BF16}

// buffer is memory of the process: one of wide and half, or after Free none.
type buffer struct {
	elements
	words []float32 // The memory, as it was taken.
	part  bool      // Of another buffer, whose memory it is.
	at    span      // Where it is of Backend.lasting.
}

// elements are numbers as float32, or as bfloat16; the other is nil.
type elements struct {
	wide []float32
	half []uint16
}

// wordsOf is how many words n elements take.
func wordsOf(t backend.DType, n int) int {
	if t == backend.BF16 {
		return (n + 1) / 2
	}
	return n
}

// newBuffer makes a buffer of n elements of memory that has enough for them.
func newBuffer(t backend.DType, n int, words []float32, at span) *buffer {
	b := &buffer{words: words, at: at}
	if words == nil {
		b.words = []float32{}
	}
	if t == backend.BF16 {
		b.half = unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b.words))), n) //nolint:gosec // Half of the memory of as many words.
	} else {
		b.wide = b.words[:n]
	}
	return b
}

// bufferOf makes a buffer of float32 that are somewhere.
func bufferOf(data []float32) *buffer { return newBuffer(backend.F32, len(data), data, span{}) }

// Len implements backend.Buffer.
func (b *buffer) Len() int { return max(len(b.wide), len(b.half)) }

// Type implements backend.Buffer.
func (b *buffer) Type() backend.DType {
	if b.half != nil {
		return backend.BF16
	}
	return backend.F32
}

// isFreed reports that Free was called.
func (b *buffer) isFreed() bool { return b.wide == nil && b.half == nil }

// free returns the memory, which the buffer has no more.
func (b *buffer) free() []float32 {
	words := b.words
	b.elements, b.words = elements{}, nil
	return words
}

// Upload implements backend.Device.
func (b *Backend) Upload(dst backend.Buffer, src []float32) error {
	data, err := elementsOf("dst", dst, len(src))
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	b.copy(data, elements{wide: src})
	return nil
}

// Download implements backend.Device.
func (b *Backend) Download(dst []float32, src backend.Buffer) error {
	data, err := elementsOf("src", src, len(dst))
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	b.copy(elements{wide: dst}, data)
	return nil
}

// Copy implements backend.Device.
func (b *Backend) Copy(dst, src backend.Buffer) error {
	to, err := elementsOf("dst", dst, -1)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	from, err := elementsOf("src", src, length(dst))
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	b.copy(to, from)
	return nil
}

// copy copies as many elements as dst has, rounding where it is narrower.
func (b *Backend) copy(dst, src elements) {
	switch {
	case dst.half != nil && src.half != nil:
		copy(dst.half, src.half)
	case dst.half != nil:
		b.kernels.storeBF16(dst.half, src.wide)
	case src.half != nil:
		plainLoadBF16(dst.wide, src.half)
	default:
		copy(dst.wide, src.wide)
	}
}

// Zero implements backend.Device.
func (b *Backend) Zero(buf backend.Buffer) error {
	data, err := elementsOf("the buffer", buf, -1)
	if err != nil {
		return fmt.Errorf("zero: %w", err)
	}
	clear(data.wide)
	clear(data.half)
	return nil
}

// Rows implements backend.Device.
func (b *Backend) Rows(buf backend.Buffer, c, from, to int) (backend.Buffer, error) {
	data, err := elementsOf("the buffer", buf, -1)
	if err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	if err := check.Part(length(buf), c, from, to); err != nil {
		return nil, err
	}
	if data.half != nil {
		return &buffer{elements: elements{half: data.half[from*c : to*c : to*c]}, part: true}, nil
	}
	return &buffer{elements: elements{wide: data.wide[from*c : to*c : to*c]}, part: true}, nil
}

// length is b.Len() for a live buffer and 0 for nil.
func length(b backend.Buffer) int {
	if b == nil {
		return 0
	}
	return b.Len()
}

// elementsOf returns a buffer's elements, or an error when it is not this backend's, was
// freed, or does not hold want of them (any number if want is negative).
func elementsOf(name string, b backend.Buffer, want int) (elements, error) {
	own, ok := b.(*buffer)
	if !ok || own == nil || own.isFreed() {
		return elements{}, fmt.Errorf("%s is no live buffer of the cpu backend", name)
	}
	if want >= 0 && own.Len() != want {
		return elements{}, fmt.Errorf("%s has %d elements, want %d", name, own.Len(), want)
	}
	return own.elements, nil
}

// floats is elementsOf for what must be float32, which is all but keys and values.
func floats(name string, b backend.Buffer, want int) ([]float32, error) {
	data, err := elementsOf(name, b, want)
	if err != nil {
		return nil, err
	}
	if data.half != nil {
		return nil, fmt.Errorf("%s is stored as %s, and this takes %s: %w", name, backend.BF16, backend.F32, backend.ErrUnsupported)
	}
	return data.wide, nil
}

// operand is one buffer argument of an operation with the size it must have.
type operand struct {
	name string
	buf  backend.Buffer
	want int
}

// operands resolves several buffers at once; the error names the operation.
func operands(op string, args ...operand) ([][]float32, error) {
	out := make([][]float32, len(args))
	for i, a := range args {
		data, err := floats(a.name, a.buf, a.want)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		out[i] = data
	}
	return out, nil
}

// sameStorage resolves buffers that may be of any type, but of one.
func sameStorage(op string, args ...operand) ([]elements, error) {
	out := make([]elements, len(args))
	for i, a := range args {
		data, err := elementsOf(a.name, a.buf, a.want)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		if first := args[0]; a.buf.Type() != first.buf.Type() {
			return nil, fmt.Errorf("%s: %s is stored as %s, and %s as %s: %w", op, a.name, a.buf.Type(), first.name, first.buf.Type(), backend.ErrUnsupported)
		}
		out[i] = data
	}
	return out, nil
}

// Take implements backend.Device.
func (b *Backend) Take(buf backend.Buffer) ([]float32, error) {
	data, err := elementsOf("the buffer", buf, -1)
	if err != nil {
		return nil, fmt.Errorf("take: %w", err)
	}
	own := buf.(*buffer) //nolint:forcetypeassert // elementsOf has looked.
	switch {
	case own.part:
		return nil, fmt.Errorf("take: the buffer is a part of another")
	case data.half != nil:
		wide := make([]float32, len(data.half))
		plainLoadBF16(wide, data.half)
		b.Free(own)
		return wide, nil
	case own.at.chunk != nil:
		wide := slices.Clone(data.wide)
		b.Free(own)
		return wide, nil
	}
	words := own.free()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= cap(words)
	return data.wide, nil
}
