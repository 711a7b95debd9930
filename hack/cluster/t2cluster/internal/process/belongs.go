package process

import (
	"path/filepath"
	"slices"
	"strings"
)

// Membership says which processes are a cluster's.
type Membership struct {
	// Dir is the cluster's state folder.
	Dir string
	// Cgroup is the name of its folder in the cgroup hierarchies.
	Cgroup string
	// Remembered are the processes of its pid files.
	Remembered []Info
}

// ours are the programs that carry the state folder in their command line. Others may mention it too (an editor, tail
// on a log), so that the folder alone proves nothing.
var ours = []string{
	"containerd", "containerd-shim-runc-v2", "ctr", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy",
	"kube-scheduler", "kubelet", "runc",
}

// HoldCommand is the subcommand under which the tool itself stays to hold a namespace.
const HoldCommand = "hold"

// Select returns the members of all: processes that are remembered, that run one of our programs on the state folder,
// that are in the cluster's cgroups, or that share a mount or network namespace with one of these. self is the process
// that asks: it and its ancestors are never members, and its namespaces and those of process 1 make no member, because
// half the machine shares them.
func (m Membership) Select(all []Info, self int) []Info {
	byPID := make(map[int]Info, len(all))
	for _, p := range all {
		byPID[p.PID] = p
	}
	spared := map[int]bool{}
	for pid := self; pid > 0 && !spared[pid]; pid = byPID[pid].Parent {
		spared[pid] = true
	}
	shared := []string{"", byPID[self].MountNS, byPID[self].NetNS, byPID[1].MountNS, byPID[1].NetNS}

	member := map[int]bool{}
	namespaces := map[string]bool{}
	admit := func(p Info) {
		member[p.PID] = true
		for _, ns := range []string{p.MountNS, p.NetNS} {
			if !slices.Contains(shared, ns) {
				namespaces[ns] = true
			}
		}
	}
	for _, p := range all {
		if !spared[p.PID] && (m.remembers(p) || m.runsOurs(p) || m.inCgroup(p)) {
			admit(p)
		}
	}
	// A newcomer found by one namespace can lead to another, so go on until nothing is added.
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !member[p.PID] && !spared[p.PID] && (namespaces[p.MountNS] || namespaces[p.NetNS]) {
				admit(p)
				grown = true
			}
		}
	}
	var members []Info
	for _, p := range all {
		if member[p.PID] && !p.Zombie {
			members = append(members, p)
		}
	}
	return members
}

func (m Membership) remembers(p Info) bool {
	return slices.ContainsFunc(m.Remembered, func(r Info) bool { return r.PID == p.PID && r.Started == p.Started })
}

func (m Membership) runsOurs(p Info) bool {
	if !slices.Contains(ours, p.Executable()) && !holds(p) {
		return false
	}
	return slices.ContainsFunc(p.Command[1:], m.mentionsDir)
}

// mentionsDir looks for the state folder as a whole path, not as the beginning of a longer name, anywhere in a word.
func (m Membership) mentionsDir(word string) bool {
	for rest := word; ; {
		at := strings.Index(rest, m.Dir)
		if at < 0 {
			return false
		}
		rest = rest[at+len(m.Dir):]
		if rest == "" || rest[0] == '/' {
			return true
		}
	}
}

func (m Membership) inCgroup(p Info) bool {
	return slices.ContainsFunc(p.Cgroups, func(path string) bool {
		return slices.Contains(strings.Split(path, "/"), m.Cgroup)
	})
}

// holds reports whether p is this tool holding a namespace, of whichever cluster.
func holds(p Info) bool {
	return len(p.Command) > 2 && p.Command[1] == HoldCommand && strings.HasPrefix(p.Command[2], "--dir=")
}

// HeldDirs returns the state folders of all clusters that hold a namespace on this machine.
func HeldDirs(all []Info) []string {
	var dirs []string
	for _, p := range all {
		if p.Zombie || !holds(p) {
			continue
		}
		dir := filepath.Clean(strings.TrimPrefix(p.Command[2], "--dir="))
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
