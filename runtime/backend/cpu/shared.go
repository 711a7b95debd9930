package cpu

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
)

// Weights that never change are shared by processes as files: each is packed and written
// once, by whoever needs it first, and mapped by all. Files lie in sets: one folder for
// the matrices of an artifact, of one type, as one instruction path lays them out. A file
// is complete from the moment it has its name, and is never written to again, so that
// what is mapped stays as it is, also when somebody removes the file.
//
//	DIR/<set>/.used      locked, shared, by each process that uses the set
//	DIR/<set>/.making    locked by who makes a file, for which others wait
//	DIR/<set>/<name>.w   a matrix, packed; .t its transpose

const (
	// layoutVersion changes with what packed holds for the same matrix, or the format of
	// files.
	layoutVersion = "t2-panels/1"

	usedFile, makingFile = ".used", ".making"
	forwardFile          = ".w"
	transposedFile       = ".t"

	// makingPatience is how long a file is waited for that another process makes; after it
	// both make it.
	makingPatience = 5 * time.Minute
	makingLook     = 10 * time.Millisecond

	// Group-writable, as all on a data volume: pods of other users share it.
	sharedDirMode  fs.FileMode = 0o775
	sharedFileMode fs.FileMode = 0o664
)

// sharing is a folder of shared weights.
type sharing struct {
	dir  string
	path func() string // Of instructions.
	log  *slog.Logger
	once sync.Once // What it says is said once.

	mu   sync.Mutex
	sets map[string]*sharedSet
}

// sharedSet is one that this process uses; without a lock it could not be opened.
type sharedSet struct {
	sharing *sharing
	dir     string
	lock    *os.File
}

// sharedMatrix is a matrix of a set, or its transpose.
type sharedMatrix struct {
	set  *sharedSet
	name string
	turn bool
}

var _ backend.Sharer = (*Backend)(nil)

// ShareWeights implements backend.Sharer.
func (b *Backend) ShareWeights(dir string, log *slog.Logger) {
	b.shared.Store(&sharing{dir: dir, path: b.Path, log: log, sets: map[string]*sharedSet{}})
}

// SharedWeight implements backend.Sharer.
func (b *Backend) SharedWeight(of backend.Origin, t backend.DType, out, in int, data func() ([]float32, error)) (backend.Weight, error) {
	made := func() (*packed, error) {
		values, err := data()
		if err != nil {
			return nil, err
		}
		if values == nil {
			values = []float32{} // Not zeros.
		}
		w, err := b.NewWeight(t, out, in, values)
		if err != nil {
			return nil, err
		}
		return w.(*weight).forward, nil //nolint:forcetypeassert // This backend's.
	}
	shared := b.shared.Load().matrix(of, t)
	if shared == nil || out <= 0 || in <= 0 || int(t) >= len(formats) {
		forward, err := made()
		if err != nil {
			return nil, err
		}
		return &weight{forward: forward}, nil
	}
	leave, err := b.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	forward, err := shared.get(b.weights, layout(t, out, in, b.kernels.width(t)), made)
	if err != nil {
		return nil, err
	}
	return &weight{forward: forward, shared: shared}, nil
}

// plainName is a name that makes one of a file.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,200}$`)

// matrix returns a matrix of a set, or nil where it cannot be shared.
func (s *sharing) matrix(of backend.Origin, t backend.DType) *sharedMatrix {
	if s == nil || !plainName.MatchString(of.Name) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Words are as this processor's memory has them.
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s", layoutVersion, of.Digest, t, s.path(), runtime.GOARCH))
	name := hex.EncodeToString(key[:16])
	set, ok := s.sets[name]
	if !ok {
		set = &sharedSet{sharing: s, dir: filepath.Join(s.dir, name)}
		if err := set.open(); err != nil {
			s.private(err)
		}
		s.sets[name] = set
	}
	if set.lock == nil {
		return nil
	}
	return &sharedMatrix{set: set, name: of.Name}
}

// private says why weights are this process's own.
func (s *sharing) private(err error) {
	s.once.Do(func() {
		s.log.Warn("Weights were not shared with other processes: they take memory of this one's own", "error", err)
	})
}

// open makes the set's folder, and marks it as in use.
func (s *sharedSet) open() error {
	for range 3 {
		if err := errors.Join(makeDir(s.sharing.dir), makeDir(s.dir)); err != nil {
			return err
		}
		lock, err := openLock(filepath.Join(s.dir, usedFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // It was collected.
		}
		if err != nil {
			return err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil && !locksMissing(err) {
			_ = lock.Close() // Nothing was written.
			continue         // It is being collected.
		}
		if there, err := os.Stat(lock.Name()); err != nil || !sameFile(lock, there) {
			_ = lock.Close() // Likewise.
			continue         // It was.
		}
		now := time.Now()
		_ = os.Chtimes(lock.Name(), now, now) // At worst it is collected sooner.
		s.lock = lock
		s.sharing.collect(keptSets, func() bool { return false })
		return nil
	}
	return fmt.Errorf("%s: the folder is removed again and again", s.dir)
}

// close ends the use of all sets.
func (s *sharing) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, set := range s.sets {
		if set.lock != nil {
			errs = append(errs, set.lock.Close())
		}
	}
	s.sets = nil
	return errors.Join(errs...)
}

// turned is the transpose.
func (m *sharedMatrix) turned() *sharedMatrix {
	return &sharedMatrix{set: m.set, name: m.name, turn: true}
}

func (m *sharedMatrix) path() string {
	if m.turn {
		return filepath.Join(m.set.dir, m.name+transposedFile)
	}
	return filepath.Join(m.set.dir, m.name+forwardFile)
}

// get maps the matrix, of this layout. Where it is not there yet, it is made and written;
// where that fails, it is as it was made.
func (m *sharedMatrix) get(memory *memory, as *packed, made func() (*packed, error)) (*packed, error) {
	if p := m.find(memory, as, false); p != nil {
		return p, nil
	}
	if making := m.set.making(); making != nil {
		defer func() { _ = making.Close() }() // Nothing was written.
	}
	if p := m.find(memory, as, true); p != nil { // Made by who was waited for.
		return p, nil
	}
	own, err := made()
	if err != nil {
		return nil, err
	}
	if err := m.write(own); err != nil {
		m.set.sharing.private(err)
		return own, nil
	}
	if p := m.find(memory, as, false); p != nil {
		own.release(memory)
		return p, nil
	}
	return own, nil
}

// find maps the matrix if it is there. What is there and is none may be removed.
func (m *sharedMatrix) find(memory *memory, as *packed, remove bool) *packed {
	mapped, err := mapPanels(m.path(), m.signature(as), as.words())
	switch {
	case err == nil:
		return as.over(memory, mapped)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged) && !remove:
		return nil
	case errors.Is(err, errDamaged):
		m.set.sharing.log.Warn("A shared weight was damaged, and is made anew", "file", m.path(), "error", err)
		err = os.Remove(m.path())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.set.sharing.private(err)
	}
	return nil
}

// write makes the matrix's file. One that another process has made meanwhile stays.
func (m *sharedMatrix) write(p *packed) error {
	if err := m.set.sharing.makeRoom(4 * int64(p.words())); err != nil {
		return err
	}
	return writePanels(m.path(), m.signature(p), p)
}

// signature says what a file must be: which matrix, in which layout.
func (m *sharedMatrix) signature(p *packed) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%t\n%s [%d %d] panels of %d rows, %d steps of %d words",
		layoutVersion, filepath.Base(m.set.dir), m.name, m.turn, p.kind, p.out, p.k, p.nr, p.steps, p.stepWords))
}

// making waits until this process alone makes files of the set. It returns nil where that
// cannot be had: what two make is one all the same.
func (s *sharedSet) making() *os.File {
	f, err := openLock(filepath.Join(s.dir, makingFile))
	if err != nil {
		return nil
	}
	for deadline := time.Now().Add(makingPatience); ; time.Sleep(makingLook) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = f.Close() // Nothing was written.
			return nil
		}
	}
}

// openLock opens a file to lock: to write, which locks of some network file systems need,
// where that may be.
func openLock(path string) (*os.File, error) {
	const flags = os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	if f, err := os.OpenFile(path, os.O_RDWR|flags, sharedFileMode); err == nil {
		return f, nil
	}
	return os.OpenFile(path, os.O_RDONLY|flags, sharedFileMode)
}

// sameFile reports whether an open file is this one.
func sameFile(f *os.File, other fs.FileInfo) bool {
	info, err := f.Stat()
	return err == nil && os.SameFile(info, other)
}

// locksMissing reports whether the file system knows no locks.
func locksMissing(err error) bool {
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.EOPNOTSUPP)
}

// makeDir makes a folder that the group may write to.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, sharedDirMode); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	// The mask of new files does not say who shares a volume. Who does not own the folder
	// has not made it.
	if mode := sharedDirMode | info.Mode()&fs.ModeSetgid; info.Mode().Perm() != sharedDirMode {
		if err := os.Chmod(dir, mode); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
