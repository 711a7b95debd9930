package judge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTime bounds the start of a worker; a loaded machine may take long.
const startTime = time.Minute

// maxComplaintBytes bounds what is kept of a worker's standard error, where it
// says why it dies.
const maxComplaintBytes = 4096

// worker is a confined process that runs one job at a time.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	// complaint may be read once the process has been waited for.
	complaint *head
	version   string
	end       sync.Once
}

// hello is a worker's first line.
type hello struct {
	Python string `json:"python"`
	// Works lists what should have failed and did not.
	Works []string `json:"works"`
}

// startWorker starts a worker and hears what its attempts to escape came to.
func startWorker(ctx context.Context, command []string, o order) (*worker, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encoding a worker's order: %w", err)
	}
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], string(text))...) //nolint:gosec,noctx // Our own executable, which lives as long as the pool.
	cmd.Env = []string{}
	cmd.Dir = "/"
	// Descriptor 3 is the null device: inside, there is none to open.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("starting a process to run programs: %w", err)
	}
	defer null.Close() //nolint:errcheck // nothing was written
	cmd.ExtraFiles = []*os.File{null}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if o.Namespaces {
		inNamespaces(cmd.SysProcAttr)
	}
	w := &worker{cmd: cmd, complaint: &head{limit: maxComplaintBytes}}
	cmd.Stderr = w.complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		w.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("starting a process to run programs: %w", err)
	}
	w.out = bufio.NewReader(out)
	if err := w.greet(ctx); err != nil {
		w.stop()
		if said := strings.TrimSpace(w.complaint.String()); said != "" {
			err = fmt.Errorf("%w (it ended with %v and said: %s)", err, cmd.ProcessState, said)
		}
		return nil, fmt.Errorf("a process to run programs (%s) did not start: %w", strings.Join(command, " "), err)
	}
	return w, nil
}

func (w *worker) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	defer context.AfterFunc(ctx, w.kill)()
	var h hello
	if err := w.receive(&h); err != nil {
		return errors.Join(err, ctx.Err())
	}
	if h.Python == "" {
		return errors.New("it is no worker of the judge")
	}
	if len(h.Works) > 0 {
		return fmt.Errorf("it is not confined: %s works", strings.Join(h.Works, ", "))
	}
	w.version = h.Python
	return nil
}

// run sends one job and waits for its result. After an error, among them the
// end of ctx, the worker is of no use any more.
func (w *worker) run(ctx context.Context, job []byte) (Result, error) {
	defer context.AfterFunc(ctx, w.kill)()
	if _, err := w.in.Write(job); err != nil {
		return Result{}, fmt.Errorf("sending a program: %w", err)
	}
	// The process of the tests says its verdict, if it comes to one; the driver ends
	// the job with a line of its own, which is the verdict where none came before.
	var verdict *Result
	for {
		var said struct {
			Result
			End bool `json:"end"`
			// Failed says why there is no result.
			Failed string `json:"failed"`
		}
		if err := w.receive(&said); err != nil {
			return Result{}, fmt.Errorf("waiting for a verdict: %w", err)
		}
		switch {
		case !said.End && verdict != nil:
			return Result{}, errors.New("two verdicts came")
		case !said.End:
			verdict = &said.Result
		case verdict != nil:
			return *verdict, nil
		case said.Failed != "":
			return Result{}, errors.New(said.Failed)
		case said.Passed || said.Why == "":
			return Result{}, errors.New("a job ended without a verdict")
		default:
			return said.Result, nil
		}
	}
}

func (w *worker) receive(into any) error {
	line, err := readLine(w.out, maxReplyBytes)
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

// kill ends the worker and all that it has started: its processes stay in its
// group, since none may leave it. It fails only where all have ended already.
func (w *worker) kill() { _ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) }

// stop ends the worker and reaps it.
func (w *worker) stop() {
	w.end.Do(func() {
		w.kill()
		_ = w.in.Close()
		_ = w.cmd.Wait() // Killed, it has no other status to tell.
	})
}

// encodeJob is a job as the driver reads it.
func encodeJob(job Job) ([]byte, error) {
	tests, err := json.Marshal(struct {
		Setup string   `json:"setup"`
		Tests []string `json:"tests"`
		Entry string   `json:"entry"`
	}{job.Setup, job.Tests, job.Entry})
	if err != nil {
		return nil, fmt.Errorf("encoding a job: %w", err)
	}
	if len(job.Program)+len(tests) > maxJobBytes {
		return nil, ErrTooLarge
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(job.Program)+len(tests)), uint32(len(job.Program)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(tests)))
	return append(append(b, job.Program...), tests...), nil
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

// head keeps the first limit bytes written to it and drops the rest.
type head struct {
	bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), h.limit-h.Len())])
	return len(p), nil
}
