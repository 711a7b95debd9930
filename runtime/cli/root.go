// Package cli is the command line of t2: one file a subcommand. A subcommand
// reads its flags or its JSON specification, calls the package that does the
// work, and prints the result; it holds no logic of its own.
//
// Exit statuses are 0 (done), 1 (failed) and 2 (wrong usage). Where the
// operator started the process (contract.EnvSpec), 42 and 43 tell permanent
// failures and interruptions apart; see contract.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/jobs"
)

// Env is what a subcommand may touch of the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// JSON is the persistent flag --json: print one JSON result on Stdout.
	JSON bool
}

// UsageError marks an error as wrong usage: exit status 2.
type UsageError struct{ Err error }

// Error returns the wrapped error's text.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *UsageError) Unwrap() error { return e.Err }

// usagef returns a *UsageError.
func usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// PrintJSON writes the one result of a subcommand that was asked for --json.
func (e *Env) PrintJSON(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}

// JobOptions returns the frame in which a batch subcommand runs; specFile is
// its flag --spec.
func (e *Env) JobOptions(name, specFile string) jobs.Options {
	return jobs.Options{
		Name: name, Managed: jobs.Managed(specFile, e.Getenv), JSON: e.JSON,
		Stdout: e.Stdout, Stderr: e.Stderr, Getenv: e.Getenv,
	}
}

// Main runs t2 with the arguments after the program's name and returns the
// exit status. It prints an error once, on stderr.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return Execute(ctx, &Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: os.Getenv}, args)
}

// Execute is Main with an environment of the caller's.
func Execute(ctx context.Context, env *Env, args []string) int {
	root, started := newRoot(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return contract.ExitOK
	}
	// Before a subcommand has started, whatever went wrong is the command line's
	// fault: cobra's errors have no type of their own.
	_, isUsage := errors.AsType[*UsageError](err)
	isUsage = isUsage || !*started
	_, _ = fmt.Fprintf(env.Stderr, "t2: %v\n", err)
	if isUsage {
		_, _ = fmt.Fprintln(env.Stderr, "Run 't2 --help' or 't2 COMMAND --help' for how to use it.")
		return contract.ExitUsage
	}
	if exit, ok := errors.AsType[*jobs.ExitError](err); ok {
		return exit.Code
	}
	return contract.ExitFailed
}

// newRoot builds the command tree. *started becomes true once a subcommand's
// own code runs.
func newRoot(env *Env) (root *cobra.Command, started *bool) {
	root = &cobra.Command{
		Use:   "t2",
		Short: "Self-adaptive language models: decompose, train experts, serve",
		Long: `t2 is the runtime of the Transformer² operator.

A base model's matrices are decomposed once; an expert vector scales their
singular values and is trained on one skill; serving picks or mixes experts
for each prompt.`,
		Example: `  t2 generate --model ./model --prompt "Once upon a time" --max-tokens 32
  t2 inspect ./expert.safetensors`,
		Version:       contract.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().BoolVar(&env.JSON, "json", false, "print one machine-readable result on standard output")
	root.AddCommand(commands(env)...)

	started = new(bool)
	for _, c := range root.Commands() {
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				*started = true
				return run(cmd, args)
			}
		}
	}
	return root, started
}

// refuseBeside refuses flags that are given beside a specification and that it would leave
// without effect.
func refuseBeside(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return usagef("--%s has no effect beside a specification (--spec or %s), which says that itself: leave one of them out", name, contract.EnvSpec)
		}
	}
	return nil
}
