// Package cleanup removes a cluster from the machine, whatever state it is in: running, half started, killed, or gone
// after a restart of the machine. Each step finds out for itself what is there, so that running it twice is no error.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/cgroups"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/mounts"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

const (
	processBound = 20 * time.Second
	cgroupBound  = 10 * time.Second
	linkBound    = 10 * time.Second
)

// Report says what was found and removed.
type Report struct {
	Processes int
	Mounts    int
	Link      bool
	Cgroups   bool
	Folder    bool
}

// Nothing reports whether there was no trace of a cluster.
func (r Report) Nothing() bool { return r == Report{} }

// Cluster removes cluster c. Only its name and folder matter: the rest of the description may be lost. It goes on after
// a step that failed where that is safe, and returns all errors.
func Cluster(ctx context.Context, c layout.Cluster) (Report, error) {
	var r Report
	var err error
	// First the processes: they hold the namespaces, mounts and cgroups. Without them the rest cannot go, and is in use.
	if r.Processes, err = endProcesses(ctx, c); err != nil {
		return r, err
	}
	var problems []error
	if r.Link, err = removeLink(ctx, c.HostLink()); err != nil {
		problems = append(problems, err)
	}
	table, err := mounts.Table()
	if err != nil {
		return r, errors.Join(append(problems, err)...)
	}
	if r.Cgroups, err = cgroups.Find(table).Remove(c.CgroupName(), cgroupBound); err != nil {
		problems = append(problems, err)
	}
	if err := returnBorrowed(c); err != nil {
		problems = append(problems, err)
	}
	if r.Mounts, err = unmountBelow(c.Dir); err != nil {
		// What is mounted there may be somebody's data, so the folder must stay.
		return r, errors.Join(append(problems, err)...)
	}
	if len(problems) > 0 {
		// The folder is what a second attempt finds the rest by.
		return r, errors.Join(problems...)
	}
	if r.Folder, err = removeFolder(c.Dir); err != nil {
		return r, err
	}
	return r, nil
}

func endProcesses(ctx context.Context, c layout.Cluster) (int, error) {
	remembered, err := process.Recall(c.PidsDir())
	if err != nil {
		return 0, err
	}
	m := process.Membership{Dir: c.Dir, Cgroup: c.CgroupName()}
	for _, r := range remembered {
		if info, running := r.Running(); running {
			m.Remembered = append(m.Remembered, info)
		}
	}
	return process.EndAll(ctx, func(all []process.Info) []process.Info { return m.Select(all, os.Getpid()) }, processBound)
}

// removeLink removes the veth pair between machine and cluster. The kernel removes it by itself some time after the
// cluster's end of it is gone; waiting for that here means that the name is free again when this returns.
func removeLink(ctx context.Context, name string) (bool, error) {
	path := filepath.Join("/sys/class/net", name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	kind, err := exec.CommandContext(ctx, "ip", "-o", "link", "show", "dev", name, "type", "veth").Output()
	if err == nil && len(kind) == 0 {
		return false, fmt.Errorf("the interface %s is in the way and was not made by this tool: rename it or choose another --name", name)
	}
	deadline := time.Now().Add(linkBound)
	for {
		out, err := exec.CommandContext(ctx, "ip", "link", "del", "dev", name).CombinedOutput()
		if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
			return true, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false, fmt.Errorf("removing the interface %s: %w: %s", name, errors.Join(err, ctx.Err()), strings.TrimSpace(string(out)))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// returnBorrowed removes the mount points that c made on the machine. Removing one would pull it from under another
// cluster that runs, so that such a cluster takes over the duty instead.
func returnBorrowed(c layout.Cluster) error {
	note := c.Path(sandbox.BorrowedFile)
	text, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading which folders were made: %w", err)
	}
	// A damaged note must neither cost somebody a folder nor keep the cluster from being removed.
	made := slices.DeleteFunc(strings.Fields(string(text)), func(dir string) bool {
		return !slices.Contains(layout.BorrowedDirs, dir)
	})
	if len(made) == 0 {
		return nil
	}
	all, err := process.Snapshot()
	if err != nil {
		return err
	}
	for _, dir := range process.HeldDirs(all) {
		if dir == c.Dir {
			continue
		}
		heir, err := os.OpenFile(filepath.Join(dir, sandbox.BorrowedFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			continue // that cluster is going away itself
		}
		_, err = heir.WriteString(strings.Join(made, "\n") + "\n")
		if err := errors.Join(err, heir.Close()); err != nil {
			return fmt.Errorf("handing the folders made over to the cluster in %s: %w", dir, err)
		}
		return nil
	}
	for _, dir := range made {
		err := syscall.Rmdir(dir) // and only if it is empty: what others put there is theirs
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("removing the mount point %s: %w", dir, err)
		}
	}
	return nil
}

// unmountBelow unmounts whatever is mounted at or below dir in the machine's own table of mounts. The cluster's mounts
// are in a namespace of its own and went with it; these are left by other means.
func unmountBelow(dir string) (int, error) {
	table, err := mounts.Table()
	if err != nil {
		return 0, err
	}
	points := mounts.Below(table, dir)
	for _, point := range points {
		if point == dir {
			return 0, fmt.Errorf("the state folder %s is itself a mount point: unmount it first", dir)
		}
		if err := syscall.Unmount(point, syscall.MNT_DETACH|umountNoFollow); err != nil {
			return 0, fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	if table, err = mounts.Table(); err != nil {
		return 0, err
	}
	if left := mounts.Below(table, dir); len(left) > 0 {
		return 0, fmt.Errorf("still mounted: %s", strings.Join(left, ", "))
	}
	return len(points), nil
}

// umountNoFollow is UMOUNT_NOFOLLOW: never follow a link that somebody put in the way.
const umountNoFollow = 8

// removeFolder removes a cluster's folder, and the folder of all clusters if that is empty now. It refuses a folder that
// no cluster was in.
func removeFolder(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the state folder: %w", err)
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == layout.Marker }) {
		return false, fmt.Errorf("%s holds files but no cluster (no %s in it), so it is left alone: remove it yourself or choose another --dir", dir, layout.Marker)
	}
	// The marker goes last: a removal that is interrupted can then be taken up again.
	for _, entry := range entries {
		if entry.Name() != layout.Marker {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return false, fmt.Errorf("removing the state folder: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return false, fmt.Errorf("removing the state folder: %w", err)
	}
	if parent := filepath.Dir(dir); filepath.Base(parent) == layout.ParentName {
		_ = os.Remove(parent) // succeeds only if it is empty
	}
	return true, nil
}
