package bringup

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/binaries"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/cgroups"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/image"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/kubeapi"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/mounts"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/render"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

// Options say how a cluster is brought up.
type Options struct {
	// Exe is this tool, which holds the namespaces.
	Exe string
	// Host is what Require found out.
	Host render.Host
	// Out receives a line for each step.
	Out io.Writer
}

// run is one bringing up.
type run struct {
	c       layout.Cluster
	o       Options
	began   time.Time
	sandbox *sandbox.Sandbox
	// started are the components so far, whose early end ends every wait.
	started []*process.Started
	api     *kubeapi.Client
}

// Up starts cluster c, of which nothing must exist yet, and returns when pods can be scheduled on every node. ctx bounds
// it. When it fails, what runs is left for inspection; cleanup.Cluster removes it.
func Up(ctx context.Context, c layout.Cluster, o Options) error {
	r := &run{c: c, o: o, began: time.Now()}
	for _, step := range []func(context.Context) error{
		r.writeFiles, r.makeSandbox, r.startControlPlane, r.startNodes, r.prepare, r.waitForNodes,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say prints a line with the time since the beginning.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.o.Out, "%5.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) writeFiles(context.Context) error {
	if err := os.MkdirAll(r.c.Dir, 0o755); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	// First of all, because down goes by it.
	if err := r.c.Save(); err != nil {
		return err
	}
	dirs := []string{r.c.LogsDir(), r.c.PidsDir(), r.c.Path("volumes"), r.c.Path("volume-plugins"), r.c.Path("kubeconfigs")}
	for _, n := range r.c.AllNodes() {
		dirs = append(dirs, n.Path("cni"), n.Path("cni-addresses"), n.Path("pod-logs"))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the state folder: %w", err)
		}
	}
	if err := pki.WriteCluster(r.c, render.PKIDir(r.c), time.Now()); err != nil {
		return err
	}
	if err := writeKubeconfigs(r.c); err != nil {
		return err
	}
	for _, n := range r.c.AllNodes() {
		files, err := render.NodeFiles(r.c, n, r.o.Host)
		if err != nil {
			return err
		}
		for path, content := range files {
			err := os.MkdirAll(filepath.Dir(path), 0o755)
			if err == nil {
				err = os.WriteFile(path, content, 0o644)
			}
			if err != nil {
				return fmt.Errorf("writing a configuration file: %w", err)
			}
		}
	}
	api, err := Client(r.c)
	if err != nil {
		return err
	}
	r.api = api
	r.say("made certificates and configuration in %s", r.c.Dir)
	return nil
}

func (r *run) makeSandbox(ctx context.Context) error {
	table, err := mounts.Table()
	if err != nil {
		return err
	}
	children := make([]string, r.c.Nodes)
	for i, n := range r.c.AllNodes() {
		children[i] = n.Namespace()
	}
	if err := cgroups.Find(table).Make(r.c.CgroupName(), children); err != nil {
		return err
	}
	if r.sandbox, err = sandbox.Make(ctx, r.c, r.o.Exe); err != nil {
		return err
	}
	r.say("made the namespaces and links of %s, network %s", plural(r.c.Nodes, "node"), r.c.Subnet)
	return nil
}

// startControlPlane starts the containers' runtimes along with it: they share no work, and both take seconds.
func (r *run) startControlPlane(ctx context.Context) error {
	if err := r.start(1, render.Etcd(r.c), render.APIServer(r.c)); err != nil {
		return err
	}
	for _, n := range r.c.AllNodes() {
		if err := r.start(n.Number, render.Containerd(n)); err != nil {
			return err
		}
	}
	for _, n := range r.c.AllNodes() {
		if err := r.loadPause(ctx, n); err != nil {
			return err
		}
	}
	r.say("the container runtime is ready")
	if err := r.waitFor(ctx, "the API server to be ready", "kube-apiserver", func(ctx context.Context) error {
		return r.api.Get(ctx, "/readyz", nil)
	}); err != nil {
		return err
	}
	r.say("the API server is ready at %s", r.c.APIServer())
	return r.start(1, render.ControllerManager(r.c), render.Scheduler(r.c))
}

func (r *run) loadPause(ctx context.Context, n layout.Node) error {
	socket := n.ContainerdSocket()
	name := n.Component("containerd")
	if err := r.waitFor(ctx, "containerd to listen", name, func(context.Context) error {
		_, err := os.Stat(socket)
		return err
	}); err != nil {
		return err
	}
	file := r.c.Path("pause.tar")
	pause := filepath.Join(r.c.Bin, binaries.Pause)
	if _, _, err := image.Write(image.Spec{
		Name:       layout.PauseImage,
		Add:        []image.Addition{{Source: pause, Target: "/pause"}},
		Entrypoint: []string{"/pause"},
		User:       65535,
	}, file); err != nil {
		return err
	}
	return r.waitFor(ctx, "containerd to take the pause image", name, func(ctx context.Context) error {
		return LoadImage(ctx, r.c, n, file)
	})
}

// LoadImage imports the image tarball into the container runtime of node n.
func LoadImage(ctx context.Context, c layout.Cluster, n layout.Node, file string) error {
	err := process.Run(ctx, process.Namespaces{}, nil, filepath.Join(c.Bin, "ctr"),
		"--address="+n.ContainerdSocket(), "--namespace=k8s.io", "images", "import", file)
	if err != nil {
		return fmt.Errorf("loading %s into %s: %w", file, n.Name, err)
	}
	return nil
}

func (r *run) startNodes(context.Context) error {
	for _, n := range r.c.AllNodes() {
		if err := r.start(n.Number, render.Kubelet(r.c, n), render.Proxy(n)); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) start(node int, components ...render.Component) error {
	return r.startIn(r.sandbox.Node(node), components...)
}

func (r *run) startIn(in process.Namespaces, components ...render.Component) error {
	for _, component := range components {
		started, err := process.Start(process.Program{
			Name:    component.Name,
			Argv:    append([]string{filepath.Join(r.c.Bin, component.Executable)}, component.Args...),
			In:      in,
			LogsDir: r.c.LogsDir(),
			PidsDir: r.c.PidsDir(),
		})
		if err != nil {
			return err
		}
		r.started = append(r.started, started)
	}
	return nil
}

// prepare creates what a cluster is expected to have.
func (r *run) prepare(ctx context.Context) error {
	for _, object := range defaultObjects() {
		// The namespace that an object belongs to may still be on its way.
		if err := r.waitFor(ctx, "the API server to take "+object.path, "kube-apiserver", func(ctx context.Context) error {
			return r.api.Ensure(ctx, object.path, object.body)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) waitForNodes(ctx context.Context) error {
	for _, n := range r.c.AllNodes() {
		if err := r.waitFor(ctx, n.Name+" to be ready", n.Component("kubelet"), func(ctx context.Context) error {
			return nodeReady(ctx, r.api, n.Name)
		}); err != nil {
			return err
		}
		if err := r.waitFor(ctx, "services to work on "+n.Name, n.Component("kube-proxy"), func(ctx context.Context) error {
			return proxyReady(ctx, n)
		}); err != nil {
			return err
		}
		r.say("%s is ready", n.Name)
	}
	return r.waitFor(ctx, "the default service account", "kube-controller-manager", func(ctx context.Context) error {
		return r.api.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
