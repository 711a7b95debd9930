package bringup

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

func TestNodeIsReadyOnlyWhenPodsCanBeScheduled(t *testing.T) {
	tests := []struct{ name, text, wantError string }{
		{name: "not reported yet", text: `{}`, wantError: "not reported"},
		{name: "not ready", text: `{"status":{"conditions":[{"type":"Ready","status":"False","message":"no network"}]}}`, wantError: "no network"},
		{name: "another condition is not enough", text: `{"status":{"conditions":[{"type":"MemoryPressure","status":"True"}]}}`, wantError: "not reported"},
		{
			name:      "ready, but still tainted as new",
			text:      `{"spec":{"taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
			wantError: "not-ready",
		},
		{
			name: "ready, with somebody's own taint",
			text: `{"spec":{"taints":[{"key":"example.com/gpu","effect":"NoSchedule"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var n node
			if err := json.Unmarshal([]byte(tt.text), &n); err != nil {
				t.Fatal(err)
			}
			err := n.ready()
			if tt.wantError == "" && err != nil || tt.wantError != "" && (err == nil || !strings.Contains(err.Error(), tt.wantError)) {
				t.Errorf("ready() = %v, want %q", err, tt.wantError)
			}
		})
	}
}

// waiting is a bringing up in a temporary folder, with one component whose log says "out of luck".
func waiting(t *testing.T, exited bool) *run {
	t.Helper()
	c, err := layout.New("t2", "/s", "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if err := os.MkdirAll(c.LogsDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.LogsDir(), "etcd.log"), []byte("starting\nout of luck\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &process.Started{Name: "etcd", Exited: make(chan struct{})}
	if exited {
		s.Err = errors.New("exit status 7")
		close(s.Exited)
	}
	return &run{c: c, started: []*process.Started{s}}
}

func TestWaitSaysWhichComponentFailedAndShowsItsLog(t *testing.T) {
	never := func(context.Context) error { return errors.New("connection refused") }
	t.Run("it ended", func(t *testing.T) {
		err := waiting(t, true).waitFor(t.Context(), "the store", "kube-apiserver", never)
		for _, want := range []string{"etcd ended", "the store", "exit status 7", "out of luck"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to say %q", err, want)
			}
		}
	})
	t.Run("it took too long", func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("gave up after 10ms"))
		defer cancel()
		err := waiting(t, false).waitFor(ctx, "the store", "etcd", never)
		for _, want := range []string{"waiting for the store", "gave up after 10ms", "connection refused", "out of luck"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to say %q", err, want)
			}
		}
	})
	t.Run("it succeeded at last", func(t *testing.T) {
		tries := 0
		err := waiting(t, false).waitFor(t.Context(), "the store", "etcd", func(context.Context) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || tries != 3 {
			t.Errorf("waitFor() = %v after %d tries, want success after 3", err, tries)
		}
	})
}

func TestTail(t *testing.T) {
	if diff := cmp.Diff("  c\n  d", tail("a\nb\nc\nd\n", 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("  a", tail("a", 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusNamesWhatIsNotWell(t *testing.T) {
	c, err := layout.New("t2", "/s", "", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"switch", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
		"node-1", "containerd-1", "kubelet-1", "kube-proxy-1", "node-2", "containerd-2", "kubelet-2", "kube-proxy-2",
	}
	if diff := cmp.Diff(want, expected(c)); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	self, err := process.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	remembered := []process.Remembered{
		{Name: "etcd", PID: self.PID, Started: self.Started},
		{Name: "kubelet-1", PID: self.PID, Started: self.Started + 1},
	}
	got := []State{component("etcd", remembered), component("kubelet-1", remembered), component("kubelet-2", remembered)}
	if got[0].PID != self.PID || got[0].Problem != "" {
		t.Errorf("a running component: %+v", got[0])
	}
	if !strings.Contains(got[1].Problem, "ended") || !strings.Contains(got[2].Problem, "never started") {
		t.Errorf("components that do not run: %+v", got[1:])
	}
	if (Status{Components: got[:1]}).Healthy() != true || (Status{Components: got}).Healthy() || (Status{API: "refused"}).Healthy() {
		t.Error("Healthy() does not follow the problems")
	}
}

func TestOnOverlayLooksAtTheNearestFolderThatExists(t *testing.T) {
	dir := t.TempDir()
	want, err := onOverlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := onOverlay(filepath.Join(dir, "a", "b", "c")); err != nil || got != want {
		t.Errorf("onOverlay() = %t, %v, want %t as for its parent", got, err, want)
	}
}
