package cpu

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// yield lets others have the calling thread's processor if they wait for it.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// processor returns the one that the calling thread runs on, or nowhere if the system
// does not tell.
func processor() int32 {
	var n uint32
	if _, _, err := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&n)), 0, 0); err != 0 { //nolint:gosec // As the system call takes it.
		return nowhere
	}
	return int32(n)
}

// moveAway moves the calling thread to a processor that is not in taken, if it may
// run on any. It may run where it could before.
func moveAway(taken []int32) {
	// A thread that the Go runtime starts meanwhile does not inherit what this one may
	// use: a locked thread has another start it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return
	}
	free := allowed
	for _, n := range taken {
		free.Clear(int(n))
	}
	if free.Count() == 0 || unix.SchedSetaffinity(0, &free) != nil {
		return
	}
	_ = unix.SchedSetaffinity(0, &allowed)
}
