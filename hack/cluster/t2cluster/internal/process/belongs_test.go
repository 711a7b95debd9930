package process

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	hostMount, hostNet = "mnt:[1]", "net:[1]"
	ourMount, ourNet   = "mnt:[7]", "net:[7]"
)

// machine is a process table as it may be while a cluster in /var/lib/t2cluster/t2 runs; 90 is the tool that asks.
func machine(more ...Info) []Info {
	return append([]Info{
		{PID: 1, Command: []string{"/sbin/init"}, MountNS: hostMount, NetNS: hostNet, Cgroups: []string{"/"}},
		{PID: 2, MountNS: "", NetNS: ""}, // a kernel thread
		{PID: 80, Parent: 1, Command: []string{"bash"}, MountNS: hostMount, NetNS: hostNet, Cgroups: []string{"/user.slice"}},
		{PID: 90, Parent: 80, Command: []string{"t2cluster", "down"}, MountNS: hostMount, NetNS: hostNet, Cgroups: []string{"/user.slice"}},
	}, more...)
}

func TestSelectFindsTheClusterAndNothingElse(t *testing.T) {
	dir := "/var/lib/t2cluster/t2"
	holder := Info{PID: 100, Parent: 1, Command: []string{"/bin/t2cluster", "hold", "--dir=" + dir, "--mounts"}, MountNS: ourMount, NetNS: ourNet}
	tests := []struct {
		name       string
		processes  []Info
		remembered []Info
		want       []int
	}{
		{name: "no cluster", processes: machine()},
		{name: "a holder that no pid file names", processes: machine(holder), want: []int{100}},
		{
			name: "whatever shares a holder's namespaces",
			processes: machine(holder,
				Info{PID: 101, Command: []string{"/bin/etcd", "--data-dir=x"}, MountNS: ourMount, NetNS: "net:[8]"},
				Info{PID: 102, Command: []string{"bridge-plugin"}, MountNS: hostMount, NetNS: ourNet}),
			want: []int{100, 101, 102},
		},
		{
			name: "one namespace leads to the next",
			processes: machine(
				Info{PID: 103, Command: []string{"third"}, MountNS: "mnt:[9]", NetNS: "net:[9]"},
				Info{PID: 102, Command: []string{"second"}, MountNS: "mnt:[9]", NetNS: ourNet},
				holder),
			want: []int{103, 102, 100},
		},
		{
			name: "a container's process, known by its cgroup alone",
			processes: machine(
				Info{PID: 110, Command: []string{"/t2", "serve"}, MountNS: "mnt:[20]", NetNS: "net:[20]", Cgroups: []string{"/", "/t2cluster-t2/node-1/kubepods/pod1/abc"}}),
			want: []int{110},
		},
		{
			name: "a shim whose holder has died",
			processes: machine(
				Info{PID: 111, Command: []string{"/bin/containerd-shim-runc-v2", "-address", dir + "/node-1/containerd.sock"}, MountNS: "mnt:[21]", NetNS: "net:[21]"}),
			want: []int{111},
		},
		{
			name:       "a program that a pid file names, before it has entered its namespaces",
			processes:  machine(Info{PID: 112, Started: 5, Command: []string{"nsenter", "--", "kubelet"}, MountNS: hostMount, NetNS: hostNet}),
			remembered: []Info{{PID: 112, Started: 5}},
			want:       []int{112},
		},
		{
			name:       "a PID that now belongs to somebody else",
			processes:  machine(Info{PID: 112, Started: 6, Command: []string{"sshd"}, MountNS: hostMount, NetNS: hostNet}),
			remembered: []Info{{PID: 112, Started: 5}},
		},
		{
			name: "an editor and a pager on our files, and kubectl with our kubeconfig",
			processes: machine(
				Info{PID: 120, Command: []string{"vi", dir + "/node-1/kubelet.json"}, MountNS: hostMount, NetNS: hostNet},
				Info{PID: 121, Command: []string{"tail", "-f", dir + "/logs/etcd.log"}, MountNS: hostMount, NetNS: hostNet},
				Info{PID: 122, Command: []string{"kubectl", "--kubeconfig=" + dir + "/kubeconfig", "get", "pods"}, MountNS: hostMount, NetNS: hostNet}),
		},
		{
			name: "another cluster, whose names begin like ours",
			processes: machine(
				Info{PID: 130, Command: []string{"/bin/t2cluster", "hold", "--dir=" + dir + "-e2e"}, MountNS: "mnt:[30]", NetNS: "net:[30]"},
				Info{PID: 131, Command: []string{"/bin/containerd", "--config=" + dir + "-e2e/node-1/containerd.toml"}, MountNS: "mnt:[30]", NetNS: "net:[30]"},
				Info{PID: 132, Command: []string{"pod"}, MountNS: "mnt:[31]", NetNS: "net:[31]", Cgroups: []string{"/t2cluster-t2-e2e/node-1"}}),
		},
		{
			name: "the machine's own containerd",
			processes: machine(
				Info{PID: 140, Command: []string{"/usr/bin/containerd"}, MountNS: hostMount, NetNS: hostNet},
				Info{PID: 141, Command: []string{"/usr/bin/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock"}, MountNS: hostMount, NetNS: hostNet}),
		},
		{
			name:      "a zombie needs no killing",
			processes: machine(Info{PID: 150, Started: 3, Zombie: true, Cgroups: []string{"/t2cluster-t2"}}),
		},
		{
			name:       "the tool itself and its ancestors, even if something of theirs looks like the cluster's",
			processes:  machine(),
			remembered: []Info{{PID: 80}, {PID: 90}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := Membership{Dir: dir, Cgroup: "t2cluster-t2", Remembered: tt.remembered}
			var got []int
			for _, p := range m.Select(tt.processes, 90) {
				got = append(got, p.PID)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("members (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeldDirs(t *testing.T) {
	got := HeldDirs(machine(
		Info{PID: 10, Command: []string{"/a/t2cluster", "hold", "--dir=/s/one", "--mounts"}},
		Info{PID: 11, Command: []string{"/a/t2cluster", "hold", "--dir=/s/one"}},
		Info{PID: 12, Command: []string{"/a/t2cluster", "hold", "--dir=/s/two/"}},
		Info{PID: 13, Zombie: true, Command: []string{"/a/t2cluster", "hold", "--dir=/s/three"}},
		Info{PID: 14, Command: []string{"hold", "--dir=/s/four"}},
	))
	if diff := cmp.Diff([]string{"/s/one", "/s/two"}, got); diff != "" {
		t.Errorf("folders (-want +got):\n%s", diff)
	}
}
