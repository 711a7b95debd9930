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
	"github.com/transformersquared/operator/runtime/train/reward"
)

// askAloud asks two held-out questions of each skill and prints what happened.
func askAloud(ctx context.Context, a asker, skills skillSet) error {
	for _, s := range skills {
		for _, r := range s.test[:min(2, len(s.test))] {
			reply, err := a.ask(ctx, a.policy, question(r), maxAnswerTokens)
			if err != nil {
				return err
			}
			right, err := s.judge.Correct(ctx, reply.Text, r.Reference)
			if err != nil {
				return fmt.Errorf("judging an answer: %w", err)
			}
			verdict := "wrong"
			if right {
				verdict = "right"
			}
			t := reply.Adaptation
			fmt.Printf("\n  Q  %s\n", indent(question(r)))
			fmt.Printf("     pass 1: %s  (%s)  %.1f ms\n", t.Expert, probabilities(t.Probabilities), 1000*t.Pass1Seconds)
			fmt.Printf("     pass 2: %s  [%s]  %.1f ms\n", indent(reply.Text), verdict, 1000*t.Pass2Seconds)
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
// skill's held-out sets.
func printTable(ctx context.Context, a asker, skills skillSet) error {
	type row struct{ label, model string }
	rows := []row{{"base", a.policy + ":base"}}
	for _, s := range skills {
		rows = append(rows, row{s.name + " expert", a.policy + ":" + s.name})
	}
	rows = append(rows, row{"adaptive", a.policy})

	fmt.Printf("\n  %-18s", "")
	for _, s := range skills {
		fmt.Printf("%12s", s.name)
	}
	fmt.Printf("%12s", "mixture")
	for _, s := range skills {
		fmt.Printf("%18s", s.name+"→harder")
	}
	fmt.Println()
	sets := heldOut(skills)
	for _, r := range rows {
		right, err := score(ctx, a, r.model, sets)
		if err != nil {
			return err
		}
		fmt.Printf("  %-18s", r.label)
		var all, asked int
		for i, s := range sets[:len(skills)] {
			all, asked = all+right[i], asked+len(s.records)
			fmt.Printf("%11.1f%%", percent(right[i], len(s.records)))
		}
		fmt.Printf("%11.1f%%", percent(all, asked))
		for i, s := range sets[len(skills):] {
			fmt.Printf("%17.1f%%", percent(right[len(skills)+i], len(s.records)))
		}
		fmt.Println()
	}
	return nil
}

// recordSet is questions and the judge of their answers.
type recordSet struct {
	records []dataset.Record
	judge   reward.Judge
}

// heldOut returns the test sets of all skills, then their transfer sets.
func heldOut(skills skillSet) []recordSet {
	var test, transfer []recordSet
	for _, s := range skills {
		test = append(test, recordSet{s.test, s.judge})
		transfer = append(transfer, recordSet{s.transfer, s.judge})
	}
	return append(test, transfer...)
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }

// askedAtOnce is how many questions wait for an answer: a batch of the sample
// policy. They are of all sets, so that the batch stays full to the last one.
const askedAtOnce = 32

// score counts a model's right answers to each set.
func score(ctx context.Context, a asker, model string, sets []recordSet) ([]int, error) {
	right := make([]atomic.Int64, len(sets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askedAtOnce)
	for i, s := range sets {
		for _, r := range s.records {
			group.Go(func() error {
				reply, err := a.ask(ctx, model, question(r), maxAnswerTokens)
				if err != nil {
					return err
				}
				ok, err := s.judge.Correct(ctx, reply.Text, r.Reference)
				if err != nil {
					return fmt.Errorf("judging an answer: %w", err)
				}
				if ok {
					right[i].Add(1)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	counts := make([]int, len(sets))
	for i := range right {
		counts[i] = int(right[i].Load())
	}
	return counts, nil
}
