package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
)

// mapping is a file in memory: its pages are read when they are touched, are
// shared by all processes that serve the same model, and cost nothing that the
// kernel could not take back.
type mapping struct {
	mu    sync.RWMutex // Held for reading while the pages are used.
	bytes []byte       // nil when it is closed.
}

// mapFile maps a file of size bytes, read-only.
func mapFile(f *os.File, size int64) (*mapping, error) {
	if size <= 0 || size > math.MaxInt {
		return nil, fmt.Errorf("mapping %d bytes: %w", size, syscall.EINVAL)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &mapping{bytes: b}, nil
}

// errVanished says that pages which were there when the file was opened are
// not there any more.
var errVanished = errors.New("the file was shortened, or its disk failed, while it was read")

// with calls use with size bytes from offset on. The kernel ends a process that
// touches a page past the end of a file; here it is an error instead.
func (m *mapping) with(offset, size int64, use func([]byte) error) (err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.bytes == nil {
		return errors.New("the file is closed")
	}
	if offset < 0 || size < 0 || offset > int64(len(m.bytes))-size {
		return fmt.Errorf("%d bytes at %d of %d: %w", size, offset, len(m.bytes), io.ErrUnexpectedEOF)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); isFault(r) {
			err = errVanished
		} else if r != nil {
			panic(r)
		}
	}()
	return use(m.bytes[offset : offset+size])
}

// isFault reports whether a panic is the runtime's for memory that is not there.
// It says where, but not under every emulator of another processor.
func isFault(r any) bool {
	if _, ok := r.(interface{ Addr() uintptr }); ok {
		return true
	}
	fault, ok := r.(runtime.Error)
	return ok && strings.Contains(fault.Error(), "invalid memory address")
}

// ReadAt implements io.ReaderAt.
func (m *mapping) ReadAt(p []byte, offset int64) (n int, err error) {
	err = m.with(offset, int64(len(p)), func(b []byte) error {
		n = copy(p, b)
		return nil
	})
	return n, err
}

// Close unmaps the file, once nobody uses it.
func (m *mapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bytes == nil {
		return nil
	}
	b := m.bytes
	m.bytes = nil
	return os.NewSyscallError("munmap", syscall.Munmap(b))
}
