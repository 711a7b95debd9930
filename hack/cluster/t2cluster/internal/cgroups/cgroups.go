// Package cgroups makes and removes a cluster's folder in the cgroup hierarchies, in the first version (one hierarchy a
// controller), the second (one for all), or the hybrid of both.
package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/mounts"
)

// controllers are what the kubelet limits pods with.
var controllers = []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}

// Hierarchies are the places where cgroups are mounted.
type Hierarchies struct {
	// V1 are the hierarchies of version 1, one for each controller or set of controllers.
	V1 []string
	// V2 is the hierarchy of version 2, or empty.
	V2 string
}

// Find picks the hierarchies from the table of mounts. Of several mounts of one hierarchy any one does.
func Find(table []mounts.Mount) Hierarchies {
	var h Hierarchies
	for _, m := range table {
		switch m.Type {
		case "cgroup":
			if !slices.Contains(h.V1, m.Point) {
				h.V1 = append(h.V1, m.Point)
			}
		case "cgroup2":
			if h.V2 == "" {
				h.V2 = m.Point
			}
		}
	}
	return h
}

// Make makes folder name/child for each child in every hierarchy that the kubelet will use, and hands the controllers
// down to it. In version 2 a controller that the machine's root group does not pass on yet is switched on there; that
// changes no group's limits, and Remove leaves it, because by then others may rely on it.
func (h Hierarchies) Make(name string, children []string) error {
	if len(h.V1) == 0 && h.V2 == "" {
		return errors.New("no cgroup hierarchy is mounted: mount one, as in `mount -t cgroup2 none /sys/fs/cgroup`")
	}
	for _, child := range children {
		for _, root := range h.V1 {
			if err := makeV1(root, filepath.Join(name, child)); err != nil {
				return err
			}
		}
		// Beside version 1 the second version carries no controllers, and the kubelet leaves it alone.
		if len(h.V1) == 0 {
			if err := makeV2(h.V2, filepath.Join(name, child)); err != nil {
				return err
			}
		}
	}
	return nil
}

func makeV1(root, path string) error {
	group := root
	for part := range strings.SplitSeq(path, "/") {
		parent := group
		group = filepath.Join(group, part)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a cgroup: %w", err)
		}
		// A cpuset group starts empty and takes no process until it has processors and memory.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(parent, group, file); err != nil {
				return err
			}
		}
	}
	return nil
}

func inherit(parent, group, file string) error {
	own, err := os.ReadFile(filepath.Join(group, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another controller's hierarchy
	}
	if err != nil {
		return fmt.Errorf("reading a cgroup's %s: %w", file, err)
	}
	if strings.TrimSpace(string(own)) != "" {
		return nil
	}
	value, err := os.ReadFile(filepath.Join(parent, file))
	if err != nil {
		return fmt.Errorf("reading a cgroup's %s: %w", file, err)
	}
	if err := os.WriteFile(filepath.Join(group, file), value, 0o644); err != nil {
		return fmt.Errorf("writing a cgroup's %s: %w", file, err)
	}
	return nil
}

func makeV2(root, path string) error {
	group := root
	for part := range strings.SplitSeq(path, "/") {
		if err := passOn(group); err != nil {
			return err
		}
		group = filepath.Join(group, part)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a cgroup: %w", err)
		}
	}
	return passOn(group)
}

// passOn lets the children of group use every controller we want that the group has itself.
func passOn(group string) error {
	available, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading a cgroup's controllers: %w", err)
	}
	enabledFile := filepath.Join(group, "cgroup.subtree_control")
	enabled, err := os.ReadFile(enabledFile)
	if err != nil {
		return fmt.Errorf("reading a cgroup's controllers: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(available)), c) || slices.Contains(strings.Fields(string(enabled)), c) {
			continue
		}
		if err := os.WriteFile(enabledFile, []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("letting the cgroups below %s use the controller %q: %w", group, c, err)
		}
	}
	return nil
}

// Remove removes folder name and everything below it from all hierarchies, and reports whether there was any. Processes
// that have just been killed leave their groups a moment later, so that it tries again within bound.
func (h Hierarchies) Remove(name string, bound time.Duration) (bool, error) {
	found := false
	deadline := time.Now().Add(bound)
	for _, root := range append(slices.Clone(h.V1), h.V2) {
		if root == "" {
			continue
		}
		group := filepath.Join(root, name)
		if _, err := os.Lstat(group); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found = true
		for {
			err := removeTree(group)
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return found, fmt.Errorf("removing a cgroup: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return found, nil
}

// removeTree removes groups from the leaves up: in this file system only folders can be removed, and only empty ones.
func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(group); err != nil && !errors.Is(err, syscall.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: group, Err: err}
	}
	return nil
}
