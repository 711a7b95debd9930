package artifact_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

// names lists what is in a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestAFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := artifact.WriteFileAtomic(path, text("first")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := artifact.WriteFileAtomic(path, func(w io.Writer) error {
		if _, err := io.WriteString(w, strings.Repeat("half", 1<<20)); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "first" {
		t.Errorf("the file holds %.10q (%v)", b, err)
	}
	if diff := cmp.Diff([]string{"state.json"}, names(t, dir)); diff != "" {
		t.Errorf("files left -want +got\n%s", diff)
	}
}

func TestTheGroupMayWriteWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	root := t.TempDir()
	stage, err := artifact.Stage(filepath.Join(root, "models"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stage.Dir(), "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	final := filepath.Join(root, "models", "sha256-1")
	if err := stage.Publish(final); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		filepath.Dir(final): artifact.DirMode, final: artifact.DirMode, filepath.Join(final, "a"): artifact.FileMode,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
}

// staged returns a staging folder that holds one file and a manifest.
func staged(t *testing.T, root, content string) *artifact.Staging {
	t.Helper()
	stage, err := artifact.Stage(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := artifact.WriteFileAtomic(filepath.Join(stage.Dir(), "file"), text(content)); err != nil {
		t.Fatal(err)
	}
	if err := artifact.WriteManifest(stage.Dir(), map[string]string{"content": content}); err != nil {
		t.Fatal(err)
	}
	return stage
}

func TestPublishing(t *testing.T) {
	root := t.TempDir()
	final := filepath.Join(root, "sha256-1")
	read := func() string {
		b, err := os.ReadFile(filepath.Join(final, "file"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	t.Run("replaces a folder without a manifest", func(t *testing.T) {
		if err := os.MkdirAll(filepath.Join(final, "half"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := staged(t, root, "one").Publish(final); err != nil {
			t.Fatal(err)
		}
		if got := read(); got != "one" {
			t.Errorf("holds %q", got)
		}
	})
	t.Run("leaves an artifact that is there", func(t *testing.T) {
		stage := staged(t, root, "two")
		if err := stage.Publish(final); err != nil {
			t.Fatal(err)
		}
		if got := read(); got != "one" {
			t.Errorf("holds %q", got)
		}
		if err := stage.Discard(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"sha256-1"}, names(t, root)); diff != "" {
			t.Errorf("folders -want +got\n%s", diff)
		}
	})
	t.Run("refuses links", func(t *testing.T) {
		stage := staged(t, root, "three")
		if err := os.Symlink("/etc/passwd", filepath.Join(stage.Dir(), "link")); err != nil {
			t.Fatal(err)
		}
		if err := stage.Publish(filepath.Join(root, "sha256-2")); err == nil {
			t.Error("a link was published")
		}
		if err := stage.Discard(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPublishingToAUsersPlaceReplacesNothing(t *testing.T) {
	root := t.TempDir()
	file, full, empty := filepath.Join(root, "file"), filepath.Join(root, "full"), filepath.Join(root, "empty")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.MkdirAll(filepath.Join(full, "something"), 0o700), os.Mkdir(empty, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{file, full} {
		stage := staged(t, root, "one")
		if err := stage.PublishNew(taken); err == nil || !strings.Contains(err.Error(), "no empty folder") {
			t.Errorf("%s: got %v", taken, err)
		}
		if err := stage.Discard(); err != nil {
			t.Error(err)
		}
	}
	for _, free := range []string{empty, filepath.Join(root, "new")} {
		if err := staged(t, root, "two").PublishNew(free); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"empty", "file", "full", "new"}, names(t, root)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"something"}, names(t, full)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestSweepingSparesTheLiving(t *testing.T) {
	root := t.TempDir()
	living, dead := staged(t, root, "living"), staged(t, root, "dead")
	if err := dead.Release(); err != nil { // As the kernel does when a process dies.
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	for _, s := range []*artifact.Staging{living, dead} {
		if err := os.Chtimes(s.Dir(), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "sha256-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := artifact.Sweep(root); err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Base(living.Dir()), "sha256-1"}
	if diff := cmp.Diff(want, names(t, root)); diff != "" {
		t.Errorf("folders -want +got\n%s", diff)
	}
	if err := living.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestWorkThatIsContinuedHasOneOwner(t *testing.T) {
	root := t.TempDir()
	first, err := artifact.StageAt(root, ".work-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.StageAt(root, ".work-1"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second owner got %v", err)
	}
	if err := os.WriteFile(filepath.Join(first.Dir(), "done"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	next, err := artifact.StageAt(root, ".work-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"done"}, names(t, next.Dir())); diff != "" {
		t.Errorf("work -want +got\n%s", diff)
	}
	if err := next.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := artifact.HashFiles(dir, []string{"b", "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := artifact.Verify(dir, files); err != nil {
		t.Fatal(err)
	}
	if got := artifact.TotalBytes(files); got != 24 {
		t.Errorf("%d bytes", got)
	}
	for name, c := range map[string]struct {
		damage func() error
		want   string
	}{
		"a flipped bit":  {func() error { return os.WriteFile(filepath.Join(dir, "a"), []byte("content of b"), 0o600) }, "digest"},
		"a short file":   {func() error { return os.Truncate(filepath.Join(dir, "a"), 3) }, "3 bytes"},
		"a missing file": {func() error { return os.Remove(filepath.Join(dir, "a")) }, "no such file"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("content of a"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		if err := artifact.Verify(dir, files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	outside := []contract.FileEntry{{Path: "../a"}}
	if err := artifact.Verify(dir, outside); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("a path out of the folder: %v", err)
	}
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	if artifact.Complete(dir) {
		t.Error("a folder without a manifest is complete")
	}
	if _, err := artifact.ReadManifest[contract.ModelManifest](dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	want := contract.ModelManifest{Digest: "sha256:1", Files: []contract.FileEntry{{Path: "a", SizeBytes: 1, SHA256: "sha256:2"}}}
	if err := artifact.WriteManifest(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := artifact.ReadManifest[contract.ModelManifest](dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || !artifact.Complete(dir) {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestVerifyingNoticesCancellation verifies a file so large that reading it takes
// minutes; it has no blocks, so that it takes no room.
func TestVerifyingNoticesCancellation(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 38
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err = artifact.VerifyContext(ctx, dir, []contract.FileEntry{{Path: "huge", SizeBytes: size, SHA256: "sha256:0"}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 5*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begun))
	}
}
