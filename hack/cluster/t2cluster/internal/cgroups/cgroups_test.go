package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/mounts"
)

func TestFind(t *testing.T) {
	tests := []struct {
		name  string
		table []mounts.Mount
		want  Hierarchies
	}{
		{name: "none mounted", table: []mounts.Mount{{Point: "/", Type: "ext4"}}},
		{name: "version 2", table: []mounts.Mount{{Point: "/sys/fs/cgroup", Type: "cgroup2"}}, want: Hierarchies{V2: "/sys/fs/cgroup"}},
		{
			name: "hybrid, with a second mount of the unified one",
			table: []mounts.Mount{
				{Point: "/sys/fs/cgroup", Type: "tmpfs"},
				{Point: "/sys/fs/cgroup/cpu", Type: "cgroup"},
				{Point: "/sys/fs/cgroup/memory", Type: "cgroup"},
				{Point: "/sys/fs/cgroup/unified", Type: "cgroup2"},
				{Point: "/mnt/again", Type: "cgroup2"},
			},
			want: Hierarchies{V1: []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"}, V2: "/sys/fs/cgroup/unified"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Find(tt.table)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// The kernel fills a new cgroup's folder with files at once, which a plain folder does not; so these folders stand for
// hierarchies whose groups exist already, and only what is written to them is looked at.

func TestMakeV1HandsProcessorsDown(t *testing.T) {
	root := t.TempDir()
	write(t, "0-1\n", root, "cpuset.cpus")
	write(t, "0\n", root, "cpuset.mems")
	for _, group := range []string{"t2cluster-t2", "t2cluster-t2/node-1"} {
		write(t, "\n", root, group, "cpuset.cpus")
		write(t, "\n", root, group, "cpuset.mems")
	}
	write(t, "1\n", root, "t2cluster-t2", "cpuset.cpus") // set by somebody: it stays
	if err := (Hierarchies{V1: []string{root}}).Make("t2cluster-t2", []string{"node-1"}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"t2cluster-t2/cpuset.cpus": "1", "t2cluster-t2/cpuset.mems": "0",
		"t2cluster-t2/node-1/cpuset.cpus": "1", "t2cluster-t2/node-1/cpuset.mems": "0",
	} {
		if got := read(t, root, file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

func TestMakeV2HandsMissingControllersDown(t *testing.T) {
	root := t.TempDir()
	tests := []struct{ group, available, enabled, want string }{
		{group: ".", available: "cpuset cpu io memory pids rdma", enabled: "cpuset cpu io memory", want: "+pids"},
		{group: "t2cluster-t2", available: "memory", enabled: "", want: "+memory"},
		{group: "t2cluster-t2/node-1", available: "memory", enabled: "memory", want: "memory"},
	}
	for _, tt := range tests {
		write(t, tt.available+"\n", root, tt.group, "cgroup.controllers")
		write(t, tt.enabled+"\n", root, tt.group, "cgroup.subtree_control")
	}
	if err := (Hierarchies{V2: root}).Make("t2cluster-t2", []string{"node-1"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		// A plain file keeps what was written to it last, the kernel's adds it to the set.
		if got := read(t, root, tt.group, "cgroup.subtree_control"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.group, got, tt.want)
		}
	}
}

func TestMakeLeavesTheUnifiedHierarchyOfAHybridAlone(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	if err := (Hierarchies{V1: []string{one}, V2: two}).Make("t2cluster-t2", []string{"node-1", "node-2"}); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node-1", "node-2"} {
		if _, err := os.Stat(filepath.Join(one, "t2cluster-t2", node)); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(two); err != nil || len(entries) != 0 {
		t.Errorf("the unified hierarchy has %v, %v, want nothing", entries, err)
	}
}

func TestMakeNeedsAHierarchy(t *testing.T) {
	if err := (Hierarchies{}).Make("t2cluster-t2", []string{"node-1"}); err == nil || !strings.Contains(err.Error(), "mount") {
		t.Errorf("Make() = %v, want an error that says to mount one", err)
	}
}

func TestRemoveTakesTheClustersGroupsAndNoOther(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, group := range []string{"t2cluster-t2/node-1/kubepods/pod1", "t2cluster-t2-e2e/node-1", "system"} {
		if err := os.MkdirAll(filepath.Join(one, group), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := Hierarchies{V1: []string{one}, V2: two}
	found, err := h.Remove("t2cluster-t2", 0)
	if err != nil || !found {
		t.Fatalf("Remove() = %t, %v, want something removed", found, err)
	}
	var left []string
	entries, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"system", "t2cluster-t2-e2e"}, left); diff != "" {
		t.Errorf("groups left (-want +got):\n%s", diff)
	}
	if found, err := h.Remove("t2cluster-t2", 0); err != nil || found {
		t.Errorf("second Remove() = %t, %v, want nothing to do", found, err)
	}
}
