package cpu

import "syscall"

// permitTiles asks the system for the state of tiles, which Linux gives to processes that
// ask for it alone, for all of their threads. Where it refuses, because a thread's stack
// for signals is too small for that state or because somebody forbids it, there are no
// tiles.
func permitTiles() bool {
	const (
		requestPermission = 0x1023 // ARCH_REQ_XCOMP_PERM.
		tileData          = 18     // The state's number.
	)
	_, _, errno := syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, requestPermission, tileData, 0)
	return errno == 0
}
