package cpu

import (
	"runtime"
	"syscall"
	"unsafe"
)

// adviseHuge asks for huge pages in memory that has not been written to, and in what
// else lies in those where it begins and ends: most buffers are little larger than a
// huge page, and few have a whole one to themselves. That the system declines does no
// harm.
func adviseHuge(memory []byte) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(memory))) //nolint:gosec // As the system call takes it.
	end := start + uintptr(len(memory))
	start &^= hugePage - 1
	end = (end + hugePage - 1) &^ (hugePage - 1)
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, start, end-start, syscall.MADV_HUGEPAGE)
	runtime.KeepAlive(memory)
}
