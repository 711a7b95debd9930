package reward

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// testJob is one line to a child, testResult the line that answers it.
type testJob struct {
	Setup   string   `json:"setup,omitempty"`
	Program string   `json:"program"`
	Tests   []string `json:"tests"`
}

type testResult struct {
	Passed bool `json:"passed"`
	// Retiring says that the child has used up much of its time and ends now.
	Retiring bool `json:"retiring,omitempty"`
}

// maxJobBytes bounds one line of the protocol.
const maxJobBytes = 8 << 20

// maxStack bounds the goroutine that interprets a recursive program.
const maxStack = 128 << 20

// ServeTests is the child's side of UnitTests: it reads jobs from in and writes
// results to out, until in ends. It first gives up what the program it runs
// could misuse: memory beyond limits, processor time, files. It is called by
// the hidden subcommand run-tests, in a process of its own.
func ServeTests(in io.Reader, out io.Writer, limits Limits) error {
	if err := confine(limits); err != nil {
		return fmt.Errorf("limiting the process that runs tests: %w", err)
	}
	lines := bufio.NewReaderSize(in, 64<<10)
	enc := json.NewEncoder(out)
	for {
		line, err := readLine(lines, maxJobBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a test job: %w", err)
		}
		var job testJob
		if err := json.Unmarshal(line, &job); err != nil {
			return fmt.Errorf("reading a test job: %w", err)
		}
		result := testResult{Passed: passes(job, limits.Steps)}
		result.Retiring = cpuUsed() > limits.CPU/2
		if err := enc.Encode(result); err != nil {
			return fmt.Errorf("writing a test result: %w", err)
		}
		if result.Retiring {
			return nil
		}
	}
}

// confine lowers this process's limits for good. Memory is what the process
// has mapped already (the Go runtime reserves much and uses little) and
// limits.Memory more.
func confine(limits Limits) error {
	debug.SetMaxStack(maxStack)
	debug.SetMemoryLimit(limits.Memory / 2)
	var errs []error
	set := func(resource int, value uint64) {
		errs = append(errs, syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value}))
	}
	if mapped, ok := mappedBytes(); ok {
		set(syscall.RLIMIT_AS, mapped+uint64(limits.Memory))
	}
	set(syscall.RLIMIT_CPU, uint64((limits.CPU+cpuUsed())/time.Second)+1)
	set(syscall.RLIMIT_CORE, 0)
	set(syscall.RLIMIT_FSIZE, 0)
	// No file can be opened any more: descriptors in use stay.
	set(syscall.RLIMIT_NOFILE, 0)
	return errors.Join(errs...)
}

// mappedBytes returns the size of this process's address space, where the
// system tells.
func mappedBytes() (uint64, bool) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	pages, _, _ := strings.Cut(string(statm), " ")
	n, err := strconv.ParseUint(pages, 10, 64)
	return n * uint64(os.Getpagesize()), err == nil
}

func cpuUsed() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// readLine reads up to a newline, and refuses lines longer than limit. At the
// end of input it returns io.EOF, also after an unfinished line: its writer
// died.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > limit {
			return nil, fmt.Errorf("a line is longer than %d bytes", limit)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
