package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/cleanup"
)

func downCommand() command {
	return command{
		name:    "down",
		summary: "Remove a cluster and everything it left on the machine.",
		detail: `Ends every process, and removes the namespaces, mounts, links, cgroups and files of the cluster, volumes and their
data included. It works whatever state the cluster is in, also after a crash, and when there is nothing to remove.`,
		example: "t2cluster down --name t2",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			return w.down
		},
	}
}

func (w *which) down(ctx context.Context, e env, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("a cluster's processes and mounts are root's: run this as root")
	}
	began := time.Now()
	c, err := w.described(e)
	if err != nil {
		return err
	}
	unlock, err := lock(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	report, err := cleanup.Cluster(ctx, c)
	if err != nil {
		return fmt.Errorf("%w\nCall it again to go on from here", err)
	}
	if report.Nothing() {
		fmt.Fprintf(e.stderr, "There is no cluster %s.\n", c.Name)
		return nil
	}
	fmt.Fprintf(e.stderr, "Removed cluster %s in %s: %s.\n", c.Name, time.Since(began).Round(100*time.Millisecond), describe(report))
	return nil
}

func describe(r cleanup.Report) string {
	var parts []string
	if r.Processes > 0 {
		parts = append(parts, fmt.Sprintf("%d processes with their namespaces", r.Processes))
	}
	if r.Link {
		parts = append(parts, "the link to it")
	}
	if r.Cgroups {
		parts = append(parts, "its cgroups")
	}
	if r.Mounts > 0 {
		parts = append(parts, fmt.Sprintf("%d mounts", r.Mounts))
	}
	if r.Folder {
		parts = append(parts, "its folder")
	}
	return strings.Join(parts, ", ")
}
