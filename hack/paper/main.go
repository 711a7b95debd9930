// Paper measures the project as the paper measures its method, with base models small
// enough for two cores, and writes the tables: `make paper`. Each entry of a table is a
// cell, a file that is named by what made it; what was measured once is not measured again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/judge"
)

// options are the command line.
type options struct {
	home    string // hack/paper: the data sets, the models and the report.
	work    string
	only    string
	again   string
	seeds   int
	workers int
	budget  time.Duration
	draw    bool
	verbose bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == judgeWorker {
		fmt.Fprintln(os.Stderr, judge.Confine(os.Args[2:]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "paper:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, say io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("paper", flag.ContinueOnError)
	flags.SetOutput(say)
	flags.StringVar(&o.home, "home", "hack/paper", "`DIR` with data and models, where the report goes")
	flags.StringVar(&o.work, "work", "bin/paper", "`DIR` for what is measured and made")
	flags.StringVar(&o.only, "only", "", "measure these `TABLES` alone, separated by commas: "+strings.Join(sectionNames(), ", "))
	flags.StringVar(&o.again, "again", "", "measure the times in these `TABLES` anew, separated by commas, if a quieter machine is at hand")
	flags.IntVar(&o.seeds, "seeds", 1, "seeds of each training and search")
	flags.IntVar(&o.workers, "workers", 2, "cells that are measured at a time, each on one thread")
	minutes := flags.Float64("budget", 0, "stop after so many `MINUTES`; the next call goes on. 0 means no bound")
	flags.BoolVar(&o.draw, "draw", false, "measure nothing; write the report of what was measured")
	flags.BoolVar(&o.verbose, "verbose", false, "log what trainings and searches say")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.budget = time.Duration(*minutes * float64(time.Minute))
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.seeds < 1 || o.workers < 1 || *minutes < 0:
		return o, fmt.Errorf("--seeds %d, --workers %d and --budget %v: the first two must be at least 1, the last 0 or more", o.seeds, o.workers, *minutes)
	}
	for flag, names := range map[string][]string{"--only": o.tables(), "--again": listed(o.again)} {
		for _, name := range names {
			if !slices.Contains(sectionNames(), name) {
				return o, fmt.Errorf("%s: there is no table %q; choose from %s", flag, name, strings.Join(sectionNames(), ", "))
			}
		}
	}
	return o, nil
}

// tables are those that are measured.
func (o options) tables() []string {
	if o.only == "" {
		return sectionNames()
	}
	return listed(o.only)
}

// listed are the names of a list, which may be empty.
func listed(names string) []string {
	return strings.FieldsFunc(names, func(r rune) bool { return r == ',' })
}

func sectionNames() []string {
	var all []string
	for _, s := range sections {
		all = append(all, s.name)
	}
	return all
}

// errBudget ends a measurement that has had its time.
var errBudget = errors.New("the budget is spent")

func run(ctx context.Context, args []string, say io.Writer) error {
	o, err := parse(args, say)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(say, nil))
	}
	l, err := openLab(ctx, o.work, filepath.Join(o.home, "data"), filepath.Join(o.home, "models"), log)
	if err != nil {
		return err
	}
	m := &measurement{lab: l}
	for i := range o.seeds {
		m.seeds = append(m.seeds, uint64(i)+1)
	}
	measured := error(nil)
	if !o.draw {
		within := ctx
		if o.budget > 0 {
			var cancel context.CancelFunc
			within, cancel = context.WithTimeoutCause(ctx, o.budget, errBudget)
			defer cancel()
		}
		measured = m.complete(within, o, say)
		if within.Err() != nil {
			fmt.Fprintf(say, "Stopped (%v); the next call goes on\n", context.Cause(within))
			measured = nil
		}
	}
	return errors.Join(measured, m.report(o.home))
}

// complete measures the tables that are asked for, in their order.
func (m *measurement) complete(ctx context.Context, o options, say io.Writer) error {
	for _, s := range sections {
		if !slices.Contains(o.tables(), s.name) {
			continue
		}
		fmt.Fprintf(say, "Table %s\n", s.name)
		if slices.Contains(listed(o.again), s.name) {
			p := newPlan(m.lab.store)
			s.draw(m, p)
			m.lab.store.outdate(p.timed...)
			defer m.lab.store.renew(p.timed...) // What was not reached is as it was.
		}
		if err := complete(ctx, m.lab.store, o.workers, say, func(p *plan) { s.draw(m, p) }); err != nil {
			return err
		}
	}
	return nil
}

// report writes RESULTS.md and its pictures of what was measured.
func (m *measurement) report(home string) error {
	var tables []table
	seen := newPlan(m.lab.store) // Of all sections.
	for _, s := range sections {
		drawn, p := m.most(s)
		if p.err != nil {
			return p.err
		}
		tables = append(tables, drawn...)
		seen.add(p)
	}
	err := artifact.WriteFileAtomic(filepath.Join(home, "RESULTS.md"), func(w io.Writer) error {
		if _, err := io.WriteString(w, m.preamble(seen)); err != nil {
			return err
		}
		for _, t := range tables {
			if err := t.write(w); err != nil {
				return err
			}
		}
		return nil
	})
	for _, t := range tables {
		for _, picture := range t.pictures {
			err = errors.Join(err, artifact.WriteFileAtomic(filepath.Join(home, picture.file), picture.chart.write))
		}
	}
	return err
}

// most draws a section with as many of the seeds as it was measured with.
func (m *measurement) most(s section) ([]table, *plan) {
	for n := len(m.seeds); ; n-- {
		p := newPlan(m.lab.store)
		tables := s.draw(&measurement{lab: m.lab, seeds: m.seeds[:n]}, p)
		if n > 1 && p.err == nil && len(p.order) > 0 {
			continue
		}
		for i := range tables {
			if !tables[i].unseeded {
				tables[i].before += " " + errorsOf(n)
			}
		}
		return tables, p
	}
}

// errorsOf says what the errors of so many seeds are.
func errorsOf(seeds int) string {
	if seeds == 1 {
		return "One seed: the errors are binomial, what other questions would change; what another seed would change they do not say."
	}
	return fmt.Sprintf("Means of %d seeds, and their standard errors; those of a base alone are binomial.", seeds)
}

// preamble is the beginning of the report.
func (m *measurement) preamble(p *plan) string {
	command := "make paper"
	if len(m.seeds) > 1 {
		command = fmt.Sprintf("make paper SEEDS=%d", len(m.seeds))
	}
	text := fmt.Sprintf("# Measured like the paper\n\nWritten by `%s` (hack/paper); do not edit.\n\n"+
		"Test sets have %d questions, transfer sets %d, answered greedily. What follows ± is a standard error. A dash is what was not measured.\n\n",
		command, m.lab.counts[splitTest], m.lab.counts[splitTransfer])
	if n := len(p.seconds); n > 0 {
		spent := 0.0
		for _, seconds := range p.seconds {
			spent += seconds
		}
		text += fmt.Sprintf("%d measurements, each on one thread, which took %.0f minutes together, so %.0f with two at a time.\n\n", n, spent/60, spent/120)
	}
	if len(p.order) > 0 {
		text += "Not everything was measured: `" + command + "` goes on where it stopped.\n\n"
	}
	return text
}
