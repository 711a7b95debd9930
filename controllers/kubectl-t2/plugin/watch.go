package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
)

type watchFlags struct {
	all, forever bool
	interval     time.Duration
}

func newWatchCommand(s *session) *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch [KIND/NAME]",
		Short: "Watch downloads, decompositions, trainings and searches until all is done",
		Long: `Draws how far each object is until all are Ready or stalled; status 1 says that one is
stalled. Where the output is no terminal, a line is printed for each change.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces")
	flags.BoolVar(&f.forever, "forever", false, "go on when all is done")
	flags.DurationVar(&f.interval, "interval", pause, "pause between two looks")
	return cmd
}

func (f *watchFlags) run(ctx context.Context, s *session, args []string) error {
	if f.interval < 100*time.Millisecond {
		return usagef("--interval %s is below 100ms", f.interval)
	}
	only, err := parseTarget(args)
	if err != nil {
		return err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.Namespace
	if f.all {
		namespace = ""
	}
	screen := &screen{env: s.env}
	began := s.env.Now()
	for {
		w, err := look(ctx, c, namespace)
		if err != nil {
			return err
		}
		list := w.watched(only)
		if len(list) == 0 && !f.forever {
			return fmt.Errorf("there is nothing to watch in %s", where(namespace))
		}
		ready, held := 0, 0
		for _, o := range list {
			if o.Ready {
				ready++
			} else if o.Stalled {
				held++
			}
		}
		since := s.env.Now().Sub(began)
		status := fmt.Sprintf("%d of %d Ready after %s", ready, len(list), since.Round(time.Second))
		if held > 0 {
			status += fmt.Sprintf(", %d stalled", held)
		}
		screen.draw(watchedLines(list, f.all, s.width()), status)
		if ready+held == len(list) && !f.forever {
			if held > 0 {
				return errUnwell
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(f.interval):
		}
	}
}

// watched is an object and how far it is.
type watched struct {
	health
	namespace, label, bar, detail string
}

// watched are all objects, or the one that is asked for with what it belongs to and what
// uses it.
func (w *world) watched(only *target) []watched {
	var list []watched
	bars := map[[3]string]string{}
	for _, b := range w.bases {
		bars[[3]string{kindBase, b.Namespace, b.Name}] = stepBar(b.Status.Progress)
	}
	for _, e := range w.experts {
		bars[[3]string{kindExpert, e.Namespace, e.Name}] = trainingBar(e.Status.Progress)
	}
	for _, p := range w.policies {
		key := [3]string{kindPolicy, p.Namespace, p.Name}
		if f := p.Status.FewShot; f != nil && f.Progress != nil {
			bars[key] = searchBar(f.Progress)
		} else if r := p.Status.Probe; r != nil && r.Progress != nil {
			bars[key] = summaryBar(r.Progress.Summary, r.Progress.EstimatedRemainingSeconds)
		} else if r := p.Status.Rollout; r != nil && r.Progress != nil {
			bars[key] = summaryBar(r.Progress.Summary, r.Progress.EstimatedRemainingSeconds)
		}
	}
	var walk func(nodes []node)
	walk = func(nodes []node) {
		for _, n := range nodes {
			if isObject(n.Kind) && n.Reason != reasonNotFound {
				o := watched{health: n.health, namespace: n.Namespace, label: n.label(), bar: bars[[3]string{n.Kind, n.Namespace, n.Name}]}
				if n.Ready {
					o.bar, o.detail = "", strings.Join(n.Detail, "  ")
				}
				list = append(list, o)
			}
			walk(n.Children)
		}
	}
	walk(w.tree(only))
	return list
}

// watchedLines are a line for each object: how far it is behind what it is called, which
// takes a third of a terminal at most.
func watchedLines(list []watched, all bool, width int) []string {
	names := make([]string, len(list))
	wide := 0
	for i, o := range list {
		names[i] = o.label
		if all {
			names[i] = o.namespace + "/" + o.label
		}
		wide = max(wide, ansi.StringWidth(names[i]))
	}
	if width > 0 {
		wide = min(wide, width/3)
	}
	lines := make([]string, len(list))
	for i, o := range list {
		mark, text := "…", o.bar
		switch {
		case o.Ready:
			mark, text = "✓", o.detail
		case o.Stalled:
			mark, text = "✗", o.Message
		case text == "":
			text = o.Message
		}
		reason := fmt.Sprintf(" %-11s", o.Reason)
		if width > 0 && width < narrow && o.bar != "" {
			reason = "" // The bar says it.
		}
		lines[i] = strings.TrimRight(fmt.Sprintf("%s %s%s %s", mark, fit(names[i], wide), reason, oneLine(text)), " ")
	}
	return lines
}

// screen draws a block of lines over and over in place; where there is no terminal, it
// prints the lines that have changed.
type screen struct {
	env  *Env
	rows int
	// width at which the block was drawn: a narrower terminal may have broken its lines.
	width  int
	before []string
}

func (s *screen) draw(lines []string, status string) {
	if s.env.Size == nil {
		for _, l := range lines {
			if !slices.Contains(s.before, l) {
				fmt.Fprintln(s.env.Stdout, l)
			}
		}
		s.before = lines
		return
	}
	width, height := s.env.Size()
	if most := max(1, height-2); len(lines) > most {
		status += fmt.Sprintf(" (%d lines more)", len(lines)-most)
		lines = lines[:most]
	}
	var frame strings.Builder
	if s.rows > 0 && width >= s.width {
		fmt.Fprintf(&frame, "\x1b[%dA", s.rows)
	}
	for _, l := range append(slices.Clip(lines), status) {
		frame.WriteString("\r" + cut(l, width) + "\x1b[K\n")
	}
	fmt.Fprint(s.env.Stdout, frame.String()+"\x1b[J")
	s.rows, s.width = len(lines)+1, width
}
