package process

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	rest := " 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 "
	tests := []struct {
		name, text string
		want       Info
		wantError  bool
	}{
		{name: "a plain name", text: "77 (etcd) S" + rest + "4711 0 0\n", want: Info{PID: 77, Parent: 1, Started: 4711}},
		{name: "a name with brackets and spaces", text: "77 (a) b (c) S" + rest + "4711 0\n", want: Info{PID: 77, Parent: 1, Started: 4711}},
		{name: "a zombie", text: "77 (sh) Z" + rest + "9 0\n", want: Info{PID: 77, Parent: 1, Started: 9, Zombie: true}},
		{name: "no name", text: "77 S 1", wantError: true},
		{name: "cut short", text: "77 (etcd) S 1 77", wantError: true},
		{name: "brackets in the wrong order", text: "77 )etcd( S" + rest + "9 0\n", wantError: true},
		{name: "nothing", text: "", wantError: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.text))
			if (err != nil) != tt.wantError {
				t.Fatalf("parseStat() = %v, want an error: %t", err, tt.wantError)
			}
			if diff := cmp.Diff(tt.want, got); !tt.wantError && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("77 (etcd) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0"))
	f.Add([]byte("1 (()) R"))
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := parseStat(text)
		if err != nil && info.PID != 0 {
			t.Errorf("an error and a process: %+v, %v", info, err)
		}
	})
}

func TestReadSeesThisProcess(t *testing.T) {
	got, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got.PID != os.Getpid() || got.Parent != os.Getppid() || got.Started == 0 || got.MountNS == "" || got.NetNS == "" || len(got.Cgroups) == 0 {
		t.Errorf("Read() = %+v: incomplete", got)
	}
	if diff := cmp.Diff(os.Args, got.Command); diff != "" {
		t.Errorf("command line (-want +got):\n%s", diff)
	}
	if _, err := Read(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a PID beyond all PIDs: got %v, want fs.ErrNotExist", err)
	}
}

// TestAProgramHoldsNoLockOfWhoeverStartedTheTool does as flock(1) does: it locks a file, and the lock lasts until
// everybody who inherited the descriptor has closed it.
func TestAProgramHoldsNoLockOfWhoeverStartedTheTool(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT, 0o600) // inheritable, unlike what os.Open gives
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	started, err := Start(Program{
		Name: "sleeper", Argv: []string{"sleep", "1000"},
		LogsDir: filepath.Join(dir, "logs"), PidsDir: filepath.Join(dir, "pids"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(started.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-started.Exited
	}()
	if err := syscall.Close(fd); err != nil {
		t.Fatal(err)
	}
	again, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := syscall.Flock(int(again.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Errorf("the lock is still held after its owner let go: %v", err)
	}
}

func TestStartRememberAndEnd(t *testing.T) {
	dir := t.TempDir()
	started, err := Start(Program{
		Name: "sleeper", Argv: []string{"sh", "-c", "echo hello; exec sleep 1000"},
		LogsDir: filepath.Join(dir, "logs"), PidsDir: filepath.Join(dir, "pids"),
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for log := ""; log != "hello\n"; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(started.Log)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("log: got %q, %v, want hello", text, err)
		}
		log = string(text)
	}
	// A pid file that a crash cut short, and one of a process long gone.
	for name, text := range map[string]string{"torn.pid": "12", "gone.pid": "1073741824 5\n", "note.txt": "not a pid file"} {
		if err := os.WriteFile(filepath.Join(dir, "pids", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remembered, err := Recall(filepath.Join(dir, "pids"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	m := Membership{Dir: dir, Cgroup: "t2cluster-no-such"}
	for _, r := range remembered {
		names = append(names, r.Name)
		if info, running := r.Running(); running {
			m.Remembered = append(m.Remembered, info)
		}
	}
	if diff := cmp.Diff([]string{"gone", "sleeper"}, names); diff != "" {
		t.Errorf("pid files (-want +got):\n%s", diff)
	}
	if len(m.Remembered) != 1 || m.Remembered[0].PID != started.PID {
		t.Fatalf("running: got %+v, want process %d alone", m.Remembered, started.PID)
	}
	ended, err := EndAll(t.Context(), func(all []Info) []Info { return m.Select(all, os.Getpid()) }, 10*time.Second)
	if err != nil || ended < 1 {
		t.Fatalf("EndAll() = %d, %v, want at least 1 process ended", ended, err)
	}
	select {
	case <-started.Exited:
	case <-time.After(10 * time.Second):
		t.Fatal("the process survived")
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(Program{Name: "nothing", Argv: []string{"/no/such/program"}, LogsDir: dir, PidsDir: dir})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("Start() = %v, want fs.ErrNotExist that names the component", err)
	}
}

func TestRunCarriesOutputInItsError(t *testing.T) {
	err := Run(t.Context(), Namespaces{}, strings.NewReader("input"), "sh", "-c", "cat; echo complaint >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "complaint") || !strings.Contains(err.Error(), "input") {
		t.Errorf("Run() = %v, want an error with the output", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Namespaces{}, nil, "sleep", "1000"); err == nil {
		t.Error("a cancelled run succeeded")
	}
}

func TestEnter(t *testing.T) {
	tests := []struct {
		name string
		in   Namespaces
		want string
	}{
		{name: "nowhere", want: "ip link"},
		{name: "network only", in: Namespaces{Net: 5}, want: "nsenter --net=/proc/5/ns/net -- ip link"},
		{name: "both", in: Namespaces{Mount: 4, Net: 5}, want: "nsenter --mount=/proc/4/ns/mnt --net=/proc/5/ns/net -- ip link"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(tt.in.Enter("ip", "link"), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
