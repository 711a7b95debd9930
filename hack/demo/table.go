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
	for _, r := range rows {
		fmt.Printf("  %-18s", r.label)
		var right, asked int
		for _, s := range skills {
			n, err := score(ctx, a, s, r.model, s.test)
			if err != nil {
				return err
			}
			right, asked = right+n, asked+len(s.test)
			fmt.Printf("%11.1f%%", percent(n, len(s.test)))
		}
		fmt.Printf("%11.1f%%", percent(right, asked))
		for _, s := range skills {
			n, err := score(ctx, a, s, r.model, s.transfer)
			if err != nil {
				return err
			}
			fmt.Printf("%17.1f%%", percent(n, len(s.transfer)))
		}
		fmt.Println()
	}
	return nil
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }

// score counts right answers; questions are asked a few at a time, so that the
// server can batch them.
func score(ctx context.Context, a asker, s skill, model string, records []dataset.Record) (int, error) {
	var right atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, r := range records {
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
				right.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return int(right.Load()), err
}
