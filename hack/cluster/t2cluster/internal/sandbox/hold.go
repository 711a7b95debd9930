// Package sandbox makes the place that a cluster lives in: network namespaces joined by a switch, and one mount
// namespace in which the paths that Kubernetes and containerd have compiled in lead to the cluster's own folder. A
// process, not a file, holds each namespace, so that nothing is left of it when the processes are gone.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

// ready is what a holder prints once its namespace is as it should be.
const ready = "ready\n"

// freshVolume is the mode that the controller manager gives a new volume.
const freshVolume fs.FileMode = 0o750

// sharedVolume is the mode that lets pods use it that do not run as root: a volume of this kind takes no account of a
// pod's fsGroup.
const sharedVolume fs.FileMode = 0o777

// kernelSettings are what the kubelet insists on. They belong to the whole machine (kernel.panic among them, which makes
// it reboot), so the kubelet is shown them as it wants them, and the machine's own stay as they are.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// Hold stays in the namespaces it was started in until ctx ends. With mounts it first makes its mount namespace the
// cluster's, and then keeps the cluster's volumes usable. It prints "ready" to out when others may join.
func Hold(ctx context.Context, dir string, mounts bool, out io.Writer) error {
	if mounts {
		if err := arrangeMounts(dir); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(out, ready); err != nil {
		return fmt.Errorf("reporting that the namespace is ready: %w", err)
	}
	if mounts {
		return shareVolumes(ctx, filepath.Join(dir, "volumes"))
	}
	<-ctx.Done()
	return nil
}

// arrangeMounts must run in a mount namespace of its own.
func arrangeMounts(dir string) error {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("reading the mount namespace: %w", err)
	}
	if parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid())); err == nil && parents == mine {
		return errors.New("refusing to arrange mounts outside a mount namespace of its own")
	}
	// What the machine mounts from now on is seen here, but nothing that is mounted here is seen there.
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE); err != nil {
		return err
	}
	for _, path := range layout.BorrowedDirs {
		source := borrowedSource(dir, path)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return fmt.Errorf("making a folder of the cluster's own: %w", err)
		}
		if err := mount(source, path, "", syscall.MS_BIND); err != nil {
			return err
		}
	}
	settings := filepath.Join(dir, "kernel-settings")
	for name, value := range kernelSettings {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			continue // this kernel lacks the setting, and the kubelet will say so
		}
		source := filepath.Join(settings, strings.ReplaceAll(name, "/", "."))
		if err := errors.Join(os.MkdirAll(settings, 0o755), os.WriteFile(source, []byte(value+"\n"), 0o644)); err != nil {
			return fmt.Errorf("writing a kernel setting to show the kubelet: %w", err)
		}
		if err := mount(source, target, "", syscall.MS_BIND); err != nil {
			return err
		}
	}
	// Sockets, locks and log links of whatever else runs on the machine are out of reach, and ours never reach it.
	for _, path := range []string{"/run", "/var/log"} {
		if err := mount("tmpfs", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr) error {
	if err := syscall.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mounting %q on %s: %w", source, target, err)
	}
	return nil
}

// borrowedSource is the cluster's own folder behind one of layout.BorrowedDirs.
func borrowedSource(dir, path string) string {
	if path == layout.VolumesDir {
		return filepath.Join(dir, "volumes")
	}
	return filepath.Join(dir, "borrowed", strings.ReplaceAll(strings.Trim(path, "/"), "/", "-"))
}

// shareVolumes opens each new volume to all users as soon as the controller manager has made it, until ctx ends.
func shareVolumes(ctx context.Context, dir string) error {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching the volumes: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify") // non-blocking, so that closing it ends a read
	stop := context.AfterFunc(ctx, func() { _ = watch.Close() })
	defer stop()
	if _, err := syscall.InotifyAddWatch(fd, dir, syscall.IN_CREATE|syscall.IN_MOVED_TO); err != nil {
		return fmt.Errorf("watching the volumes: %w", err)
	}
	buffer := make([]byte, 64<<10)
	for {
		// Which one is new does not matter: after any event all fresh ones are opened.
		if err := openFresh(dir); err != nil {
			return err
		}
		if _, err := watch.Read(buffer); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watching the volumes: %w", err)
		}
	}
}

func openFresh(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing the volumes: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.IsDir() || info.Mode().Perm() != freshVolume) {
			continue
		}
		if err == nil {
			err = os.Chmod(filepath.Join(dir, entry.Name()), sharedVolume)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("opening a volume to all users: %w", err)
		}
	}
	return nil
}
