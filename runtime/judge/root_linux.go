package judge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaceNames are those that a worker gets, as they are called in
// /proc/PID/ns.
var namespaceNames = []string{"user", "pid", "net", "mnt", "ipc", "uts"}

const namespaceFlags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS |
	syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS

// inNamespaces has a process start in namespaces of its own, as their root and
// with the rights of whoever starts it.
func inNamespaces(attr *syscall.SysProcAttr) {
	attr.Cloneflags = namespaceFlags
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
}

// newRoot is where the new root is put together: a folder that every system
// has and nothing of the interpreter's is in.
const newRoot = "/proc"

// enterOwnRoot replaces this process's file system by one that holds the
// interpreter's files and nothing else, read-only.
func enterOwnRoot(p Python) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("parting from the node's mounts: %w", err)
	}
	if err := unix.Mount("root", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=755"); err != nil {
		return fmt.Errorf("mounting a root: %w", err)
	}
	for _, path := range append(p.files(), p.Folders...) {
		if err := bind(path); err != nil {
			return fmt.Errorf("showing %s: %w", path, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// The old root comes to lie over the new one, and is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// bind shows path of the old root at the same place of the new one.
func bind(path string) error {
	target := filepath.Join(newRoot, path)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(target); err == nil {
		return nil // It lies in a folder that is shown already.
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		err = os.WriteFile(target, nil, 0o444)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attr); err != nil {
		return errors.Join(errors.New("making it read-only"), err)
	}
	return nil
}
