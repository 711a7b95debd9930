package artifact_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/artifact"
)

// writers are the ways in which the runtime writes to a path that somebody
// names.
var writers = map[string]func(path, content string) error{
	"WriteFileAtomic": func(path, content string) error { return artifact.WriteFileAtomic(path, text(content)) },
	"WriteFile":       func(path, content string) error { return artifact.WriteFile(path, []byte(content)) },
	"Create": func(path, content string) error {
		f, err := artifact.Create(path)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(f, content); err != nil {
			return err
		}
		return f.Close()
	},
}

// TestAPipeIsWrittenToAndStays also goes by way of links to it.
func TestAPipeIsWrittenToAndStays(t *testing.T) {
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pipe, link, far := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "far")
			check(t, syscall.Mkfifo(pipe, 0o600))
			check(t, os.Symlink("pipe", link))
			check(t, os.Symlink(link, far))
			// Held open for reading, so that opening it for writing does not wait.
			reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
			check(t, err)
			defer func() { check(t, reader.Close()) }()
			for _, path := range []string{pipe, link, far} {
				check(t, write(path, "to a pipe"))
				check(t, reader.SetReadDeadline(time.Now().Add(time.Minute)))
				got := make([]byte, 64)
				n, err := reader.Read(got)
				if err != nil || string(got[:n]) != "to a pipe" {
					t.Errorf("through %s came %q (%v)", filepath.Base(path), got[:n], err)
				}
			}
			if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
				t.Errorf("the pipe is now %v (%v)", info.Mode(), err)
			}
			if diff := cmp.Diff([]string{"far", "link", "pipe"}, names(t, dir)); diff != "" {
				t.Errorf("files left -want +got\n%s", diff)
			}
		})
	}
}

// TestADeviceIsWrittenToAndStays has a device of its own, of the kind that
// takes everything and keeps nothing.
func TestADeviceIsWrittenToAndStays(t *testing.T) {
	const takesAll = 1<<8 | 3 // major 1, minor 3
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			device := filepath.Join(t.TempDir(), "device")
			if err := syscall.Mknod(device, syscall.S_IFCHR|0o600, takesAll); err != nil {
				t.Skipf("this user makes no devices: %v", err)
			}
			if f, err := os.OpenFile(device, os.O_WRONLY, 0); err != nil {
				t.Skipf("devices do not work in this folder: %v", err)
			} else {
				check(t, f.Close())
			}
			check(t, write(device, "to a device"))
			if info, err := os.Lstat(device); err != nil || info.Mode()&os.ModeCharDevice == 0 {
				t.Errorf("the device is now %v (%v)", info.Mode(), err)
			}
		})
	}
}

// TestALinkStaysAndItsFileIsWritten also where the file is yet to be made.
func TestALinkStaysAndItsFileIsWritten(t *testing.T) {
	for name, write := range writers {
		for _, old := range []string{"", "what was there before, and is longer"} {
			t.Run(fmt.Sprintf("%s over %d bytes", name, len(old)), func(t *testing.T) {
				dir := t.TempDir()
				// real/ and alias/../file is real's parent's file only if alias is not
				// resolved by its name.
				check(t, os.MkdirAll(filepath.Join(dir, "deep", "real"), 0o700))
				check(t, os.Symlink(filepath.Join("deep", "real"), filepath.Join(dir, "alias")))
				check(t, os.Symlink("../file", filepath.Join(dir, "deep", "real", "link")))
				file := filepath.Join(dir, "deep", "file")
				if old != "" {
					check(t, os.WriteFile(file, []byte(old), 0o600))
				}
				check(t, write(filepath.Join(dir, "alias", "link"), "new"))
				if b, err := os.ReadFile(file); err != nil || string(b) != "new" {
					t.Errorf("the file holds %q (%v)", b, err)
				}
				if to, err := os.Readlink(filepath.Join(dir, "alias", "link")); err != nil || to != "../file" {
					t.Errorf("the link leads to %q (%v)", to, err)
				}
			})
		}
	}
}

func TestALoopOfLinksIsAnError(t *testing.T) {
	for name, write := range writers {
		dir := t.TempDir()
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		check(t, os.Symlink("b", a))
		check(t, os.Symlink("a", b))
		if err := write(a, "x"); err == nil || !strings.Contains(err.Error(), a) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, a)
		}
	}
}

// envWriter makes the test binary write to its own standard output by name.
const envWriter = "T2_TEST_WRITER"

func TestMain(m *testing.M) {
	if name := os.Getenv(envWriter); name != "" {
		fmt.Println("before")
		if err := writers[name]("/dev/stdout", "by name\n"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("after")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestStandardOutputByNameKeepsItsPlace holds for output into a pipe and into a
// file, which must not be begun anew.
func TestStandardOutputByNameKeepsItsPlace(t *testing.T) {
	const want = "before\nby name\nafter\n"
	for name := range writers {
		child := func() *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), envWriter+"="+name)
			return cmd
		}
		if out, err := child().CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s into a pipe: %q (%v), want %q", name, out, err, want)
		}
		path := filepath.Join(t.TempDir(), "out")
		f, err := os.Create(path)
		check(t, err)
		cmd := child()
		cmd.Stdout = f
		check(t, cmd.Run())
		check(t, f.Close())
		if out, err := os.ReadFile(path); err != nil || string(out) != want {
			t.Errorf("%s into a file: %q (%v), want %q", name, out, err, want)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
