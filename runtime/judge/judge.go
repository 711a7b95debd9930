// Package judge runs programs that nobody has read: it has CPython run an
// answer's program and its tests, and says whether the tests pass, and why not.
//
// # How
//
// A worker is a CPython process that has been confined before its first
// instruction and runs driver.py. For each job it forks two processes, which
// give up still more. One runs the answer's program. The other runs the tests:
// where they name something of the answer's, they hold a stand-in that asks the
// first process, and only plain data comes back. So no line of the answer ever
// runs where the verdict is made, and the answer's process never holds the tests
// and their expected values.
//
// # What confines a worker
//
// A worker is this program, started again by Options.Command, which calls
// Confine: it confines its thread, then replaces itself by CPython. The layers:
//
//   - Namespaces (user, pid, network, mount, IPC, UTS) where the node lets us
//     make them: no other process, no network and nothing of the file system is
//     there. The default seccomp profile of a restricted pod refuses them; then
//     they are left out.
//   - Landlock where the kernel has it: files of CPython's own installation can
//     be read, nothing can be written, no other program run; no TCP; no signals
//     and abstract sockets out.
//   - seccomp, always: a list of allowed system calls. No sockets, no mounts, no
//     tracing, no other program (the one execve that starts CPython names a page
//     that can never be mapped again), and for the answer and the tests no new
//     processes and no signals. What is refused gets EPERM, so that the program
//     fails as any Python program does.
//   - No capabilities, no_new_privs, an empty environment, and limits on memory,
//     processor time, files, descriptors; the clock is kept from outside, and
//     ends the worker with all that it has started.
//
// Files need Landlock or namespaces, all else seccomp: where a node has too
// little, New refuses and says what is missing. A worker tries what must fail
// before its first job, so that Confinement says what is in force and not what
// was asked for.
//
// # What is and is not defended
//
// An answer cannot pass by printing, exiting, finding a secret, redefining
// builtins or modules, or objects that equal everything: a test's process compares data
// only, and an object of a class of the answer's equals no data. It can pass by
// returning what the tests expect without computing it (if the question shows
// the tests, say), and two of its own objects are equal if it says so. A fault
// of the kernel or of CPython's own parser is defended against by the other
// layers only. How long a program takes is measured, so that an answer near the
// limit may be judged either way.
//
// Nothing of a job stays for the next one: the worker that both are copies of
// hands a job on unread, and the verdict comes from the tests' process. What the
// machine does to a job, such as killing it for want of memory, is an error and
// says nothing about the program.
//
// There is no folder to write in: nothing that is judged so far needs one, and
// without namespaces its size could not be bounded.
package judge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Job is a program and what it must pass.
type Job struct {
	// Program is the answer's, in Python.
	Program string `json:"program"`
	// Setup runs before the tests and after the program, such as code that
	// builds objects of the program's classes.
	Setup string `json:"setup,omitempty"`
	// Tests are statements, each of which must run without an exception.
	Tests []string `json:"tests"`
	// Entry names a function of the program; check(Entry) is called after the
	// tests, which define check (HumanEval's form).
	Entry string `json:"entry,omitempty"`
}

// Result is what became of a Job.
type Result struct {
	Passed bool `json:"passed"`
	// Why says in a sentence what went wrong; it is empty where Passed.
	Why string `json:"why,omitempty"`
}

// Runner runs jobs: a Pool on this machine, or a Client of one elsewhere.
// Implementations are safe for concurrent use.
type Runner interface {
	// Run runs one job. An error means that it could not be run (such as ctx's
	// end), never that the program is wrong.
	Run(ctx context.Context, job Job) (Result, error)
	// Confinement says what the programs are confined by. It may start the first
	// worker.
	Confinement(ctx context.Context) (Confinement, error)
	// Close ends what the runner has started. No call may be under way.
	Close() error
}

// Limits bound one program, and its tests, each.
type Limits struct {
	// CPU is processor time, in whole seconds; it ends an endless loop.
	CPU time.Duration `json:"cpu"`
	// Wall is the time for all of a job; it ends what sleeps.
	Wall time.Duration `json:"wall"`
	// Memory is the size of the address space in bytes.
	Memory int64 `json:"memory"`
}

// DefaultLimits are generous for programs of a few lines, whose tests take
// milliseconds.
func DefaultLimits() Limits {
	return Limits{CPU: 10 * time.Second, Wall: time.Minute, Memory: 256 << 20}
}

// Confinement is what is in force around the programs, as the worker that was
// started first found it.
type Confinement struct {
	// Namespaces are those of its own that a worker has, such as "pid".
	Namespaces []string `json:"namespaces"`
	// Landlock is the version of the kernel's interface in use; 0 is none.
	Landlock int `json:"landlock"`
	// Seccomp says that only listed system calls are allowed.
	Seccomp bool `json:"seccomp"`
	// Lacking says what the node lacks or refuses, a sentence each.
	Lacking []string `json:"lacking,omitempty"`
	Limits  Limits   `json:"limits"`
	// Python is the interpreter and its version.
	Python  string `json:"python"`
	Version string `json:"version"`
}

// String describes the confinement for a log or an error.
func (c Confinement) String() string {
	namespaces := "none"
	if len(c.Namespaces) > 0 {
		namespaces = strings.Join(c.Namespaces, ", ")
	}
	s := fmt.Sprintf("namespaces: %s; Landlock: version %d; seccomp: %t; limits: %d MiB, %v of processor time, %v in all",
		namespaces, c.Landlock, c.Seccomp, c.Limits.Memory>>20, c.Limits.CPU, c.Limits.Wall)
	if len(c.Lacking) > 0 {
		s += "; left out: " + strings.Join(c.Lacking, "; ")
	}
	return s
}

// maxJobBytes bounds a job, maxReplyBytes the line that answers it.
const (
	maxJobBytes   = 8 << 20
	maxReplyBytes = 64 << 10
)

// ErrTooLarge wraps that a job is beyond maxJobBytes.
var ErrTooLarge = errors.New("the program and its tests are larger than 8 MiB")
