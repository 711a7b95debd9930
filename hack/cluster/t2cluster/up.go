package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/bringup"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/cleanup"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

// defaultTimeout is several times what a slow, busy machine needs.
const defaultTimeout = 3 * time.Minute

type upFlags struct {
	which
	place
	subnet string
	nodes  int
	// impatient is layout.Cluster's.
	impatient bool
	timeout   time.Duration
}

func upCommand() command {
	return command{
		name:    "up",
		summary: "Bring a cluster up and wait until it is usable.",
		detail: `Calling it again on a cluster that is up does nothing. What is left of one that is not well is removed first.
Afterwards the cluster runs on by itself; t2cluster down removes it with everything in it.`,
		example: "t2cluster up --name t2\nexport KUBECONFIG=$(t2cluster kubeconfig --name t2)\nbin/cluster/kubectl get nodes",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var f upFlags
			f.declare(flags)
			f.declareBin(flags)
			flags.IntVar(&f.nodes, "nodes", 1, "`number` of nodes, each a network namespace with a kubelet and containerd of its own")
			flags.StringVar(&f.subnet, "subnet", "", "IPv4 `network` that joins machine and nodes (default: the first free one of 10.99.0.0/24, 10.99.1.0/24, …)")
			flags.BoolVar(&f.impatient, "impatient", false, "give up a node that does not report after 16 seconds and its pods after 20 more, instead of 50 seconds and 5 minutes")
			flags.DurationVar(&f.timeout, "timeout", defaultTimeout, "give up after this `time`")
			return f.run
		},
	}
}

func (f *upFlags) run(ctx context.Context, e env, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	began := time.Now()
	bin, err := f.findBin()
	if err != nil {
		return err
	}
	dir, err := f.folder(e)
	if err != nil {
		return err
	}
	// The subnet comes last: which ones are free is known only when what is left of an earlier run is gone.
	c, err := layout.New(f.name, dir, bin, f.subnet, f.nodes)
	if err != nil {
		return usagef("%v", err)
	}
	c.Impatient = f.impatient
	host, err := bringup.Require(c)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this tool's own file: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("gave up after %s", f.timeout))
	defer cancel()

	up, err := f.alreadyUp(ctx, e, c)
	if err != nil {
		return err
	}
	if !up {
		if err := chooseSubnet(&c, f.subnet != ""); err != nil {
			return err
		}
		if err := bringup.Up(ctx, c, bringup.Options{Exe: exe, Host: host, Out: e.stderr}); err != nil {
			return fmt.Errorf("%w\nWhat was started still runs, for you to look at; remove it with `t2cluster down%s`", err, f.flags())
		}
		fmt.Fprintf(e.stderr, "Cluster %s is up after %s.\n", c.Name, time.Since(began).Round(100*time.Millisecond))
	}
	fmt.Fprintf(e.stderr, "  export KUBECONFIG=%s\n  %s/kubectl get nodes\n", c.Kubeconfig(), c.Bin)
	return nil
}

// flags repeats what names the cluster, for a command to copy.
func (w *which) flags() string {
	text := ""
	if w.name != defaultName {
		text += " --name " + w.name
	}
	if w.dir != "" {
		text += " --dir " + w.dir
	}
	return text
}

// alreadyUp reports whether the wanted cluster runs. What is left of one that is not well is removed.
func (f *upFlags) alreadyUp(ctx context.Context, e env, want layout.Cluster) (bool, error) {
	old, err := layout.Load(want.Dir)
	if err == nil && old.Dir == want.Dir {
		status, err := bringup.Check(ctx, old)
		if err == nil && status.Healthy() {
			if old.Nodes != want.Nodes || old.Name != want.Name || old.Impatient != want.Impatient || f.subnet != "" && old.Subnet != want.Subnet {
				return false, fmt.Errorf("a cluster %q with %d nodes on %s (impatient: %t) is up in %s: remove it first with `t2cluster down%s`",
					old.Name, old.Nodes, old.Subnet, old.Impatient, old.Dir, f.flags())
			}
			fmt.Fprintf(e.stderr, "Cluster %s is already up.\n", old.Name)
			return true, nil
		}
		fmt.Fprintf(e.stderr, "Cluster %s is not well: removing it to start afresh.\n", old.Name)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(e.stderr, "%v: removing what is there to start afresh.\n", err)
		old = want
	} else {
		old = want
	}
	// Also when there is no description: an earlier run may have been stopped before or after it existed.
	if _, err := cleanup.Cluster(ctx, old); err != nil {
		return false, fmt.Errorf("removing what is left of an earlier cluster: %w", err)
	}
	return false, nil
}

// chooseSubnet settles the cluster's network: the wanted one, which must be free, or else the first that is.
func chooseSubnet(c *layout.Cluster, wanted bool) error {
	taken, err := sandbox.TakenNetworks()
	if err != nil {
		return err
	}
	return settleSubnet(c, wanted, taken)
}

func settleSubnet(c *layout.Cluster, wanted bool, taken []netip.Prefix) error {
	if wanted {
		if layout.OverlapsAny(c.Subnet, taken) {
			return fmt.Errorf("this machine already has an address in or a route to %s: choose another with --subnet, or leave it out to take a free one", c.Subnet)
		}
		return nil
	}
	free, err := layout.FirstFree(taken)
	if err != nil {
		return err
	}
	c.Subnet = free
	return nil
}
