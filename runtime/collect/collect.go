// Package collect removes from a data volume what nothing refers to any more: artifacts of
// superseded and deleted objects, and the checkpoints of their runs.
//
// It knows what may go by its place and its name alone (contract.Dir…, sha256-…, a RunID):
// what has another name is somebody else's and stays. A symbolic link is never followed,
// and nothing outside the volume can be reached.
//
// What goes is first renamed into a folder of its own, in one step, and then removed: a
// reader never meets half of an artifact, and a collection that dies midway leaves what
// the next one finishes, or brings back if it is referred to again. A run that finds the
// artifact which it would make touches it before it looks (artifact.Touch), and what turns
// out to have been touched goes back to its place.
package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
)

// kind is a folder of things that can be collected.
type kind struct {
	dir string
	// keepName is what contract.CollectSpec.Keep calls a thing of this name; false for a
	// name that none of the kind has.
	keepName func(name string) (string, bool)
	// lock is what whoever works in a folder of the kind has a lock on: a file in it, or
	// "." for itself; empty where nobody works in them.
	lock string
	// rest is how much older than other things it has to be.
	rest time.Duration
}

// cacheRest is how long shared weights are kept that no process uses: the next training of
// the day need not lay them out again.
const cacheRest = 24 * time.Hour

// kinds are all that is collected.
func kinds() []kind {
	return []kind{
		{dir: contract.DirRuns, keepName: runName, lock: "."},
		{dir: contract.DirExperts, keepName: artifactName},
		{dir: contract.DirProbes, keepName: artifactName},
		{dir: contract.DirEvaluations, keepName: artifactName},
		{dir: contract.DirDecompositions, keepName: artifactName},
		{dir: contract.DirModels, keepName: artifactName},
		{dir: contract.DirShared, keepName: sharedName, lock: contract.SharedUsedFile, rest: cacheRest},
	}
}

func artifactName(name string) (string, bool) {
	digits, ok := strings.CutPrefix(name, "sha256-")
	if !ok {
		return "", false
	}
	return contract.KeepName(contract.DigestPrefix + digits)
}

func runName(name string) (string, bool) { return name, contract.ValidRunID(name) }

// sharedName is false for names that no set of shared weights has. Nothing refers to one by
// its name.
func sharedName(name string) (string, bool) {
	const digits = 2 * contract.KeepDigits
	return "", len(name) == digits && strings.Trim(name, "0123456789abcdef") == ""
}

// collection is one that goes on.
type collection struct {
	root   *os.Root
	keep   map[string]bool
	limit  time.Time // What is younger stays.
	dry    bool
	result contract.CollectResult
}

// Run collects what nothing refers to in the volume of a specification.
func Run(ctx context.Context, spec contract.CollectSpec) (contract.CollectResult, error) {
	if err := validate(spec); err != nil {
		return contract.CollectResult{}, failure.Permanent(contract.ReasonUsage, err)
	}
	root, err := os.OpenRoot(spec.DataDir)
	if err != nil {
		return contract.CollectResult{}, fmt.Errorf("opening the volume: %w", err)
	}
	defer func() { _ = root.Close() }() // Nothing is written through it.
	c := &collection{
		root: root, keep: map[string]bool{}, dry: spec.DryRun,
		limit: spec.Time.Add(-time.Duration(spec.GraceSeconds) * time.Second),
	}
	for _, name := range spec.Keep {
		c.keep[name] = true
	}
	// A root's errors have paths below it.
	if err := c.finishLast(ctx); err != nil {
		return c.result, fmt.Errorf("collecting %s: %w", spec.DataDir, err)
	}
	for _, k := range kinds() {
		if err := c.collect(ctx, k); err != nil {
			return c.result, fmt.Errorf("collecting %s: %w", path.Join(spec.DataDir, k.dir), err)
		}
	}
	if err := c.measure(ctx); err != nil {
		return c.result, fmt.Errorf("measuring the volume %s: %w", spec.DataDir, err)
	}
	return c.result, nil
}

func validate(spec contract.CollectSpec) error {
	var errs []error
	if spec.DataDir == "" {
		errs = append(errs, fmt.Errorf("dataDir is missing: it is the volume's root, such as %s", contract.MountData))
	}
	if spec.Time.IsZero() {
		errs = append(errs, errors.New("time is missing: it is when keep was made"))
	}
	if spec.GraceSeconds < 0 {
		errs = append(errs, fmt.Errorf("graceSeconds %d must not be negative", spec.GraceSeconds))
	}
	if spec.Keep == nil {
		errs = append(errs, errors.New("keep is missing: it names what is referred to; to keep nothing it is an empty list"))
	}
	for _, name := range spec.Keep {
		if !contract.ValidRunID(name) {
			errs = append(errs, fmt.Errorf("keep has %.80q, which are not %d lower-case hex digits", name, contract.KeepDigits))
			break
		}
	}
	return errors.Join(errs...)
}

// collect removes what of a kind nothing refers to.
func (c *collection) collect(ctx context.Context, k kind) error {
	entries, err := c.entries(k.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		name, ours := k.keepName(e.Name())
		if !ours || !e.IsDir() || c.keep[name] {
			continue
		}
		if err := c.drop(ctx, k, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// entries lists a folder of the volume; nothing where it is missing, or no folder.
func (c *collection) entries(dir string) ([]fs.DirEntry, error) {
	info, err := c.root.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return fs.ReadDir(c.root.FS(), dir)
}

// young reports whether something of a kind has been written, or touched, too lately.
func (c *collection) young(k kind, name string) (bool, error) {
	info, err := c.root.Lstat(name)
	if err != nil {
		return false, err
	}
	return !info.ModTime().Before(c.limit.Add(-k.rest)), nil
}

// drop removes a folder that nothing refers to, unless it is young or somebody works in it.
func (c *collection) drop(ctx context.Context, k kind, name string) error {
	place := path.Join(k.dir, name)
	young, err := c.young(k, place)
	if errors.Is(err, fs.ErrNotExist) || young {
		return nil // Somebody else removed it.
	}
	if err != nil {
		return err
	}
	if k.lock != "" {
		lock, free, err := c.lock(path.Join(place, k.lock))
		if err != nil || !free {
			return err
		}
		defer func() { _ = lock.Close() }() // Releases the lock.
	}
	size, _, err := c.size(ctx, place)
	if err != nil {
		return err
	}
	if !c.dry {
		aside := aside(k.dir, name)
		if err := c.root.MkdirAll(contract.DirCollecting, artifact.DirMode); err != nil {
			return err
		}
		if err := c.root.Rename(place, aside); err != nil {
			return err
		}
		// Who touches it before the rename has seen it, and who comes after it sees nothing.
		if young, err := c.young(k, aside); err != nil || young {
			return errors.Join(err, c.root.Rename(aside, place))
		}
		if err := c.root.RemoveAll(aside); err != nil {
			return err
		}
	}
	c.result.Removed++
	c.result.FreedBytes += size
	jobs.Logger(ctx).Info("Collected", "path", place, "bytes", size, "dryRun", c.dry)
	return nil
}

// lock takes the lock of a folder, if nobody has it. A lock that is not there nobody has,
// and file systems without locks have the age alone.
func (c *collection) lock(place string) (f *os.File, free bool, err error) {
	f, err = c.root.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, false, f.Close()
	}
	return f, true, nil
}

// aside is where something waits to be removed: its kind and its name make one name.
func aside(dir, name string) string { return path.Join(contract.DirCollecting, dir+"+"+name) }

// finishLast ends what a collection left that died: what is referred to by now, or has been
// touched, goes back to its place, unless it was made anew there; the rest is removed.
func (c *collection) finishLast(ctx context.Context) error {
	entries, err := c.entries(contract.DirCollecting)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		dir, name, _ := strings.Cut(e.Name(), "+")
		all := kinds()
		i := slices.IndexFunc(all, func(k kind) bool { return k.dir == dir })
		if i < 0 || c.dry {
			continue // Not ours.
		}
		keepName, ours := all[i].keepName(name)
		if !ours {
			continue
		}
		waits, place := aside(dir, name), path.Join(dir, name)
		young, err := c.young(all[i], waits)
		if err != nil {
			return err
		}
		if c.keep[keepName] || young {
			if _, err := c.root.Lstat(place); errors.Is(err, fs.ErrNotExist) {
				if err := errors.Join(c.root.MkdirAll(dir, artifact.DirMode), c.root.Rename(waits, place)); err != nil {
					return err
				}
				jobs.Logger(ctx).Info("Brought back what is referred to again", "path", place)
				continue
			}
		}
		if err := c.root.RemoveAll(waits); err != nil {
			return err
		}
		c.result.Removed++
	}
	return nil
}
