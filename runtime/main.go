// Command t2 is the runtime of the Transformer² operator: it fetches and
// decomposes base models, trains and evaluates expert vectors, and serves
// them. In a cluster its subcommands run in the Jobs and Deployments that the
// operator makes; on a desk they run by themselves.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/transformersquared/operator/runtime/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the default takes over again, so that a second
	// ctrl-C ends a process that is slow to finish.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
