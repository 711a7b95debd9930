package judge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started returns the processes that a process has started and that are still
// there, in order.
func started(t *testing.T, pid int) (found []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // The thread has ended.
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, child)
		}
	}
	return found
}

// killNext waits for a worker that has both processes of a job, none of which is
// in seen, and kills victim.
func killNext(t *testing.T, seen map[int]bool, victim func(worker, answer, tests int) int) error {
	t.Helper()
	for range 3000 {
		for _, w := range started(t, os.Getpid()) {
			if job := started(t, w); len(job) == 2 && !seen[job[0]] {
				seen[job[0]] = true
				return syscall.Kill(victim(w, job[0], job[1]), syscall.SIGKILL)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("no job was running")
}

// TestWhatTheSystemKillsIsAnErrorAndNoWrongAnswer kills processes of a right
// program's job as a system does that is short of memory: once, which costs
// nothing, and over and over, which is an error.
func TestWhatTheSystemKillsIsAnErrorAndNoWrongAnswer(t *testing.T) {
	job := Job{Program: "import time\ndef f(): time.sleep(2)\n", Tests: []string{"assert f() is None"}}
	for name, victim := range map[string]func(worker, answer, tests int) int{
		"the answer's process": func(_, answer, _ int) int { return answer },
		"the tests' process":   func(_, _, tests int) int { return tests },
		"the worker":           func(worker, _, _ int) int { return worker },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, Options{Workers: 1})
			if _, err := p.Confinement(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen := map[int]bool{}
			for _, kills := range []int{1, tries} {
				var got Result
				done := make(chan error, 1)
				go func() {
					var err error
					got, err = p.Run(t.Context(), job)
					done <- err
				}()
				for range kills {
					if err := killNext(t, seen, victim); err != nil {
						t.Error(err)
					}
				}
				err := <-done
				if kills < tries && (err != nil || !got.Passed) {
					t.Errorf("after %d kills, Run = %+v, %v, want a right answer", kills, got, err)
				}
				if kills == tries && err == nil {
					t.Errorf("after %d kills, Run = %+v, want an error", kills, got)
				}
				// A job that was not killed stays as seen.
				mustGoOn(t, p)
			}
		})
	}
}

// TestConfinementWaitsForNoJob asks a pool whose only worker is busy.
func TestConfinementWaitsForNoJob(t *testing.T) {
	p := newPool(t, Options{Workers: 1})
	want, err := p.Confinement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.idle <- w }()
	got, err := p.Confinement(t.Context())
	if err != nil || got.String() != want.String() {
		t.Errorf("Confinement = %v, %v, want %v", got, err, want)
	}
}
