package artifact

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// ErrLFSPointer is the cause of every error about a file that stands in for
// another one.
var ErrLFSPointer = errors.New("Git LFS pointer") //nolint:staticcheck // Git is a name.

// MaxLFSPointer bounds a Git LFS pointer, in bytes, as its specification does: a
// longer file is none, and so many bytes are enough to tell.
const MaxLFSPointer = 1024

// lfsVersions begin the first line of a pointer; the second is what the tool was
// called at first.
var lfsVersions = [][]byte{
	[]byte("version https://git-lfs.github.com/spec/"),
	[]byte("version https://hawser.github.com/spec/"),
}

// CheckLFSPointer returns an error that wraps ErrLFSPointer if head, the beginning
// of the file called name (all of it where it is no longer than MaxLFSPointer), is
// a Git LFS pointer: the few lines that a clone has in place of a large file until
// `git lfs pull`. Every reader of files that come from a repository asks this
// first, because a pointer read as weights or JSON fails with an error that says
// nothing.
func CheckLFSPointer(name string, head []byte) error {
	if !isLFSPointer(head) {
		return nil
	}
	size := "the file"
	if n, ok := lfsSize(head); ok {
		size = fmt.Sprintf("the file of %d bytes", n)
	}
	return fmt.Errorf("%s is a %w, not the file itself: fetch %s (git lfs pull in the clone, or download it)", name, ErrLFSPointer, size)
}

func isLFSPointer(head []byte) bool {
	if len(head) > MaxLFSPointer || !bytes.Contains(head, []byte("\noid ")) {
		return false
	}
	for _, version := range lfsVersions {
		if bytes.HasPrefix(head, version) {
			return true
		}
	}
	return false
}

// lfsSize reads the line "size N".
func lfsSize(pointer []byte) (int64, bool) {
	for line := range bytes.Lines(pointer) {
		if value, ok := bytes.CutPrefix(line, []byte("size ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}
