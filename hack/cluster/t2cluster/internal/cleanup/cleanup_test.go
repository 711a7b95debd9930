package cleanup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

func write(t *testing.T, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestRemoveFolder(t *testing.T) {
	t.Run("of a cluster, and the empty parent of all clusters", func(t *testing.T) {
		root := t.TempDir()
		dir := filepath.Join(root, layout.ParentName, "t2")
		write(t, "{}", dir, layout.Marker)
		write(t, "x", dir, "node-1", "deep", "file")
		if removed, err := removeFolder(dir); err != nil || !removed {
			t.Fatalf("removeFolder() = %t, %v", removed, err)
		}
		if exists(filepath.Dir(dir)) {
			t.Error("the parent is left, although empty")
		}
	})
	t.Run("beside another cluster's", func(t *testing.T) {
		root := t.TempDir()
		dir := filepath.Join(root, layout.ParentName, "t2")
		write(t, "{}", dir, layout.Marker)
		other := write(t, "{}", root, layout.ParentName, "e2e", layout.Marker)
		if removed, err := removeFolder(dir); err != nil || !removed {
			t.Fatalf("removeFolder() = %t, %v", removed, err)
		}
		if exists(dir) || !exists(other) {
			t.Errorf("own folder left: %t, other cluster's left: %t", exists(dir), exists(other))
		}
	})
	t.Run("that an interrupted removal left with the marker alone", func(t *testing.T) {
		dir := t.TempDir()
		write(t, "{}", dir, layout.Marker)
		if removed, err := removeFolder(dir); err != nil || !removed || exists(dir) {
			t.Fatalf("removeFolder() = %t, %v", removed, err)
		}
	})
	t.Run("that is not there", func(t *testing.T) {
		if removed, err := removeFolder(filepath.Join(t.TempDir(), "none")); err != nil || removed {
			t.Fatalf("removeFolder() = %t, %v, want nothing to do", removed, err)
		}
	})
	t.Run("of somebody who meant another --dir", func(t *testing.T) {
		dir := t.TempDir()
		thesis := write(t, "years of work", dir, "thesis.tex")
		if removed, err := removeFolder(dir); err == nil || removed {
			t.Fatalf("removeFolder() = %t, %v, want a refusal", removed, err)
		}
		if !exists(thesis) {
			t.Fatal("it is gone")
		}
	})
	t.Run("does not follow links out of it", func(t *testing.T) {
		precious := write(t, "x", t.TempDir(), "precious")
		dir := t.TempDir()
		write(t, "{}", dir, layout.Marker)
		if err := os.Symlink(filepath.Dir(precious), filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if _, err := removeFolder(dir); err != nil {
			t.Fatal(err)
		}
		if !exists(precious) {
			t.Fatal("what a link led to is gone")
		}
	})
}

func TestReturnBorrowedRemovesOnlyWhatIsOnItsList(t *testing.T) {
	c, err := layout.New("t2", "/s", "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if err := returnBorrowed(c); err != nil {
		t.Fatalf("without a note: %v", err)
	}
	victim := filepath.Join(t.TempDir(), "empty")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, victim+"\n", c.Dir, sandbox.BorrowedFile)
	if err := returnBorrowed(c); err != nil {
		t.Errorf("a note that names a strange folder: %v", err)
	}
	if !exists(victim) {
		t.Error("the strange folder was removed")
	}
}

func TestRemovingWhatIsNotThereIsNoError(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, as clusters do")
	}
	c, err := layout.New("nosuch", "/s", "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = filepath.Join(t.TempDir(), "none")
	for range 2 {
		report, err := Cluster(t.Context(), c)
		if err != nil || !report.Nothing() {
			t.Fatalf("Cluster() = %+v, %v, want nothing found", report, err)
		}
	}
}
