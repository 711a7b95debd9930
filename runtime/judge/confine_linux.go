package judge

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	_ "embed"

	"golang.org/x/sys/unix"
)

// The program that CPython runs is exchange, then driver.
var (
	//go:embed exchange.py
	exchange string
	//go:embed driver.py
	driver string
)

// order is what a worker is told by its first argument.
type order struct {
	Python Python `json:"python"`
	Limits Limits `json:"limits"`
	// Namespaces says that the process was started in namespaces of its own.
	Namespaces bool `json:"namespaces"`
	// Landlock is the version of the interface to use; 0 is none.
	Landlock int `json:"landlock"`
	// Forbidden is a file that must not be readable: the worker tries it.
	Forbidden string `json:"forbidden"`
}

// Limits of every process of a worker.
const (
	// lastDescriptor is the null device: see driver.py.
	lastDescriptor = 3
	maxDescriptors = 64
	// patience is how much longer than Limits.Wall a worker waits for its own
	// processes when nobody ends it.
	patience = 10 * time.Second
)

// Confine is a worker's beginning: it confines this process for good and
// replaces it by CPython, which runs jobs (see Pool). It returns only an error.
// The hidden subcommand of Options.Command calls it with its arguments.
func Confine(args []string) error {
	if len(args) != 1 {
		return errors.New("this command is started by the judge, with one argument")
	}
	var o order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return fmt.Errorf("reading the judge's order: %w", err)
	}
	// Landlock and seccomp confine a thread and what it starts. The thread that
	// calls execve is the only one that remains.
	runtime.LockOSThread()
	if err := confine(o); err != nil {
		return fmt.Errorf("confining the process that runs programs: %w", err)
	}
	return nil
}

func confine(o order) error {
	if o.Namespaces {
		if err := enterOwnRoot(o.Python); err != nil {
			return err
		}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	outer, err := outerFilter()
	if err != nil {
		return err
	}
	inner, err := innerFilter()
	if err != nil {
		return err
	}
	start, err := prepareExec(o.Python.Executable, []string{
		o.Python.Executable, "-s", "-S", "-B", "-c", exchange + "\n" + driver, hex.EncodeToString(inner.bytes()),
		strconv.Itoa(int(o.Limits.CPU / time.Second)), strconv.FormatInt(o.Limits.Memory, 10),
		strconv.Itoa(int((o.Limits.Wall + patience) / time.Second)), o.Forbidden,
	})
	if err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	if o.Landlock > 0 {
		if err := restrictFiles(o.Python, o.Landlock); err != nil {
			return err
		}
	}
	// Whoever started us may have left descriptors open to what they start.
	if err := unix.CloseRange(lastDescriptor+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors: %w", err)
	}
	if err := setLimits(o.Limits); err != nil {
		return err
	}
	// From here on this process may neither allocate much nor do anything but
	// execve.
	if err := outer.install(); err != nil {
		return err
	}
	return start.exec()
}

// setLimits lowers this process's limits; the driver lowers more in the
// processes that it forks. Memory comes last, and without a collector that might want some:
// Go's runtime, and the race detector's still more, has mapped more than is allowed.
func setLimits(limits Limits) error {
	debug.SetGCPercent(-1)
	var errs []error
	for _, l := range []struct {
		resource int
		limit    unix.Rlimit
	}{
		{resource: unix.RLIMIT_CORE}, {resource: unix.RLIMIT_FSIZE}, {resource: unix.RLIMIT_MEMLOCK}, {resource: unix.RLIMIT_MSGQUEUE},
		{unix.RLIMIT_NOFILE, unix.Rlimit{Cur: maxDescriptors, Max: maxDescriptors}},
		{unix.RLIMIT_AS, unix.Rlimit{Cur: uint64(limits.Memory), Max: uint64(limits.Memory)}},
	} {
		if err := unix.Prlimit(0, l.resource, &l.limit, nil); err != nil {
			errs = append(errs, fmt.Errorf("limiting resource %d: %w", l.resource, err))
		}
	}
	return errors.Join(errs...)
}

// maxCapability is beyond what any kernel knows; noRoot are the secure bits
// NOROOT and NO_SETUID_FIXUP with their locks: user 0 is a user like any other.
const (
	maxCapability = 63
	noRoot        = 0b1111
)

// dropCapabilities gives up all capabilities of this thread, and what could
// bring them back when it becomes another program as root.
func dropCapabilities() error {
	if os.Geteuid() == 0 {
		// A root without CAP_SETPCAP may not; its bounding set is what it is, and
		// capset and no_new_privs below hold all the same.
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("giving up root's privileges: %w", err)
		}
		for c := range uintptr(maxCapability + 1) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("giving up capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// The one execve that is allowed names its file by this address, on a page that
// is gone when it has happened. No later mapping can have it: see outerFilter.
const (
	execPage = 0x100000
	// lowest is the lowest address that may be asked for later.
	lowest = 0x200000
)

// execution is an execve made ready.
type execution struct{ argv, envp []*byte }

// environment is all of CPython's: sets of text are in the same order every
// time, so that a program's result does not depend on the worker.
var environment = []string{"PYTHONHASHSEED=0", "LC_ALL=C.UTF-8"}

func prepareExec(file string, args []string) (*execution, error) {
	page, _, errno := syscall.Syscall6(unix.SYS_MMAP, execPage, lowest-execPage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
	if errno != 0 || page != execPage {
		return nil, fmt.Errorf("taking the page for CPython's name (got address %#x): %w", page, errno)
	}
	name, err := unix.ByteSliceFromString(file)
	if err != nil || len(name) > unix.PathMax {
		return nil, fmt.Errorf("the interpreter's name %q is unusable: %w", file, err)
	}
	if err := writeMemory(execPage, name); err != nil {
		return nil, err
	}
	e := &execution{}
	if e.argv, err = syscall.SlicePtrFromStrings(args); err != nil {
		return nil, fmt.Errorf("CPython's arguments: %w", err)
	}
	if e.envp, err = syscall.SlicePtrFromStrings(environment); err != nil {
		return nil, fmt.Errorf("CPython's environment: %w", err)
	}
	return e, nil
}

// writeMemory writes to an address that is none of Go's, by having the kernel
// read there from a pipe.
func writeMemory(address uintptr, data []byte) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("writing CPython's name: %w", err)
	}
	_, err := unix.Write(ends[1], data)
	if n, _, errno := syscall.Syscall(unix.SYS_READ, uintptr(ends[0]), address, uintptr(len(data))); err == nil && int(n) != len(data) {
		err = fmt.Errorf("%d of %d bytes: %w", n, len(data), errno)
	}
	if err := errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1])); err != nil {
		return fmt.Errorf("writing CPython's name: %w", err)
	}
	return nil
}

// exec returns only an error.
func (e *execution) exec() error {
	_, _, errno := syscall.RawSyscall(unix.SYS_EXECVE, execPage,
		uintptr(unsafe.Pointer(&e.argv[0])), uintptr(unsafe.Pointer(&e.envp[0]))) //nolint:gosec // How execve takes its lists.
	return fmt.Errorf("starting CPython: %w", errno)
}
