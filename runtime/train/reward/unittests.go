package reward

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Limits bound what one answer's program may use.
type Limits struct {
	// Steps of the interpreter.
	Steps uint64
	// Memory in bytes, on top of an idle child's.
	Memory int64
	// Wall is the time for one answer, seen from outside.
	Wall time.Duration
	// CPU is the processor time of one child over its life; a child that nears
	// it is replaced between answers.
	CPU time.Duration
}

// DefaultLimits are generous for programs of a few lines. Steps end almost
// every endless loop, and do so after the same work on every machine; the other
// limits stop what can be slow or large within one step.
func DefaultLimits() Limits {
	return Limits{Steps: 2_000_000, Memory: 512 << 20, Wall: 10 * time.Second, CPU: 120 * time.Second}
}

// UnitTests judges programs by running them, in the language Starlark: Python's
// syntax and semantics for functions, loops (while too), comprehensions,
// recursion, integers, floats, strings, lists, dicts and sets. There are no
// imports (but "import math" is understood), classes, exceptions, generators,
// f-strings or power operator (pow and sum are functions); strings are not
// iterable. A program that uses what is missing fails its tests.
//
// Programs run in child processes without environment, arguments, files or
// network code, within Limits. A child that dies or hangs costs the answer it
// was working on, and is replaced.
type UnitTests struct {
	command []string
	limits  Limits
	// idle holds a token for each child that may exist: a running child or nil.
	idle chan *child
	size int
}

// NewUnitTests returns a judge that starts children by this argument vector, as
// many as there are processors. Children start when they are first needed.
func NewUnitTests(command []string, limits Limits) (*UnitTests, error) {
	if len(command) == 0 {
		return nil, errors.New("the reward UnitTests needs a command that starts its child processes")
	}
	n := max(1, runtime.GOMAXPROCS(0))
	u := &UnitTests{command: command, limits: limits, idle: make(chan *child, n), size: n}
	for range n {
		u.idle <- nil
	}
	return u, nil
}

// Check reports tests that are no assertions in the language.
func (u *UnitTests) Check(ref Reference) error {
	if len(ref.Tests) == 0 {
		return errors.New("there are no tests, which the reward UnitTests runs")
	}
	for _, test := range ref.Tests {
		if _, err := parseTest(test); err != nil {
			return err
		}
	}
	return nil
}

// Judge reports whether the program in answer passes all tests.
func (u *UnitTests) Judge(ctx context.Context, answer string, ref Reference) (Verdict, error) {
	verdict := Verdict{Extracted: Code(answer), Why: "a test failed"}
	line, err := json.Marshal(testJob{Setup: ref.Setup, Program: verdict.Extracted, Tests: ref.Tests})
	if err != nil {
		return Verdict{}, fmt.Errorf("encoding a test job: %w", err)
	}
	if len(line) >= maxJobBytes {
		verdict.Why = "the program is too long"
		return verdict, nil
	}
	var c *child
	select {
	case c = <-u.idle:
	case <-ctx.Done():
		return Verdict{}, ctx.Err()
	}
	defer func() { u.idle <- c }()
	if c == nil {
		if c, err = startChild(u.command); err != nil {
			return Verdict{}, err
		}
	}
	result, err := c.run(ctx, line, u.limits.Wall)
	if err != nil || result.Retiring {
		c.stop()
		c = nil
	}
	if ctx.Err() != nil {
		return Verdict{}, ctx.Err()
	}
	// A child that died did so of this answer's program.
	if verdict.Right = err == nil && result.Passed; verdict.Right {
		verdict.Why = "all tests passed"
	}
	return verdict, nil
}

// Close ends all children. No call of Judge may be under way or follow.
func (u *UnitTests) Close() error {
	for range u.size {
		if c := <-u.idle; c != nil {
			c.stop()
		}
	}
	return nil
}

// child is a process that runs ServeTests.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	end sync.Once
}

// startChild starts a child and has it run a trivial test, so that a command
// that cannot work is an error and not a wrong answer.
func startChild(command []string) (*child, error) {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec,noctx // The caller's own executable, which lives as long as the judge.
	cmd.Env = []string{}
	cmd.Dir = "/"
	complaint := &head{limit: maxComplaintBytes}
	cmd.Stderr = complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting a process to run tests: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting a process to run tests: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a process to run tests: %w", err)
	}
	c := &child{cmd: cmd, in: in, out: bufio.NewReader(out)}
	hello, err := json.Marshal(testJob{Program: "x = 1", Tests: []string{"assert x == 1"}})
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("encoding a test job: %w", err)
	}
	// A loaded machine may take long to start a process.
	result, err := c.run(context.Background(), hello, time.Minute)
	if err == nil && !result.Passed {
		err = errors.New("it says that 1 is not 1")
	}
	if err != nil {
		c.stop()
		if said := complaint.String(); said != "" {
			err = fmt.Errorf("%w (it ended with %v and said %q)", err, cmd.ProcessState, said)
		}
		return nil, fmt.Errorf("%q runs no tests: %w: it should call reward.ServeTests", command, err)
	}
	return c, nil
}

// maxComplaintBytes bounds what is kept of a child's standard error, where it
// says why it dies.
const maxComplaintBytes = 2048

// head keeps the first limit bytes written to it and drops the rest. It may be
// read once the process that writes has been waited for.
type head struct {
	strings.Builder
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.Builder.Write(p[:min(len(p), h.limit-h.Len())])
	return len(p), nil
}

// maxResultBytes bounds the answer of a child.
const maxResultBytes = 4096

// run sends one job and waits for its result. After an error, among them the
// end of ctx and of the time allowed, the child is of no use any more.
func (c *child) run(ctx context.Context, line []byte, wall time.Duration) (testResult, error) {
	ctx, cancel := context.WithTimeout(ctx, wall)
	defer cancel()
	defer context.AfterFunc(ctx, c.kill)()
	var result testResult
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return result, fmt.Errorf("sending a test job: %w", err)
	}
	answer, err := readLine(c.out, maxResultBytes)
	if err != nil {
		return result, fmt.Errorf("waiting for a test result: %w", errors.Join(err, ctx.Err()))
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return result, fmt.Errorf("reading a test result: %w", err)
	}
	return result, nil
}

// kill ends the process; Kill fails only where it has ended already.
func (c *child) kill() { _ = c.cmd.Process.Kill() }

// stop ends the process and reaps it.
func (c *child) stop() {
	c.end.Do(func() {
		_ = c.in.Close()
		c.kill()
		_ = c.cmd.Wait()
	})
}
