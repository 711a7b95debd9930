package fault

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

func cluster(t *testing.T) layout.Cluster {
	t.Helper()
	c, err := layout.New("t2", "/s", "", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir() // Nothing runs there.
	return c
}

func TestWhatMakesNoSenseIsRefusedBeforeAnythingIsBroken(t *testing.T) {
	c := cluster(t)
	for _, tt := range []struct {
		name, part, want string
		verb             Verb
	}{
		{name: "no such part", part: "kubelet-3", verb: Kill, want: "there are: node-1, node-2, containerd-1"},
		{name: "a node's process that is no component", part: "switch", verb: Kill, want: `no part "switch"`},
		{name: "no such verb", part: "etcd", verb: "hit", want: `not "hit"`},
		{name: "no such verb for a node", part: "node-2", verb: Stop, want: `cut and joined, not "stop"`},
		{name: "a component cannot be cut", part: "kubelet-2", verb: Cut, want: `stopped and continued, not "cut"`},
		{name: "the control plane's node", part: "node-1", verb: Kill, want: "control plane"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, err := Find(c, tt.part)
			if err == nil {
				err = target.Do(t.Context(), tt.verb, t.Output())
			}
			if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want wrong usage that says %q", err, tt.want)
			}
		})
	}
}

func TestWhatDoesNotRunCannotBeKilled(t *testing.T) {
	c := cluster(t)
	for _, part := range []string{"etcd", "node-2"} {
		target, err := Find(c, part)
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Do(t.Context(), Kill, t.Output()); err == nil || errors.Is(err, ErrUsage) {
			t.Errorf("killing %s, which does not run: %v", part, err)
		}
	}
}

func TestANodeIsItsComponentsAndPodsWithoutItsHolder(t *testing.T) {
	n := cluster(t).Node(2)
	holder := process.Info{PID: 10, NetNS: "net:[2]"}
	all := []process.Info{
		holder,
		{PID: 11, NetNS: "net:[2]"}, // A component, a shim.
		{PID: 12, NetNS: "net:[2]", Zombie: true},                                                    // It has ended.
		{PID: 13, NetNS: "net:[77]", Cgroups: []string{"/", "/t2cluster-t2/node-2/kubepods/pod1/c"}}, // A pod.
		{PID: 14, NetNS: "net:[78]", Cgroups: []string{"/outer/t2cluster-t2/node-2/kubepods/pod2"}},  // The same, in a cgroup of the machine's.
		{PID: 15, NetNS: "net:[3]", Cgroups: []string{"/t2cluster-t2/node-20/kubepods/pod3"}},        // Of another node.
		{PID: 16, NetNS: "net:[4]", Cgroups: []string{"/t2cluster-t2-more/node-2/kubepods"}},         // Of another cluster.
		{PID: 17}, // Of which nothing is known.
	}
	var got []int
	for _, p := range onNode(all, holder, n) {
		got = append(got, p.PID)
	}
	if diff := cmp.Diff([]int{11, 13, 14}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
