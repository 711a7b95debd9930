package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
)

const (
	// timed is how many questions of each skill a policy is asked to be timed, at most, and
	// as many others with the expert pinned.
	timed = 12
	// aloud is how many of a skill were asked before, so that they have been read.
	aloud = 2
)

// times are what a policy's answers took, in seconds.
type times struct{ choosing, all, pinned []float64 }

// printTimes prints how long policies take to choose, and to answer, beside the same with the
// right expert pinned: medians of questions that are asked one after the other and were not
// asked before, so that nothing of them has been read.
func printTimes(ctx context.Context, policies []asker, skills skillSet, out *screen) error {
	out.printf("\n  %-12s%14s%14s%14s%10s\n", "", "choosing", "with answer", "pinned", "ratio")
	for _, a := range policies {
		var t times
		var asked atomic.Int64
		far := func() string { return fmt.Sprintf("%d questions asked", asked.Load()) }
		var strategy string
		err := out.during(ctx, "Asking "+a.policy, "5 to 10 s", far, func(ctx context.Context) (err error) {
			strategy, err = t.measure(ctx, a, skills, &asked)
			return err
		})
		if err != nil {
			return err
		}
		if len(t.all) == 0 {
			return fmt.Errorf("no question is left to be timed: raise --limit, which is %d or less", aloud+1)
		}
		all, pinned := median(t.all), median(t.pinned)
		out.printf("  %-12s%14s%14s%14s%10.2f\n", strategy, milliseconds(median(t.choosing)), milliseconds(all), milliseconds(pinned), all/pinned)
	}
	out.printf("\n  Probe chooses by what the base reads of the request, which it need not read again\n  for an expert that acts on answers.\n")
	return nil
}

// measure asks a policy, and then with what it chose pinned, in turns, and returns the
// strategy that it has.
func (t *times) measure(ctx context.Context, a asker, skills skillSet, asked *atomic.Int64) (strategy string, err error) {
	for _, s := range skills {
		questions := s.test[min(aloud, len(s.test)):]
		for i := 0; i+1 < min(2*timed, len(questions)); i += 2 {
			chosen, _, err := s.ask(ctx, a, a.policy, questions[i])
			if err != nil {
				return "", err
			}
			pinned, _, err := s.ask(ctx, a, a.policy+":"+chosen.Adaptation.Expert, questions[i+1])
			if err != nil {
				return "", err
			}
			asked.Add(2)
			strategy = chosen.Adaptation.Strategy
			t.choosing = append(t.choosing, chosen.Adaptation.Pass1Seconds)
			t.all = append(t.all, chosen.Adaptation.Pass1Seconds+chosen.Adaptation.Pass2Seconds)
			t.pinned = append(t.pinned, pinned.Adaptation.Pass2Seconds)
		}
	}
	return strategy, nil
}

func milliseconds(seconds float64) string { return fmt.Sprintf("%.1f ms", 1000*seconds) }

// median of values, of which there is one at least.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
