package bringup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/render"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

// controlPlane are the components that node 1 runs for the whole cluster, in the order in which they start.
func controlPlane(c layout.Cluster) []render.Component {
	return []render.Component{render.Etcd(c), render.APIServer(c), render.ControllerManager(c), render.Scheduler(c)}
}

// ofNode are the components that every node runs, in the order in which they start.
func ofNode(c layout.Cluster, n layout.Node) []render.Component {
	return []render.Component{render.Containerd(n), render.Kubelet(c, n), render.Proxy(n)}
}

// ComponentsOfNode names the components that node n runs as a node.
func ComponentsOfNode(c layout.Cluster, n layout.Node) []string {
	var names []string
	for _, component := range ofNode(c, n) {
		names = append(names, component.Name)
	}
	return names
}

// Components names all components of a cluster, and the node that each runs on.
func Components(c layout.Cluster) map[string]layout.Node {
	where := map[string]layout.Node{}
	for _, component := range controlPlane(c) {
		where[component.Name] = c.Node(1)
	}
	for _, n := range c.AllNodes() {
		for _, name := range ComponentsOfNode(c, n) {
			where[name] = n
		}
	}
	return where
}

// Restart starts components of a running cluster again, which do not run, as Up started them, and returns when what they
// are needed for works again. ctx bounds it.
func Restart(ctx context.Context, c layout.Cluster, out io.Writer, names ...string) error {
	api, err := Client(c)
	if err != nil {
		return err
	}
	r := &run{c: c, o: Options{Out: out}, began: time.Now(), api: api}
	where := Components(c)
	for _, component := range slices.Concat(controlPlane(c), allOfNodes(c)) { // In the order in which they start.
		if !slices.Contains(names, component.Name) {
			continue
		}
		n := where[component.Name]
		in, err := sandbox.Find(c, n.Namespace())
		if err != nil {
			return err
		}
		if component.Name == n.Component("containerd") {
			// What a killed one left would be taken for a sign that it listens.
			if err := os.Remove(n.ContainerdSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing what a killed containerd left: %w", err)
			}
		}
		if err := r.startIn(in, component); err != nil {
			return err
		}
		if component.Name == n.Component("containerd") {
			// A kubelet without it ends.
			if err := r.works(ctx, component.Name, n); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if err := r.works(ctx, name, where[name]); err != nil {
			return err
		}
		r.say("%s works again", name)
	}
	return nil
}

func allOfNodes(c layout.Cluster) []render.Component {
	var all []render.Component
	for _, n := range c.AllNodes() {
		all = append(all, ofNode(c, n)...)
	}
	return all
}

// works waits for what a component is needed for.
func (r *run) works(ctx context.Context, name string, n layout.Node) error {
	switch name {
	case render.Etcd(r.c).Name, render.APIServer(r.c).Name:
		return r.waitFor(ctx, "the API server to be ready", name, func(ctx context.Context) error { return r.api.Get(ctx, "/readyz", nil) })
	case n.Component("containerd"):
		return r.waitFor(ctx, "containerd to listen", name, func(context.Context) error {
			_, err := os.Stat(n.ContainerdSocket())
			return err
		})
	case n.Component(pki.Kubelet):
		return r.waitFor(ctx, n.Name+" to be ready", name, func(ctx context.Context) error { return r.reports(ctx, n) })
	case render.Proxy(n).Name:
		return r.waitFor(ctx, "services to work on "+n.Name, name, func(ctx context.Context) error { return proxyReady(ctx, n) })
	default:
		return nil // Nobody asks them anything.
	}
}

// reports succeeds when the node is ready by what it has said since it was started again: what it said before stays.
func (r *run) reports(ctx context.Context, n layout.Node) error {
	var lease struct {
		Spec struct {
			RenewTime time.Time `json:"renewTime"`
		} `json:"spec"`
	}
	if err := r.api.Get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+n.Name, &lease); err != nil {
		return err
	}
	if !lease.Spec.RenewTime.After(r.began) {
		return errors.New("it has not reported since it was started again")
	}
	return nodeReady(ctx, r.api, n.Name)
}
