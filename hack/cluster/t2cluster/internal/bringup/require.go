// Package bringup starts a cluster, waits until it is usable, and says how it is.
package bringup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/binaries"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/render"
)

// tools are the programs that a cluster needs of the machine, with the Debian package that brings each.
var tools = []struct{ name, pkg string }{
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"ip", "iproute2"},
	{"conntrack", "conntrack"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
	{"sh", "dash"},
}

// plugins are the network plugins that it needs.
var plugins = []string{"ptp", "host-local", "portmap", "loopback"}

const pluginsPackage = "containernetworking-plugins"

// pluginDirs are where distributions put them, Debian first.
var pluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// overlayMagic is the kernel's number for the overlay file system.
const overlayMagic = 0x794c7630

// Require checks that the machine can carry cluster c, before anything is changed, and returns what it found out. Every
// problem is named at once, each with its remedy.
func Require(c layout.Cluster) (render.Host, error) {
	var problems []error
	var packages []string
	need := func(pkg string) {
		if slices.Contains(packages, pkg) {
			return
		}
		packages = append(packages, pkg)
	}
	if os.Geteuid() != 0 {
		problems = append(problems, errors.New("a cluster makes namespaces, mounts and links: run this as root"))
	}
	host := render.Host{Snapshotter: "overlayfs"}
	for _, tool := range tools {
		path, err := exec.LookPath(tool.name)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s is not installed", tool.name))
			need(tool.pkg)
		}
		if tool.name == "runc" {
			host.Runc = path
		}
	}
	host.CNIDir = findPlugins()
	if host.CNIDir == "" {
		problems = append(problems, fmt.Errorf("the network plugins %s are in none of %s", strings.Join(plugins, ", "), strings.Join(pluginDirs, ", ")))
		need(pluginsPackage)
	}
	if len(packages) > 0 {
		problems = append(problems, fmt.Errorf("on Debian: apt-get install -y %s", strings.Join(packages, " ")))
	}
	if missing := binaries.Missing(c.Bin); len(missing) > 0 {
		problems = append(problems, fmt.Errorf("%s lacks %s: build them with `t2cluster build --bin %s`", c.Bin, strings.Join(missing, ", "), c.Bin))
	}
	if overlay, err := onOverlay(c.Dir); err != nil {
		problems = append(problems, err)
	} else if overlay {
		host.Snapshotter = "native" // an overlay cannot lie on an overlay
	}
	return host, errors.Join(problems...)
}

func findPlugins() string {
	for _, dir := range pluginDirs {
		complete := true
		for _, plugin := range plugins {
			if _, err := os.Stat(filepath.Join(dir, plugin)); err != nil {
				complete = false
			}
		}
		if complete {
			return dir
		}
	}
	return ""
}

// onOverlay reports whether dir lies, or would lie, on an overlay file system, as it does within most containers.
func onOverlay(dir string) (bool, error) {
	for {
		var stat syscall.Statfs_t
		err := syscall.Statfs(dir, &stat)
		if err == nil {
			return stat.Type == overlayMagic, nil
		}
		if !errors.Is(err, syscall.ENOENT) || dir == "/" {
			return false, fmt.Errorf("looking at the file system of %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}
