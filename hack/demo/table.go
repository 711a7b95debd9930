package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/train/dataset"
)

// askAloud asks two held-out questions of each skill and prints what happened.
func askAloud(ctx context.Context, a asker, skills skillSet, out *screen) error {
	for _, s := range skills {
		for _, r := range s.test[:min(2, len(s.test))] {
			reply, right, err := s.ask(ctx, a, a.policy, r)
			if err != nil {
				return err
			}
			verdict := "wrong"
			if right {
				verdict = "right"
			}
			t := reply.Adaptation
			out.printf("\n  Q  %s\n", indent(question(r)))
			out.printf("     pass 1: %s  (%s)  %.1f ms\n", t.Expert, probabilities(t.Probabilities), 1000*t.Pass1Seconds)
			out.printf("     pass 2: %s  [%s]  %.1f ms\n", indent(reply.Text), verdict, 1000*t.Pass2Seconds)
		}
	}
	return nil
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n             ") }

// probabilities prints pass 1's, the largest first.
func probabilities(p map[string]float64) string {
	names := slices.SortedFunc(maps.Keys(p), func(a, b string) int {
		if p[a] != p[b] {
			if p[a] > p[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, p[name]))
	}
	return strings.Join(parts, ", ")
}

// printTable scores the base, each expert and the adaptive policy on every
// skill's held-out sets, and the policy that chooses by a probe.
func printTable(ctx context.Context, a, probe asker, skills skillSet, out *screen) error {
	type row struct {
		label string
		asker asker
		model string
	}
	rows := []row{{"base", a, a.policy + ":base"}}
	for _, s := range skills {
		rows = append(rows, row{s.name + " expert", a, a.policy + ":" + s.name})
	}
	rows = append(rows, row{"adaptive, Prompt", a, a.policy}, row{"adaptive, Probe", probe, probe.policy})

	out.printf("\n%s", tableHead(skills))
	for _, r := range rows {
		var right []marks
		var asked atomic.Int64
		far := func() string { return fmt.Sprintf("%d of %d questions asked", asked.Load(), skills.questions()) }
		err := out.during(ctx, "Asking "+r.model, "5 to 30 s", far, func(ctx context.Context) (err error) {
			right, err = score(ctx, r.asker, r.model, skills, &asked)
			return err
		})
		if err != nil {
			return err
		}
		out.printf("%s", tableRow(r.label, skills, right))
	}
	return nil
}

const (
	labelCells  = 18
	mixture     = "mixture"
	harderTitle = "harder, never trained on"
	testTitle   = "held-out sets"
)

// cells is the width of a skill's column; the table of three skills fits a
// terminal of 80 cells.
func cells(name string) int { return max(7, len(name)+2) }

// tableHead is two lines: what kind of set, and of which skill.
func tableHead(skills skillSet) string {
	test, harder := cells(mixture), 1
	var names strings.Builder
	fmt.Fprintf(&names, "%*s", labelCells, "")
	for _, s := range skills {
		fmt.Fprintf(&names, "%*s", cells(s.name), s.name)
		test, harder = test+cells(s.name), harder+cells(s.name)
	}
	fmt.Fprintf(&names, "%*s ", cells(mixture), mixture)
	for _, s := range skills {
		fmt.Fprintf(&names, "%*s", cells(s.name), s.name)
	}
	return fmt.Sprintf("%*s%*s%*s\n%s\n", labelCells, "", test, testTitle, harder, harderTitle, names.String())
}

func tableRow(label string, skills skillSet, right []marks) string {
	var text strings.Builder
	fmt.Fprintf(&text, "  %-*s", labelCells-2, label)
	var all, asked int
	for i, s := range skills {
		n := int(right[i].test.Load())
		all, asked = all+n, asked+len(s.test)
		fmt.Fprintf(&text, "%*.1f%%", cells(s.name)-1, percent(n, len(s.test)))
	}
	fmt.Fprintf(&text, "%*.1f%% ", cells(mixture)-1, percent(all, asked))
	for i, s := range skills {
		fmt.Fprintf(&text, "%*.1f%%", cells(s.name)-1, percent(int(right[i].transfer.Load()), len(s.transfer)))
	}
	return text.String() + "\n"
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }

// askedAtOnce is how many questions wait for an answer: a batch of the sample
// policy. They are of all sets, so that the batch stays full to the last one.
const askedAtOnce = 32

// marks counts the right answers to a skill's held-out sets.
type marks struct{ test, transfer atomic.Int64 }

// score counts a model's right answers, by skill, and the questions asked.
func score(ctx context.Context, a asker, model string, skills skillSet, asked *atomic.Int64) ([]marks, error) {
	right := make([]marks, len(skills))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askedAtOnce)
	ask := func(s skill, records []dataset.Record, right *atomic.Int64) {
		for _, r := range records {
			group.Go(func() error {
				_, ok, err := s.ask(ctx, a, model, r)
				asked.Add(1)
				if ok {
					right.Add(1)
				}
				return err
			})
		}
	}
	for i, s := range skills {
		ask(s, s.test, &right[i].test)
		ask(s, s.transfer, &right[i].transfer)
	}
	return right, group.Wait()
}
