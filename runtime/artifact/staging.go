package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// staleAge is when an abandoned staging folder is swept on a file system that
// has no locks.
const staleAge = 6 * time.Hour

// Staging is a folder in the making. Its owner holds a lock on it, which the
// kernel releases when the process dies, so that the next process knows which
// folders nobody will ever finish.
type Staging struct {
	dir  string
	lock *os.File
}

// Stage creates a staging folder in root, which is created if it is missing,
// after removing those that earlier processes abandoned there (a killed pod
// must not eat the volume).
func Stage(root string) (*Staging, error) {
	if err := MkdirAll(root); err != nil {
		return nil, err
	}
	if err := Sweep(root); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	return own(dir)
}

// StageAt opens or creates the staging folder of this name in root, for work
// that a restarted process continues. The name should begin with a dot.
// It fails if another process is at work there.
func StageAt(root, name string) (*Staging, error) {
	dir := filepath.Join(root, name)
	if err := MkdirAll(dir); err != nil {
		return nil, err
	}
	return own(dir)
}

func own(dir string) (*Staging, error) {
	if err := os.Chmod(dir, DirMode|setgid(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("staging: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !locksMissing(err) {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process: %w", dir, err), lock.Close())
	}
	return &Staging{dir: dir, lock: lock}, nil
}

// locksMissing reports whether the file system knows no locks.
func locksMissing(err error) bool {
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.EOPNOTSUPP)
}

// PublishDigest writes the manifest of the content and publishes both, beside where they
// were made, as the artifact of this digest.
func (s *Staging) PublishDigest(digest string, manifest any) error {
	name, err := contract.DigestDir(digest)
	if err != nil {
		return err
	}
	if err := WriteManifest(s.dir, manifest); err != nil {
		return err
	}
	return s.Publish(filepath.Join(filepath.Dir(s.dir), name))
}

// Dir is where the content is to be written.
func (s *Staging) Dir() string { return s.dir }

// Publish makes the content durable and renames the folder to final. If final
// is there already, with a manifest, it has the same content (names are
// digests) and stays; ours is removed.
func (s *Staging) Publish(final string) error {
	if err := seal(s.dir); err != nil {
		return err
	}
	if err := MkdirAll(filepath.Dir(final)); err != nil {
		return err
	}
	err := os.Rename(s.dir, final)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		if Touch(final); Complete(final) {
			return s.Discard()
		}
		// A folder without a manifest is no artifact; nobody reads it.
		if err := os.RemoveAll(final); err != nil {
			return fmt.Errorf("replacing incomplete %s: %w", final, err)
		}
		err = os.Rename(s.dir, final)
	}
	if err != nil {
		return fmt.Errorf("publishing %s: %w", final, err)
	}
	return errors.Join(syncPath(filepath.Dir(final)), ignoreClosed(s.lock.Close()))
}

// PublishNew is Publish to a place that must not be there yet or be an empty folder:
// whatever a user has there stays, and is an error.
func (s *Staging) PublishNew(final string) error {
	if err := seal(s.dir); err != nil {
		return err
	}
	// Rename replaces files, and refuses folders even if they are empty.
	if err := syscall.Rmdir(final); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("publishing %s: what is there is no empty folder: %w", final, err)
	}
	if err := os.Rename(s.dir, final); err != nil {
		return fmt.Errorf("publishing %s: %w", final, err)
	}
	return errors.Join(syncPath(filepath.Dir(final)), ignoreClosed(s.lock.Close()))
}

// Discard removes the folder. After Publish it does nothing.
func (s *Staging) Discard() error {
	// After Publish another process may have staged under the same name, so
	// only the holder of the lock removes.
	if err := s.lock.Close(); err != nil {
		return ignoreClosed(err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("removing staging folder: %w", err)
	}
	return nil
}

// Release gives the folder up without removing it, so that a later StageAt
// continues the work.
func (s *Staging) Release() error { return ignoreClosed(s.lock.Close()) }

// Sweep removes staging folders and files in root whose process has died.
func Sweep(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(root, e.Name())
		if stale, err := abandoned(path, e); err != nil || !stale {
			continue // Gone already, or in use.
		}
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	return nil
}

func abandoned(path string, e fs.DirEntry) (bool, error) {
	info, err := e.Info()
	if err != nil {
		return false, err
	}
	if !e.IsDir() {
		return time.Since(info.ModTime()) > staleAge, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // Releases the lock.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		// A folder younger than this may not have its lock yet.
		return time.Since(info.ModTime()) > 5*time.Second, nil
	case locksMissing(err):
		return time.Since(info.ModTime()) > staleAge, nil
	default:
		return false, nil
	}
}

// Complete reports whether dir holds an artifact: a folder with a manifest.
func Complete(dir string) bool {
	_, err := ReadManifest[struct{}](dir)
	return err == nil
}

// seal gives everything below dir its mode and makes it durable.
func seal(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("sealing: %w", err)
		}
		mode := FileMode
		if e.IsDir() {
			mode = DirMode | setgid(path)
		} else if !e.Type().IsRegular() {
			return fmt.Errorf("%s is no regular file: an artifact has files and folders only", path)
		}
		if err := os.Chmod(path, mode); err != nil { //nolint:gosec // Only this process knows the staging folder; links are refused above.
			return fmt.Errorf("sealing: %w", err)
		}
		return syncPath(path)
	})
}
