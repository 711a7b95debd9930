package judge

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock is used by its system calls: the one Go library for it confines all
// threads of a process, by a C library where cgo is on, and we need one thread
// before an execve.

// landlockVersion returns the version of the kernel's interface, 0 where there
// is none.
func landlockVersion() int {
	version, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// Rights that files and folders of the interpreter's get.
const (
	landlockRead    = unix.LANDLOCK_ACCESS_FS_READ_FILE
	landlockList    = unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockExecute = unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// handled are all that a version of the interface can restrict.
func handled(version int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1}
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr
}

// restrictFiles leaves this thread the files of the interpreter, to be read, and
// takes all else that Landlock can take.
func restrictFiles(p Python, version int) error {
	attr := handled(version)
	ruleset, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0) //nolint:gosec // How the kernel takes its attributes.
	if errno != 0 {
		return fmt.Errorf("Landlock: making a rule set: %w", errno) //nolint:staticcheck // A name.
	}
	for _, folder := range p.Folders {
		if err := allow(int(ruleset), folder, landlockRead|landlockList); err != nil {
			return err
		}
	}
	for _, file := range p.files() {
		if err := allow(int(ruleset), file, landlockRead|landlockExecute); err != nil {
			return err
		}
	}
	if _, _, errno := syscall.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("Landlock: restricting: %w", errno) //nolint:staticcheck // A name.
	}
	return unix.Close(int(ruleset))
}

func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("Landlock: %w", &os.PathError{Op: "opening", Path: path, Err: err}) //nolint:staticcheck // A name.
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := syscall.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 { //nolint:gosec // As above.
		return fmt.Errorf("Landlock: allowing %s: %w", path, errno) //nolint:staticcheck // A name.
	}
	return unix.Close(fd)
}
