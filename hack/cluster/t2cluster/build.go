package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/binaries"
)

func buildCommand() command {
	return command{
		name:    "build",
		summary: "Build the executables that a cluster runs.",
		detail: `Kubernetes, etcd and kubectl are one executable with a link for each; containerd and its shim, ctr, and pause are
the others. What Go has in its build cache is not compiled again. The folder also serves as KUBEBUILDER_ASSETS.`,
		example: "t2cluster build --bin bin/cluster",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var p place
			p.declareBin(flags)
			p.declareSource(flags)
			return func(ctx context.Context, e env, args []string) error {
				if len(args) > 0 {
					return usagef("unexpected argument %q", args[0])
				}
				source, err := p.findSource()
				if err != nil {
					return err
				}
				bin, err := p.findBin()
				if err != nil {
					return err
				}
				began := time.Now()
				if err := binaries.Build(ctx, source, bin, e.stderr); err != nil {
					return err
				}
				fmt.Fprintf(e.stderr, "The executables are in %s (%s)\n", bin, time.Since(began).Round(100*time.Millisecond))
				return nil
			}
		},
	}
}

func assetsCommand() command {
	return command{
		name:    "assets",
		args:    " DIR",
		summary: "Link etcd, kube-apiserver and kubectl into a folder, for KUBEBUILDER_ASSETS.",
		example: "t2cluster assets /tmp/assets\nKUBEBUILDER_ASSETS=/tmp/assets go test ./test/envtest/...",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var p place
			p.declareBin(flags)
			return func(_ context.Context, _ env, args []string) error {
				if len(args) != 1 {
					return usagef("want one folder, got %d", len(args))
				}
				bin, err := p.findBin()
				if err != nil {
					return err
				}
				return binaries.LinkRoles(bin, args[0], binaries.AssetRoles)
			}
		},
	}
}
