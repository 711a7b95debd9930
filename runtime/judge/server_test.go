package judge

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve serves runner on a new socket until the test's end, or until stop.
func serve(t *testing.T, runner Runner, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, runner) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestAClientHasTheServerRunItsJobs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "judge.sock")
	p := newPool(t, Options{})
	serve(t, p, socket)
	c := NewClient(socket, time.Minute)
	want, err := p.Confinement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Confinement(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Confinement differs, error %v (-want +got):\n%s", err, diff)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for program, want := range map[string]Result{
				"def f(x): return 2*x":  {Passed: true},
				"def f(x): return x":    {Why: "f(2) is 2, not 4"},
				"import os\nos.abort()": {Why: "the program was ended by SIGABRT: Aborted"},
			} {
				got, err := c.Run(t.Context(), Job{Program: program, Tests: []string{"assert f(2) == 4"}})
				if strings.HasPrefix(got.Why, "the program was ended by") {
					got.Why = want.Why // Which signal it is depends on what is refused.
				}
				if err != nil || got != want {
					t.Errorf("Run(%q) = %+v, %v, want %+v", program, got, err, want)
				}
			}
		})
	}
	wg.Wait()
	if got, err := c.Run(t.Context(), Job{Program: strings.Repeat("\x01", maxJobBytes), Tests: []string{"x"}}); err != nil || got.Passed {
		t.Errorf("a job beyond bounds: %+v, %v", got, err)
	}
}

// stub is a runner whose answers a test chooses.
type stub struct {
	run         func(ctx context.Context) (Result, error)
	confinement error
}

func (s stub) Run(ctx context.Context, _ Job) (Result, error)   { return s.run(ctx) }
func (s stub) Confinement(context.Context) (Confinement, error) { return Confinement{}, s.confinement }
func (stub) Close() error                                       { return nil }

func TestAClientSaysWhyNothingWasJudged(t *testing.T) {
	folder := t.TempDir()
	missing := filepath.Join(folder, "missing.sock")
	refusing := filepath.Join(folder, "refusing.sock")
	failing := filepath.Join(folder, "failing.sock")
	serve(t, stub{confinement: errors.New("the kernel has no Landlock")}, refusing)
	serve(t, stub{run: func(context.Context) (Result, error) { return Result{}, errors.New("the disk is gone") }}, failing)
	for socket, want := range map[string]string{
		missing: "did not answer at " + missing + " within 300ms (in a pod, look at the container judge)", refusing: "the kernel has no Landlock", failing: "the disk is gone",
	} {
		got, err := NewClient(socket, 300*time.Millisecond).Run(t.Context(), Job{Tests: []string{"x"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Run = %+v, %v, want an error with %q", socket, got, err, want)
		}
	}
}

func TestAClientWaitsForItsServerAndForTheNextOne(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "judge.sock")
	c := NewClient(socket, time.Minute)
	passes := stub{run: func(context.Context) (Result, error) { return Result{Passed: true}, nil }}
	for range 2 {
		done := make(chan error, 1)
		go func() {
			_, err := c.Run(t.Context(), Job{})
			done <- err
		}()
		stop := serve(t, passes, socket)
		if err := <-done; err != nil {
			t.Error(err)
		}
		stop()
	}
}

func TestAClientEndsWithItsContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "judge.sock")
	started := make(chan struct{}, 1)
	serve(t, stub{run: func(ctx context.Context) (Result, error) {
		started <- struct{}{}
		<-ctx.Done()
		return Result{}, ctx.Err()
	}}, socket)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := NewClient(socket, time.Minute).Run(ctx, Job{})
		done <- err
	}()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want context.Canceled", err)
	}
}

func TestAServerThatEndsIsAnErrorAndNoWrongAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "judge.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for range tries {
			conn, err := l.Accept()
			if err == nil {
				_, err = conn.Write([]byte("{}\n"))
			}
			if err != nil {
				done <- err
				return
			}
			_ = conn.Close()
		}
		done <- l.Close()
	}()
	got, err := NewClient(socket, time.Minute).Run(t.Context(), Job{})
	if err == nil || !strings.Contains(err.Error(), "ended while it ran a program, 3 times (in a pod, look at the container judge)") {
		t.Errorf("Run = %+v, %v, want an error", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAFullServerKeepsNobodyWaitingInVain has more jobs than a client may have
// at the server, all of which take longer than the client waits for a server.
func TestAFullServerKeepsNobodyWaitingInVain(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "judge.sock")
	var running, most atomic.Int32
	serve(t, stub{run: func(context.Context) (Result, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		time.Sleep(300 * time.Millisecond) // What a slow program takes.
		return Result{Passed: true}, nil
	}}, socket)
	c := NewClient(socket, 200*time.Millisecond)
	var wg sync.WaitGroup
	for range 3 * maxTalks {
		wg.Go(func() {
			if got, err := c.Run(t.Context(), Job{}); err != nil || !got.Passed {
				t.Errorf("Run = %+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > maxTalks {
		t.Errorf("%d jobs were at the server at a time, want at most %d", n, maxTalks)
	}
}
