// Command t2cluster runs a real Kubernetes on this machine, in network namespaces of its own: etcd, the control plane,
// kubelets, containerd and runc, from pinned sources and without Docker. It also builds container images from files.
//
// README.md beside this module tells what is in such a cluster and what is not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

// Exit statuses, the same for every command.
const (
	exitFailed = 1
	exitUsage  = 2
)

// command is one subcommand.
type command struct {
	name string
	// args are its positional arguments, in words.
	args    string
	summary string
	detail  string
	example string
	// prepare declares its flags and returns what runs once they are parsed.
	prepare func(flags *flag.FlagSet) func(ctx context.Context, e env, args []string) error
}

// env is what a command sees of the world around it.
type env struct {
	stdout, stderr io.Writer
	getenv         func(string) string
}

// usageError is a wrong call, as opposed to a failure of what was asked for.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func commands() []command {
	return []command{
		buildCommand(), upCommand(), downCommand(), statusCommand(), kubeconfigCommand(), loadImageCommand(), logsCommand(), execCommand(),
		faultCommand(),
		imageCommand(), assetsCommand(), holdCommand(),
	}
}

func main() {
	// Modes are meant as they are written, whatever the caller's mask.
	syscall.Umask(0o022)
	// Root's path leaves the system's programs out after some ways of becoming root.
	for _, setting := range process.Environment {
		if system, isPath := strings.CutPrefix(setting, "PATH="); isPath {
			if err := os.Setenv("PATH", os.Getenv("PATH")+":"+system); err != nil {
				fmt.Fprintf(os.Stderr, "t2cluster: setting the path: %v\n", err)
				os.Exit(exitFailed)
			}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, env{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}, os.Args[1:])
	stop()
	os.Exit(status)
}

// run carries out one call and returns its exit status.
func run(ctx context.Context, e env, args []string) int {
	if len(args) == 0 {
		printUsage(e.stderr)
		return exitUsage
	}
	if name := args[0]; name == "help" || name == "-h" || name == "-help" || name == "--help" {
		printUsage(e.stdout)
		return 0
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(ctx, e, args[1:])
		}
	}
	fmt.Fprintf(e.stderr, "t2cluster: unknown command %q; see t2cluster --help\n", args[0])
	return exitUsage
}

func (c command) run(ctx context.Context, e env, args []string) int {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the flag package would print the whole usage for every typing mistake
	action := c.prepare(flags)
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		c.printHelp(e.stdout, flags)
		return 0
	} else if err != nil {
		fmt.Fprintf(e.stderr, "t2cluster %s: %v; see t2cluster %s --help\n", c.name, err, c.name)
		return exitUsage
	}
	err := action(ctx, e, flags.Args())
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "t2cluster %s: %v; see t2cluster %s --help\n", c.name, err, c.name)
		return exitUsage
	default:
		fmt.Fprintf(e.stderr, "t2cluster %s: %v\n", c.name, err)
		return exitFailed
	}
}

func printUsage(w io.Writer) {
	fmt.Fprint(w, "t2cluster runs a real Kubernetes on this machine, without Docker.\n\nUsage: t2cluster COMMAND [FLAGS]\n\n")
	for _, c := range commands() {
		if c.summary != "" {
			fmt.Fprintf(w, "  %-11s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprint(w, "\nt2cluster COMMAND --help tells more, with an example.\nExit status: 0 done, 1 failed, 2 wrong usage.\n")
}

func (c command) printHelp(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage: t2cluster %s [FLAGS]%s\n", c.summary, c.name, c.args)
	if c.detail != "" {
		fmt.Fprintf(w, "\n%s\n", c.detail)
	}
	fmt.Fprint(w, "\nFlags:\n")
	flags.SetOutput(w)
	flags.PrintDefaults()
	fmt.Fprintf(w, "\nExample:\n  %s\n", strings.ReplaceAll(c.example, "\n", "\n  "))
}
