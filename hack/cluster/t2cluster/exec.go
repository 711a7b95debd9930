package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

func execCommand() command {
	return command{
		name:    "exec",
		args:    " PROGRAM [ARG...]",
		summary: "Run a program of this machine inside a node, to look around.",
		detail:  "The program sees the node's network, and mounts and paths as the cluster's components do.",
		example: "t2cluster exec --node 1 iptables -t nat -L",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			node := flags.Int("node", 1, "`number` of the node")
			return func(ctx context.Context, e env, args []string) error {
				if len(args) == 0 {
					return usagef("want a program to run")
				}
				return w.exec(ctx, e, *node, args)
			}
		},
	}
}

func (w *which) exec(ctx context.Context, e env, node int, argv []string) error {
	c, err := w.existing(e)
	if err != nil {
		return err
	}
	if node < 1 || node > c.Nodes {
		return usagef("--node %d: cluster %s has nodes 1 to %d", node, c.Name, c.Nodes)
	}
	in, err := sandbox.Find(c, c.Node(node).Namespace())
	if err != nil {
		return err
	}
	line := in.Enter(argv...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, e.stdout, e.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}
