package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/judge"
)

// Hidden subcommands of the judge: the process that becomes CPython, and the
// server beside a trainer.
const (
	judgeWorker = "judge-worker"
	judgeServer = "judge-server"
)

// judgeWait is how long a judge beside the trainer may take to start.
const judgeWait = 2 * time.Minute

// registerPython adds the flag that names an interpreter.
func registerPython(flags *pflag.FlagSet, python *string) {
	flags.StringVar(python, "python", "", "python3 for the reward UnitTests; without it, "+judge.EnvPython+" or the one on the path")
}

// programs returns what runs programs for the reward UnitTests: the judge that
// the environment names, or confined processes of this program's own. Nothing
// starts before it is needed.
func (e *Env) programs(python string) (judge.Runner, error) {
	if socket := e.Getenv(contract.EnvJudge); socket != "" {
		return judge.NewClient(socket, judgeWait), nil
	}
	return e.pool(python)
}

func (e *Env) pool(python string) (*judge.Pool, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to start it for unit tests: %w", err)
	}
	if python == "" {
		python = e.Getenv(judge.EnvPython)
	}
	return judge.New(judge.Options{Command: []string{exe, judgeWorker}, Python: python})
}

func newJudgeWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    judgeWorker + " ORDER",
		Short:  "Confine this process and become CPython, for the reward UnitTests",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return judge.Confine(args) },
	}
}

func newJudgeServerCommand(env *Env) *cobra.Command {
	var socket, python string
	cmd := &cobra.Command{
		Use:    judgeServer,
		Short:  "Run programs for a trainer in the same pod",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			pool, err := env.pool(python)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, pool.Close()) }()
			// A judge that was killed has left its socket; anything else is not ours to
			// remove.
			if info, err := os.Lstat(socket); err == nil && info.Mode().Type() == fs.ModeSocket {
				if err := os.Remove(socket); err != nil {
					return fmt.Errorf("removing an old socket: %w", err)
				}
			}
			l, err := net.Listen("unix", socket) //nolint:noctx // Serve ends it.
			if err != nil {
				return fmt.Errorf("listening for programs: %w", err)
			}
			said := "No program can be run: "
			confinement, refused := pool.Confinement(cmd.Context())
			if refused == nil {
				said = fmt.Sprintf("Ready with Python %s; %v", confinement.Version, confinement)
			} else {
				said += refused.Error() // Clients are told, too.
			}
			if _, err := fmt.Fprintln(env.Stderr, said); err != nil {
				return errors.Join(err, l.Close())
			}
			return judge.Serve(cmd.Context(), l, pool)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", contract.JudgeSocket, "unix socket to listen on")
	registerPython(cmd.Flags(), &python)
	return cmd
}
