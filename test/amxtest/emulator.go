//go:build linux && amd64 && cgo

package amxtest

/*
#cgo CFLAGS: -O2
#include "emulator.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// Install makes the instructions on tiles work in this process from now on. It fails where
// the processor has them, or lacks AVX2, with which they are emulated.
var Install = sync.OnceValue(func() error {
	switch {
	case cpu.X86.HasAMXTile:
		return errors.New("this processor has tiles of its own")
	case !cpu.X86.HasAVX2 || !cpu.X86.HasFMA:
		return errors.New("this processor lacks AVX2, with which tiles are emulated")
	}
	if errno := C.amxtest_install(); errno != 0 {
		return fmt.Errorf("catching illegal instructions: %w", syscall.Errno(errno))
	}
	return nil
})

// Executed is how many instructions were carried out.
func Executed() uint64 { return uint64(C.amxtest_executed()) }

// Live says whether the calling thread has tiles that are configured.
func Live() bool { return C.amxtest_live() != 0 }

// Faults returns what was wrong since it was last called, which a processor would have
// answered with a fault; such instructions did nothing.
func Faults() []string {
	buffer := make([]byte, 8192)
	n := C.amxtest_faults((*C.char)(unsafe.Pointer(&buffer[0])), C.size_t(len(buffer)))
	if n == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(buffer[:n]), "\n"), "\n")
}

// Call executes code that ends by returning, with these arguments in the registers DI, SI,
// DX, CX, R8 and R9.
func Call(code []byte, arguments [6]uintptr) error {
	if errno := C.amxtest_call(unsafe.Pointer(&code[0]), C.size_t(len(code)), (*C.uintptr_t)(unsafe.Pointer(&arguments[0]))); errno != 0 {
		return fmt.Errorf("calling code: %w", syscall.Errno(errno))
	}
	return nil
}
