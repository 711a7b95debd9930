// Package process starts the cluster's programs so that they outlive the tool, remembers them, and finds and ends every
// process that belongs to a cluster, remembered or not.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Info is what /proc says of one process.
type Info struct {
	PID, Parent int
	// Started is the kernel's start time in clock ticks: with the PID it names a process for good.
	Started uint64
	// Zombie marks a process that has ended and waits to be collected.
	Zombie bool
	// Command is its command line.
	Command []string
	// MountNS and NetNS name its namespaces, such as "mnt:[4026531841]".
	MountNS, NetNS string
	// Cgroups are its paths in the cgroup hierarchies.
	Cgroups []string
}

// Executable is the file name of the first word of the command line.
func (i Info) Executable() string {
	if len(i.Command) == 0 {
		return ""
	}
	return filepath.Base(i.Command[0])
}

// Snapshot reads all processes. One that ends meanwhile is left out.
func Snapshot() ([]Info, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var all []Info
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		info, err := Read(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

// Read reads one process; the error wraps fs.ErrNotExist when there is none. What the kernel does not show (of kernel
// threads and zombies, for example) stays empty.
func Read(pid int) (Info, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		// A process that ends while its file is open reads as "no such process".
		return Info{}, fmt.Errorf("process %d: %w (%w)", pid, fs.ErrNotExist, err)
	}
	info, err := parseStat(stat)
	if err != nil {
		return Info{}, fmt.Errorf("process %d: %w", pid, err)
	}
	// The rest may vanish at any moment and then says nothing, which is right for a process that has ended.
	if command, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		info.Command = splitCommand(command)
	}
	info.MountNS, _ = os.Readlink(filepath.Join(dir, "ns", "mnt"))
	info.NetNS, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	if cgroups, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		info.Cgroups = parseCgroups(cgroups)
	}
	return info, nil
}

// parseStat reads pid, state, parent and start time of a /proc/PID/stat line. The name in brackets may hold anything,
// brackets and spaces too, so that fields count from the last bracket.
func parseStat(stat []byte) (Info, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Info{}, fmt.Errorf("stat line %q: no name in brackets", stat)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(stat[:open])))
	if err != nil {
		return Info{}, fmt.Errorf("stat line %q: %w", stat, err)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const state, parent, started = 0, 1, 19
	if len(fields) <= started {
		return Info{}, fmt.Errorf("stat line %q: only %d fields after the name", stat, len(fields))
	}
	ppid, err := strconv.Atoi(fields[parent])
	if err != nil {
		return Info{}, fmt.Errorf("stat line %q: parent: %w", stat, err)
	}
	ticks, err := strconv.ParseUint(fields[started], 10, 64)
	if err != nil {
		return Info{}, fmt.Errorf("stat line %q: start time: %w", stat, err)
	}
	return Info{PID: pid, Parent: ppid, Started: ticks, Zombie: fields[state] == "Z" || fields[state] == "X"}, nil
}

func splitCommand(raw []byte) []string {
	raw = bytes.TrimRight(raw, "\x00")
	if len(raw) == 0 {
		return nil
	}
	return strings.Split(string(raw), "\x00")
}

// parseCgroups reads the paths of a /proc/PID/cgroup file: hierarchy:controllers:path on each line.
func parseCgroups(raw []byte) []string {
	var paths []string
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			paths = append(paths, parts[2])
		}
	}
	return paths
}
