// Package plugin is `kubectl t2`: one file a command. A command reads the cluster with the
// rights of whoever runs it, and asks pods through the API server (package tunnel).
//
// Exit statuses are 0 (done), 1 (failed, or not as it should be) and 2 (wrong usage).
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/transformersquared/operator/runtime/contract"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Env is what the plugin may touch of the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Size returns the terminal's width and height in cells; nil where Stdout is none.
	Size func() (width, height int)
	// Asks says that a person types Stdin.
	Asks bool
	// Interrupts is told when the person presses Ctrl-C; nil where that ends the process.
	Interrupts func() (pressed <-chan os.Signal, stop func())
	// Connect finds the cluster that the flags name.
	Connect func(context.Context, *Flags) (*Cluster, error)
	Now     func() time.Time
}

// usageError marks an error as wrong usage: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// errUnwell ends a command with status 1 that has printed all there is to say.
var errUnwell = errors.New("not everything is as it should be")

// Main runs the plugin for a command line and returns its exit status.
func Main(args []string, stdin, stdout, stderr *os.File) int {
	env := &Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Connect: Connect, Now: time.Now, Asks: term.IsTerminal(int(stdin.Fd()))}
	if term.IsTerminal(int(stdout.Fd())) {
		env.Size = func() (int, int) { return sizeOf(stdout) }
	}
	env.Interrupts = func() (<-chan os.Signal, func()) {
		c := make(chan os.Signal, 1)
		signal.Notify(c, os.Interrupt)
		return c, func() { signal.Stop(c) }
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Run(ctx, env, args)
}

// Run runs a command line and returns its exit status.
func Run(ctx context.Context, env *Env, args []string) int {
	root := newRoot(env)
	root.SetArgs(append([]string{}, args...)) // Of nil, cobra would take the process's own.
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUnwell):
		return exitFailed
	}
	fmt.Fprintln(env.Stderr, "kubectl-t2:", err)
	if usage, ok := errors.AsType[*usageError](err); ok && usage != nil {
		fmt.Fprintln(env.Stderr, "See kubectl t2 --help.")
		return exitUsage
	}
	return exitFailed
}

// newRoot returns the command `kubectl t2`.
func newRoot(env *Env) *cobra.Command {
	var flags Flags
	root := &cobra.Command{
		Use:   "kubectl-t2",
		Short: "See what Transformer² does, and ask it",
		Long: `Shows what the Transformer² operator does in a cluster, asks the policies that it serves,
and finds what would fail before it fails.

It has the rights of whoever runs it. What asks pods (curve, explain, chat, eval)
goes through the API server as kubectl port-forward does, for which the right to create
pods/portforward is needed, or to an address that --url names.`,
		Version:      contract.Version(),
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: "kubectl t2",
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err: err} })
	flags.register(root.PersistentFlags())
	session := &session{env: env, flags: &flags}
	for _, c := range []*cobra.Command{
		newStatusCommand(session), newWatchCommand(session), newCurveCommand(session), newExplainCommand(session),
		newChatCommand(session), newEvalCommand(session), newDiffCommand(session), newDoctorCommand(session),
	} {
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, given []string) error {
				if err := args(cmd, given); err != nil {
					return &usageError{err: fmt.Errorf("%s: %w", cmd.CommandPath(), err)}
				}
				return nil
			}
		}
		root.AddCommand(c)
	}
	return root
}

// session is one run of the plugin.
type session struct {
	env   *Env
	flags *Flags
}

// connect finds the cluster.
func (s *session) connect(ctx context.Context) (*Cluster, error) { return s.env.Connect(ctx, s.flags) }

// width of the terminal, 0 where there is none: then nothing is cut.
func (s *session) width() int {
	if s.env.Size == nil {
		return 0
	}
	width, _ := s.env.Size()
	return width
}

// narrow and lowest are the size of a terminal that does not say.
const narrow, lowest = 80, 24

func sizeOf(f *os.File) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 1 || height < 1 {
		return narrow, lowest
	}
	return width, height
}
