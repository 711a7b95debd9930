package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/bringup"
)

func statusCommand() command {
	return command{
		name:    "status",
		summary: "Show how a cluster is; exit status 1 if it is not well.",
		example: "t2cluster status --name t2",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			return w.status
		},
	}
}

func (w *which) status(ctx context.Context, e env, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	c, err := w.existing(e)
	if err != nil {
		return err
	}
	s, err := bringup.Check(ctx, c)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PART\tSTATE\tPID")
	for _, part := range s.Components {
		fmt.Fprintf(table, "%s\t%s\t%s\n", part.Name, wellOr(part.Problem, "running"), pid(part.PID))
	}
	fmt.Fprintf(table, "API %s\t%s\t\n", c.APIServer(), wellOr(s.API, "ready"))
	for _, n := range s.Nodes {
		fmt.Fprintf(table, "%s\t%s\t\n", n.Name, wellOr(n.Problem, "ready"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	if !s.Healthy() {
		return fmt.Errorf("cluster %s is not well; its logs are in %s", c.Name, c.LogsDir())
	}
	return nil
}

func wellOr(problem, well string) string {
	if problem == "" {
		return well
	}
	return problem
}

func pid(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func kubeconfigCommand() command {
	return command{
		name:    "kubeconfig",
		summary: "Print the path of the administrator's kubeconfig, or its content.",
		example: "export KUBECONFIG=$(t2cluster kubeconfig --name t2)",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			content := flags.Bool("content", false, "print the content instead of the path")
			return func(_ context.Context, e env, args []string) error {
				if len(args) > 0 {
					return usagef("unexpected argument %q", args[0])
				}
				c, err := w.existing(e)
				if err != nil {
					return err
				}
				text, err := os.ReadFile(c.Kubeconfig())
				if err != nil {
					return fmt.Errorf("reading the kubeconfig: %w", err)
				}
				if !*content {
					text = []byte(c.Kubeconfig() + "\n")
				}
				_, err = e.stdout.Write(text)
				return err
			}
		},
	}
}

func logsCommand() command {
	return command{
		name:    "logs",
		args:    " [COMPONENT]",
		summary: "Print the log of a component, or list the logs.",
		detail:  "All logs are in one folder, one file a component; those of a node's components end in its number.",
		example: "t2cluster logs --tail 50 kubelet-1",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			lines := flags.Int("tail", 0, "only the last `lines`; 0 means all")
			return func(_ context.Context, e env, args []string) error {
				if len(args) > 1 {
					return usagef("want one component, got %d", len(args))
				}
				if *lines < 0 {
					return usagef("--tail %d: want a number of lines", *lines)
				}
				c, err := w.existing(e)
				if err != nil {
					return err
				}
				names, err := logNames(c.LogsDir())
				if err != nil {
					return err
				}
				if len(args) == 0 {
					for _, name := range names {
						fmt.Fprintf(e.stdout, "%-24s %s\n", name, filepath.Join(c.LogsDir(), name+logSuffix))
					}
					return nil
				}
				if !slices.Contains(names, args[0]) {
					return usagef("no log of %q; there are: %s", args[0], strings.Join(names, ", "))
				}
				text, err := os.ReadFile(filepath.Join(c.LogsDir(), args[0]+logSuffix))
				if err != nil {
					return fmt.Errorf("reading a log: %w", err)
				}
				_, err = e.stdout.Write([]byte(lastLines(string(text), *lines)))
				return err
			}
		},
	}
}

const logSuffix = ".log"

func logNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the logs: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if name, isLog := strings.CutSuffix(entry.Name(), logSuffix); isLog {
			names = append(names, name)
		}
	}
	return names, nil
}

// lastLines returns the last n lines of text, or all of it for n = 0.
func lastLines(text string, n int) string {
	if n == 0 {
		return text
	}
	lines := slices.Collect(strings.Lines(text))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
