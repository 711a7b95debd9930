// Package fault breaks parts of a running cluster and mends them, so that one can see what becomes of what runs there.
// A part is a component, such as kube-apiserver or kubelet-2, or a node, such as node-2, with all that runs on it.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/bringup"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

// endBound is how long the processes of a node may take to end once they are killed.
const endBound = 20 * time.Second

// Verb is what is done to a part. Verbs come in pairs: one breaks what the other mends.
type Verb string

// The verbs.
const (
	// Kill ends a component without warning. A node loses its power: first its link, so that nobody hears of the end of
	// anything there, then every process.
	Kill Verb = "kill"
	// Start starts a killed component, or boots a killed node, and waits until it works.
	Start Verb = "start"
	// Stop holds a component: it takes connections and answers nothing.
	Stop Verb = "stop"
	// Continue lets a held component go on.
	Continue Verb = "continue"
	// Cut takes a node off the network. Everything on it runs on.
	Cut Verb = "cut"
	// Join brings it back.
	Join Verb = "join"
)

// ErrUsage wraps what cannot be done to a part, whatever state it is in.
var ErrUsage = errors.New("wrong usage")

// Target is a part of a cluster, by name.
type Target struct {
	c layout.Cluster
	// name is the component's, node the number of the node that is the part; one of them is there.
	name string
	node int
}

// Find finds the part that a name means.
func Find(c layout.Cluster, name string) (Target, error) {
	components := bringup.Components(c)
	if _, ok := components[name]; ok {
		return Target{c: c, name: name}, nil
	}
	var nodes []string
	for _, n := range c.AllNodes() {
		if name == n.Namespace() {
			return Target{c: c, node: n.Number}, nil
		}
		nodes = append(nodes, n.Namespace())
	}
	return Target{}, fmt.Errorf("%w: no part %q; there are: %s", ErrUsage, name,
		strings.Join(append(nodes, slices.Sorted(maps.Keys(components))...), ", "))
}

// Do does what a verb says to the part. out receives a line for each step of what takes time; ctx bounds it.
func (t Target) Do(ctx context.Context, verb Verb, out io.Writer) error {
	if err := t.allows(verb); err != nil {
		return err
	}
	if t.node != 0 {
		return t.doNode(ctx, verb, out)
	}
	switch verb {
	case Kill:
		return t.signal(syscall.SIGKILL)
	case Stop:
		return t.signal(syscall.SIGSTOP)
	case Continue:
		return t.signal(syscall.SIGCONT)
	default: // Start.
		if _, running, err := find(t.c, t.name); err != nil || running {
			return errors.Join(err, alreadyRuns(t.name, running))
		}
		return bringup.Restart(ctx, t.c, out, t.name)
	}
}

// allows says what makes no sense for a part.
func (t Target) allows(verb Verb) error {
	component, node := []Verb{Kill, Start, Stop, Continue}, []Verb{Kill, Start, Cut, Join}
	switch {
	case t.node == 0 && !slices.Contains(component, verb):
		return fmt.Errorf("%w: a component can be killed and started, stopped and continued, not %q", ErrUsage, verb)
	case t.node == 1:
		return fmt.Errorf("%w: node-1 runs the control plane; break its components by name, or another node", ErrUsage)
	case t.node != 0 && !slices.Contains(node, verb):
		return fmt.Errorf("%w: a node can be killed and started, cut and joined, not %q", ErrUsage, verb)
	}
	return nil
}

func (t Target) signal(signal syscall.Signal) error {
	info, running, err := find(t.c, t.name)
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("%s does not run; start it first", t.name)
	}
	if err := syscall.Kill(info.PID, signal); err != nil {
		return fmt.Errorf("sending %s a signal: %w", t.name, err)
	}
	return nil
}

func (t Target) doNode(ctx context.Context, verb Verb, out io.Writer) error {
	n := t.c.Node(t.node)
	switch verb {
	case Kill:
		if err := link(ctx, t.c, n, "down"); err != nil {
			return err
		}
		return endNode(ctx, t.c, n)
	case Cut:
		return link(ctx, t.c, n, "down")
	case Join:
		return link(ctx, t.c, n, "up")
	default: // Start.
		for _, name := range bringup.ComponentsOfNode(t.c, n) {
			if _, running, err := find(t.c, name); err != nil || running {
				return errors.Join(err, alreadyRuns(name, running))
			}
		}
		if err := link(ctx, t.c, n, "up"); err != nil {
			return err
		}
		return bringup.Restart(ctx, t.c, out, bringup.ComponentsOfNode(t.c, n)...)
	}
}

func alreadyRuns(name string, running bool) error {
	if !running {
		return nil
	}
	return fmt.Errorf("%s runs already; kill it first", name)
}

// find returns the process of a component, if it runs.
func find(c layout.Cluster, name string) (process.Info, bool, error) {
	remembered, err := process.Recall(c.PidsDir())
	if err != nil {
		return process.Info{}, false, err
	}
	for _, r := range remembered {
		if r.Name == name {
			info, running := r.Running()
			return info, running, nil
		}
	}
	return process.Info{}, false, nil
}

// link switches the node's port of the switch: the machine's end of a cable, which the node does not see.
func link(ctx context.Context, c layout.Cluster, n layout.Node, state string) error {
	in, err := sandbox.Find(c, layout.Switch)
	if err != nil {
		return err
	}
	if err := process.Run(ctx, in, nil, "ip", "link", "set", "dev", n.Namespace(), state); err != nil {
		return fmt.Errorf("switching the link of %s: %w", n.Name, err)
	}
	return nil
}

// endNode ends all that runs on a node but the process that holds its network namespace.
func endNode(ctx context.Context, c layout.Cluster, n layout.Node) error {
	holder, running, err := find(c, n.Namespace())
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("%s is not there; see `t2cluster status`", n.Name)
	}
	_, err = process.EndAll(ctx, func(all []process.Info) []process.Info { return onNode(all, holder, n) }, endBound)
	return err
}

// onNode are the processes of a node: those in its network namespace, and those in its cgroups, which pods are in.
func onNode(all []process.Info, holder process.Info, n layout.Node) []process.Info {
	var found []process.Info
	for _, p := range all {
		pod := slices.ContainsFunc(p.Cgroups, func(path string) bool { return within(path, n.CgroupRoot()) })
		if p.PID != holder.PID && !p.Zombie && (pod || p.NetNS != "" && p.NetNS == holder.NetNS) {
			found = append(found, p)
		}
	}
	return found
}

// within reports whether group is, or lies in, a group of this path, wherever the hierarchy's root is.
func within(group, path string) bool {
	return strings.Contains(group+"/", path+"/")
}
