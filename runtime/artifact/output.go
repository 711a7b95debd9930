package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxLinks is how many links in a row are followed, as many as Linux follows.
const maxLinks = 40

// WriteFile writes b to path in place: over what a file has, so that one that
// is mounted there, and nothing can be renamed over, gets it too. What is no
// regular file is written to as WriteFileAtomic does.
func WriteFile(path string, b []byte) error {
	final, f, err := follow(path)
	if err == nil && f == nil {
		f, err = os.OpenFile(final, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, FileMode)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Create opens path to write to bit by bit, such as a profile; the file is
// empty at first. What is no regular file is written to as it is.
func Create(path string) (*os.File, error) {
	final, f, err := follow(path)
	if err == nil && f == nil {
		f, err = os.Create(final)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s to write to it: %w", path, err)
	}
	return f, nil
}

// follow follows the links that path ends in and returns what they lead to. If
// that is a regular file, a folder or nothing, it is for the caller to make or
// replace, and f is nil. Anything else (a device, a pipe, a terminal, one of
// this process's own descriptors by a name like /dev/stdout) is not the
// caller's to replace: f then writes to it.
func follow(path string) (final string, f *os.File, err error) {
	at := path
	for range maxLinks {
		dir, name := filepath.Split(at)
		if fd, ok := ownDescriptor(dir, name); ok {
			f, err := duplicate(fd, path)
			return at, f, err
		}
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return at, nil, nil
		case err != nil:
			return "", nil, err
		case info.Mode().IsRegular() || info.IsDir():
			return at, nil, nil
		case info.Mode()&fs.ModeSymlink == 0:
			f, err := os.OpenFile(at, os.O_WRONLY|syscall.O_NOCTTY, 0)
			return at, f, err
		}
		link, err := os.Readlink(at)
		if err != nil {
			return "", nil, err
		}
		if !filepath.IsAbs(link) {
			link = dir + link // Not cleaned: dir may itself be a link, and ".." then leads elsewhere.
		}
		at = link
	}
	return "", nil, syscall.ELOOP
}

// ownDescriptor tells whether dir is where the kernel lists the descriptors of
// this process, as it is for /dev/stdout and /dev/fd/63, and which one name is.
// The file behind one must not be opened anew: it would begin at its start.
func ownDescriptor(dir, name string) (int, bool) {
	fd, err := strconv.Atoi(name)
	if err != nil || dir == "" {
		return 0, false
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, false
	}
	resolved, err := filepath.EvalSymlinks(dir)
	return fd, err == nil && resolved == filepath.Join("/proc", self, "fd")
}

func duplicate(fd int, name string) (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	copied, err := syscall.Dup(fd)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(copied)
	return os.NewFile(uintptr(copied), name), nil
}
