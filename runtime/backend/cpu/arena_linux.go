package cpu

import (
	"syscall"
	"unsafe"
)

// adviseHuge asks for huge pages in memory that has not been written to. That the
// system declines does no harm.
func adviseHuge(memory []float32) {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(memory))), 4*len(memory)) //nolint:gosec // The same memory, as the system call takes it.
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(bytes)))) & (hugePage - 1)         //nolint:gosec // Its address, rounded up.
	whole := (len(bytes) - skip) &^ (hugePage - 1)
	if whole > 0 {
		_ = syscall.Madvise(bytes[skip:][:whole], syscall.MADV_HUGEPAGE)
	}
}
