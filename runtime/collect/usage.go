package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/transformersquared/operator/runtime/contract"
)

// blockBytes is the unit of a file's blocks, whatever the file system's own is.
const blockBytes = 512

// measure says what the volume holds now.
func (c *collection) measure(ctx context.Context) error {
	var dirs []string
	for _, k := range kinds() {
		dirs = append(dirs, k.dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		size, count, err := c.size(ctx, dir)
		if err != nil {
			return err
		}
		c.result.Usage = append(c.result.Usage, contract.VolumeUsage{Kind: dir, Count: count, SizeBytes: size})
	}
	other := contract.VolumeUsage{Kind: contract.UsageOther}
	entries, err := c.entries(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(dirs, e.Name()) {
			continue
		}
		size, _, err := c.size(ctx, e.Name())
		if err != nil {
			return err
		}
		other.Count++
		other.SizeBytes += size
	}
	c.result.Usage = append(c.result.Usage, other)
	return c.capacity()
}

// size is what everything below a name takes on disk, and how much there is directly in
// it. What others remove meanwhile is not counted, nor what may not be looked into, such
// as a file system's lost+found.
func (c *collection) size(ctx context.Context, name string) (bytes int64, count int, err error) {
	if info, err := c.root.Lstat(name); errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return 0, 0, nil
	}
	err = fs.WalkDir(c.root.FS(), name, func(at string, e fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir
		}
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		if at != name && depth(at) == depth(name)+1 {
			count++
		}
		if on, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += on.Blocks * blockBytes
		} else {
			bytes += info.Size()
		}
		return nil
	})
	return bytes, count, err
}

func depth(name string) int {
	n := 0
	for _, r := range name {
		if r == '/' {
			n++
		}
	}
	return n
}

// capacity asks the file system. One that counts more for root counts as full before its
// last blocks are taken, as it is to the runtime.
func (c *collection) capacity() error {
	f, err := c.root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &s); err != nil {
		return fmt.Errorf("asking the file system for its size: %w", err)
	}
	c.result.CapacityBytes = int64(s.Blocks) * s.Bsize
	c.result.AvailableBytes = int64(s.Bavail) * s.Bsize
	return nil
}
