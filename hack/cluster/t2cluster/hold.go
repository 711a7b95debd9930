package main

import (
	"context"
	"flag"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/sandbox"
)

// holdCommand is what up starts to hold a namespace; people have no use for it, so it is not listed.
func holdCommand() command {
	return command{
		name:    process.HoldCommand,
		example: "t2cluster hold --dir=/var/lib/t2cluster/t2",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			dir := flags.String("dir", "", "state `folder` of the cluster")
			mounts := flags.Bool("mounts", false, "arrange the cluster's mounts first")
			return func(ctx context.Context, e env, args []string) error {
				if *dir == "" || len(args) > 0 {
					return usagef("want --dir and nothing else")
				}
				return sandbox.Hold(ctx, *dir, *mounts, e.stdout)
			}
		},
	}
}
