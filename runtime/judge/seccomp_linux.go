package judge

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of a Python program that computes, reads its
// standard library, and asks for the time. All that is not listed, here or
// below, gets EPERM.
var allowed = []string{
	// Descriptors.
	"read", "readv", "pread64", "write", "writev", "pwrite64", "close", "close_range", "dup", "dup3", "lseek", "pipe2", "ppoll",
	"pselect6",
	// Files, as far as there are any.
	"faccessat", "faccessat2", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "readlinkat", "getdents64", "getcwd",
	// Memory, but for mmap and mremap.
	"munmap", "mprotect", "madvise", "brk", "membarrier",
	// This process.
	"futex", "set_robust_list", "set_tid_address", "rseq", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid",
	"getrusage", "sched_yield", "sched_getaffinity", "getcpu", "sysinfo", "uname", "getrandom", "exit", "exit_group",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "sigaltstack", "restart_syscall",
	"setitimer", "getitimer",
	// Time.
	"clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "times",
}

// allowedOn are those that an architecture has beside.
var allowedOn = map[string][]string{
	"amd64": {
		"access", "stat", "lstat", "readlink", "dup2", "pipe", "poll", "select", "arch_prctl", "alarm", "time", "getrlimit",
	},
}

// Values of arguments.
const (
	isATerminal = 0x5401 // TCGETS
	closeOnExec = 0x5451 // FIOCLEX
	keepOnExec  = 0x5450 // FIONCLEX
	mapFixed    = unix.MAP_FIXED | unix.MAP_FIXED_NOREPLACE
	mayMove     = 1 // MREMAP_MAYMOVE
	changesFile = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	// fork(2) as libc calls it, and plainly.
	newProcess      = unix.CLONE_CHILD_CLEARTID | unix.CLONE_CHILD_SETTID | uint64(unix.SIGCHLD)
	newProcessPlain = uint64(unix.SIGCHLD)
)

func when(name string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: conditions}
}

func argument(n uint32, operation seccomp.Operation, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: n, Operation: operation, Value: value}
}

// conditional are those that every process of a worker may make with some
// arguments. Files are opened to be read. A mapping may be asked for above the
// page of the one execve, or wherever the kernel likes, which is above, too.
var conditional = []seccomp.NameWithConditions{
	when("ioctl", argument(1, seccomp.Equal, isATerminal)),
	when("ioctl", argument(1, seccomp.Equal, closeOnExec)),
	when("ioctl", argument(1, seccomp.Equal, keepOnExec)),
	when("fcntl", argument(1, seccomp.LessOrEqual, unix.F_SETFL)),
	when("fcntl", argument(1, seccomp.Equal, unix.F_DUPFD_CLOEXEC)),
	when("openat", argument(2, seccomp.BitsNotSet, changesFile)),
	when("mmap", argument(0, seccomp.GreaterOrEqual, lowest)),
	when("mmap", argument(0, seccomp.Equal, 0), argument(3, seccomp.BitsNotSet, mapFixed)),
	when("mremap", argument(3, seccomp.LessOrEqual, mayMove)),
}

// conditionalOn are those that an architecture has beside.
var conditionalOn = map[string][]seccomp.NameWithConditions{
	"amd64": {when("open", argument(1, seccomp.BitsNotSet, changesFile))},
}

// innerFilter is for the processes of the answer and of the tests.
func innerFilter() (filter, error) {
	return assemble(when("prlimit64", argument(0, seccomp.Equal, 0), argument(2, seccomp.Equal, 0)))
}

// outerFilter is for the worker itself: it may start CPython, once, and fork,
// limit, confine, end and wait for processes. What it forks is confined by
// innerFilter too, so the page of the execve stays out of reach.
func outerFilter() (filter, error) {
	return assemble(
		when("execve", argument(0, seccomp.Equal, execPage)),
		when("clone", argument(0, seccomp.Equal, newProcess)),
		when("clone", argument(0, seccomp.Equal, newProcessPlain)),
		when("wait4", argument(0, seccomp.GreaterThan, 0)),
		when("kill", argument(1, seccomp.Equal, uint64(unix.SIGKILL))),
		when("prlimit64", argument(0, seccomp.Equal, 0)),
		when("prctl", argument(0, seccomp.Equal, unix.PR_SET_PDEATHSIG)),
		when("prctl", argument(0, seccomp.Equal, unix.PR_SET_SECCOMP)),
		when("prctl", argument(0, seccomp.Equal, unix.PR_GET_SECCOMP)),
		when("prctl", argument(0, seccomp.Equal, unix.PR_GET_NO_NEW_PRIVS)),
	)
}

// filter is a program for the kernel.
type filter []unix.SockFilter

// assemble allows what is listed above and more; all else gets EPERM.
func assemble(more ...seccomp.NameWithConditions) (filter, error) {
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{{
			Action:             seccomp.ActionAllow,
			Names:              slices.Concat(allowed, allowedOn[runtime.GOARCH]),
			NamesWithCondtions: slices.Concat(conditional, conditionalOn[runtime.GOARCH], more),
		}},
	}
	instructions, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("seccomp: assembling the filter: %w", err)
	}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, fmt.Errorf("seccomp: assembling the filter: %w", err)
	}
	f := make(filter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return f, nil
}

// bytes is the program as the kernel reads it.
func (f filter) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), len(f)*int(unsafe.Sizeof(f[0]))) //nolint:gosec // The instructions as bytes.
}

// install confines this thread.
func (f filter) install() error {
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if _, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 { //nolint:gosec // How the kernel takes its filter.
		return fmt.Errorf("seccomp: installing the filter: %w (the kernel must have CONFIG_SECCOMP_FILTER)", errno)
	}
	return nil
}
