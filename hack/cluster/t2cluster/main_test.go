package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

// call runs the tool with a state home of the test's own.
func call(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	home, err := os.MkdirTemp("", "t2") //nolint:usetesting // shorter than the test's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	e := env{stdout: &out, stderr: &errs, getenv: func(name string) string {
		if name == "XDG_STATE_HOME" {
			return home
		}
		return ""
	}}
	status = run(t.Context(), e, args)
	return status, out.String(), errs.String()
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, c := range commands() {
		t.Run(c.name, func(t *testing.T) {
			status, stdout, stderr := call(t, c.name, "--help")
			if status != 0 || stderr != "" || !strings.Contains(stdout, "Example:\n  ") || !strings.Contains(stdout, "t2cluster "+c.name) {
				t.Errorf("status %d, stdout:\n%s\nstderr:\n%s", status, stdout, stderr)
			}
		})
	}
}

func TestHelpListsTheCommands(t *testing.T) {
	status, stdout, _ := call(t, "--help")
	if status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	for _, name := range []string{"build", "up", "down", "status", "kubeconfig", "load-image", "logs", "exec", "fault", "image", "assets"} {
		if !strings.Contains(stdout, "\n  "+name+" ") {
			t.Errorf("no line for %s in:\n%s", name, stdout)
		}
	}
	if strings.Contains(stdout, "\n  hold ") {
		t.Error("the inner command hold is listed")
	}
}

func TestWrongUsageIsStatus2(t *testing.T) {
	tests := []struct {
		name, want string
		args       []string
	}{
		{name: "no command", want: "Usage"},
		{name: "an unknown command", args: []string{"upp"}, want: "upp"},
		{name: "an unknown flag", args: []string{"up", "--nods", "2"}, want: "nods"},
		{name: "a flag's value of the wrong kind", args: []string{"up", "--nodes", "two"}, want: "two"},
		{name: "too many nodes", args: []string{"up", "--bin", "/b", "--nodes", "1000"}, want: "1 to 100"},
		{name: "a name that is none", args: []string{"up", "--bin", "/b", "--name", "Hello World"}, want: "Hello World"},
		{name: "a subnet that is none", args: []string{"up", "--bin", "/b", "--subnet", "1.2.3.4"}, want: "1.2.3.4"},
		{name: "an argument too many", args: []string{"up", "now"}, want: "now"},
		{name: "an image without a name", args: []string{"image", "--out", "/x.tar"}, want: "--name"},
		{name: "an image with a crooked addition", args: []string{"image", "--out", "/x.tar", "--name", "a.dev/b:c", "--entrypoint", "/b", "--add", "nowhere"}, want: "nowhere"},
		{name: "an image with a crooked variable", args: []string{"image", "--out", "/x.tar", "--name", "a.dev/b:c", "--entrypoint", "/b", "--env", "X"}, want: "NAME=value"},
		{name: "no image to load", args: []string{"load-image"}, want: "tarball"},
		{name: "nothing to run", args: []string{"exec"}, want: "program"},
		{name: "a fault without a part", args: []string{"fault", "kill"}, want: "a verb and a part"},
		{name: "no folder for assets", args: []string{"assets"}, want: "folder"},
		{name: "nothing to hold", args: []string{"hold"}, want: "--dir"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, _, stderr := call(t, tt.args...)
			if status != exitUsage || !strings.Contains(stderr, tt.want) {
				t.Errorf("status %d, want %d; stderr %q, want %q in it", status, exitUsage, stderr, tt.want)
			}
		})
	}
}

func TestWithoutAClusterTheAnswerIsStatus1AndSaysWhatToDo(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"kubeconfig"}, {"logs"}, {"exec", "true"}, {"load-image", "/no/such.tar"}, {"fault", "kill", "etcd"}} {
		t.Run(args[0], func(t *testing.T) {
			status, stdout, stderr := call(t, args...)
			if status != exitFailed || stdout != "" || !strings.Contains(stderr, "t2cluster up") {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
		})
	}
}

func TestUpNamesWhatIsMissingBeforeItChangesAnything(t *testing.T) {
	bin := t.TempDir()
	status, _, stderr := call(t, "up", "--bin", bin)
	if status != exitFailed || !strings.Contains(stderr, "t2cluster build --bin "+bin) || !strings.Contains(stderr, "kubelet") {
		t.Errorf("status %d, stderr %q: want it to name what is missing and how to build it", status, stderr)
	}
}

func TestOnlyOneCallAtATimeChangesACluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: %v, want an error that names the folder", err)
	}
	if other, err := lock(dir + "-other"); err != nil {
		t.Errorf("another cluster's lock: %v", err)
	} else {
		other()
	}
	unlock()
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after unlocking: %v", err)
	}
	again()
}

func TestSettleSubnet(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("0.0.0.0/0")}
	tests := []struct {
		name, subnet string
		wanted       bool
		want         string
	}{
		{name: "nobody cares, the usual one is taken", want: "10.99.1.0/24"},
		{name: "wanted and free", subnet: "10.50.0.0/24", wanted: true, want: "10.50.0.0/24"},
		{name: "wanted and taken", subnet: "10.99.0.0/16", wanted: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := layout.New("t2", "/s", "", tt.subnet, 1)
			if err != nil {
				t.Fatal(err)
			}
			err = settleSubnet(&c, tt.wanted, taken)
			if tt.want == "" {
				if err == nil || !strings.Contains(err.Error(), "--subnet") {
					t.Errorf("got %v, want an error that says what to do", err)
				}
				return
			}
			if err != nil || c.Subnet.String() != tt.want {
				t.Errorf("got %s, %v, want %s", c.Subnet, err, tt.want)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	tests := []struct {
		n    int
		want string
	}{{0, "a\nb\nc\n"}, {1, "c\n"}, {2, "b\nc\n"}, {3, "a\nb\nc\n"}, {9, "a\nb\nc\n"}}
	for _, tt := range tests {
		if got := lastLines("a\nb\nc\n", tt.n); got != tt.want {
			t.Errorf("lastLines(%d) = %q, want %q", tt.n, got, tt.want)
		}
	}
	if got := lastLines("", 3); got != "" {
		t.Errorf("lastLines of nothing = %q", got)
	}
}
