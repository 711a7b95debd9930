package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Namespaces are the processes whose namespaces a program joins; 0 leaves the one of the caller.
type Namespaces struct {
	Mount, Net int
}

// Enter returns the command line that runs argv in the namespaces. It is nsenter, not "ip netns exec", because the
// latter gives each program a mount namespace of its own and so hides the kubelet's volumes from containerd.
func (n Namespaces) Enter(argv ...string) []string {
	if n == (Namespaces{}) {
		return argv
	}
	enter := []string{"nsenter"}
	if n.Mount != 0 {
		enter = append(enter, "--mount=/proc/"+strconv.Itoa(n.Mount)+"/ns/mnt")
	}
	if n.Net != 0 {
		enter = append(enter, "--net=/proc/"+strconv.Itoa(n.Net)+"/ns/net")
	}
	return append(append(enter, "--"), argv...)
}

// Program is one to start and leave running.
type Program struct {
	// Name names its log and pid file.
	Name string
	Argv []string
	In   Namespaces
	// NewNamespaces are clone flags of namespaces to make for it (CLONE_NEWNS, CLONE_NEWNET).
	NewNamespaces uintptr
	LogsDir       string
	PidsDir       string
	// Output, if set, receives the program's standard output instead of the log.
	Output *os.File
}

// Started is a program that runs.
type Started struct {
	Name string
	PID  int
	// Log is where its output goes.
	Log string
	// Exited is closed when it has ended while the tool was still there to see it; Err then says how.
	Exited chan struct{}
	Err    error
}

// Environment is all that programs get of it. The caller's would leak in (a proxy for HTTP, for one, would stand between
// the API server and the kubelets).
var Environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
}

// Start starts p in a session of its own, so that neither ctrl-C nor the end of the terminal reaches it, without any
// descriptor that the tool was started with, so that nobody's lock or pipe outlives its owner, and writes its pid file.
// The program is not bound to any context: outliving the tool is its purpose.
func Start(p Program) (*Started, error) {
	if err := errors.Join(os.MkdirAll(p.LogsDir, 0o755), os.MkdirAll(p.PidsDir, 0o700)); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	logPath := filepath.Join(p.LogsDir, p.Name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	defer log.Close() //nolint:errcheck // the program has its own copy; this one was never written to

	if err := keepDescriptors(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	argv := p.In.Enter(p.Argv...)
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // It outlives the call.
	cmd.Env = Environment
	cmd.Dir = "/"
	cmd.Stderr = log
	cmd.Stdout = log
	if p.Output != nil {
		cmd.Stdout = p.Output
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: p.NewNamespaces}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	started := &Started{Name: p.Name, PID: cmd.Process.Pid, Log: logPath, Exited: make(chan struct{})}
	go func() { // ends with the program or with the tool, whichever is first
		started.Err = cmd.Wait()
		close(started.Exited)
	}()
	info, err := Read(started.PID)
	if err != nil {
		return nil, fmt.Errorf("starting %s: it ended at once, see %s: %w", p.Name, logPath, err)
	}
	if err := Remember(p.PidsDir, p.Name, info); err != nil {
		return nil, err
	}
	return started, nil
}

// keepDescriptors keeps from all programs that are started from now on what the tool has inherited beyond the three
// standard descriptors: `flock FILE make demo` would otherwise hold its lock for as long as the cluster runs. What Go
// opens is kept from them anyway.
func keepDescriptors() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing open descriptors: %w", err)
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd) // the one that read the list is closed by now, which does no harm
		}
	}
	return nil
}

// Run runs argv in the namespaces, gives it stdin, and returns an error that carries what it printed if it fails.
func Run(ctx context.Context, in Namespaces, stdin io.Reader, argv ...string) error {
	line := in.Enter(argv...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = Environment
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %v: %w: %s", argv, err, out)
	}
	return nil
}
