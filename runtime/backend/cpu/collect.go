package cpu

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Sets that nobody uses are removed by who opens another: those that were used least
// recently, down to keptSets, and more of them where their room is needed. A training uses
// two, its base and its factors. Of a file system without locks nothing is removed, as
// nobody knows what is in use.
const (
	keptSets = 8
	// What stays free of a volume, for checkpoints and experts: a tenth of it, and at most
	// so much.
	freePart = 10
	mostFree = 4 << 30
	// A file in the making that is so old has no maker.
	abandonedAfter = time.Hour
)

// collect removes sets that nobody uses until no more than so many are left, or enough
// says that it is enough. It goes on to the others where a set cannot be removed.
func (s *sharing) collect(most int, enough func() bool) {
	type set struct {
		dir  string
		used time.Time
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // Whoever writes there says so.
	}
	var sets []set
	for _, e := range entries {
		dir := filepath.Join(s.dir, e.Name())
		if info, err := os.Lstat(filepath.Join(dir, usedFile)); err == nil && e.IsDir() {
			sets = append(sets, set{dir, info.ModTime()})
			sweep(dir)
		}
	}
	slices.SortFunc(sets, func(a, b set) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.dir, b.dir)) })
	left := len(sets)
	for _, old := range sets {
		if left <= most || enough() {
			return
		}
		if removeUnused(old.dir) {
			left--
		}
	}
}

// removeUnused removes a set unless a process uses it.
func removeUnused(dir string) bool {
	lock, err := openLock(filepath.Join(dir, usedFile))
	if err != nil {
		return false
	}
	defer func() { _ = lock.Close() }() // Nothing was written.
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return false
	}
	return os.RemoveAll(dir) == nil
}

// sweep removes what was left half made.
func sweep(dir string) {
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.Remove(path) // The next one tries again.
		}
	}
}

// makeRoom makes sure that a file of so many bytes leaves enough of the volume free, if
// need be by removing sets that nobody uses.
func (s *sharing) makeRoom(size int64) error {
	var free, keep int64
	fits := func() bool {
		var volume syscall.Statfs_t
		if syscall.Statfs(s.dir, &volume) != nil {
			return true // Writing will tell.
		}
		block := int64(volume.Bsize) //nolint:unconvert // Of another type on other systems.
		free, keep = int64(volume.Bavail)*block, min(int64(volume.Blocks)*block/freePart, mostFree)
		return free-size >= keep
	}
	if fits() {
		return nil
	}
	s.collect(0, fits)
	if !fits() {
		return fmt.Errorf("%s has %d bytes free, of which %d are kept free: %d more do not fit", s.dir, free, keep, size)
	}
	return nil
}
