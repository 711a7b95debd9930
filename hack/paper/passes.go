package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// times are how long both passes took, for all questions of a row together.
type times struct {
	First  float64 `json:"first"` // Seconds.
	Second float64 `json:"second"`
	// Questions were asked one after another; Tokens are those of their answers.
	Questions int `json:"questions"`
	Tokens    int `json:"tokens"`
}

// Bounds of timing.
const (
	timedQuestions = 24
	timedRounds    = 5
)

// timing is the cell of a row: the first questions of a data set, by strategy Prompt, one
// at a time on all processors. tokens is how long each answer is; 0 lets it end by itself.
func (l *lab) timing(base string, set contract.ExpertSet, data contract.DatasetSpec, tokens int) cell[times] {
	b := l.bases[base]
	e := exam{Base: b.digest, Decomposition: b.decomposition, Set: set, Data: identity(data)}
	spec := struct {
		Exam                      exam
		Tokens, Questions, Rounds int
	}{e, tokens, timedQuestions, timedRounds}
	name := fmt.Sprintf("time-%s-%s-tokens%d", base, strings.ReplaceAll(data.Name, "/", "-"), tokens)
	return cell[times]{Name: name, Spec: spec, Alone: true, Fill: func(ctx context.Context) (times, error) {
		taken := e
		taken.Data = data
		return l.clock(ctx, taken, tokens)
	}}
}

// choosing is how long questions took with the expert that a strategy chooses, and with
// the same one, pinned: the sums over all questions of the medians of rounds.
type choosing struct {
	Chosen float64 `json:"chosen"` // Seconds, of both passes.
	Pinned float64 `json:"pinned"`
	// Questions were asked one after another; Prompt and Tokens are those of all prompts
	// and of all answers.
	Questions int `json:"questions"`
	Prompt    int `json:"prompt"`
	Tokens    int `json:"tokens"`
}

// pairedRounds are those of choosing: more than of times, since it is a small difference
// that is looked for.
const pairedRounds = 15

// choosingTime is the cell of a row: the first questions of a skill's data set, each asked
// for so many tokens with and without choosing, in turns. A probe chooses an expert for each,
// however unsure it is: the base would need no second reading of the prompt.
func (l *lab) choosingTime(base string, set contract.ExpertSet, k skill, split string, tokens int) cell[choosing] {
	b, data := l.bases[base], l.set(k, split)
	e := exam{Base: b.digest, Decomposition: b.decomposition, Set: set, Data: identity(data), Certain: set.Probe != nil}
	spec := struct {
		Exam                      exam
		Tokens, Questions, Rounds int
	}{e, tokens, timedQuestions, pairedRounds}
	name := fmt.Sprintf("choosing-%s-%s-%s-%s-tokens%d", base, set.Strategy, k.name, split, tokens)
	return cell[choosing]{Name: name, Spec: spec, Alone: true, Fill: func(ctx context.Context) (choosing, error) {
		taken := e
		taken.Data = data
		return l.compareTimes(ctx, taken, tokens)
	}}
}

// compareTimes times an exam's questions with what its strategy chooses, choosing it and not.
func (l *lab) compareTimes(ctx context.Context, e exam, tokens int) (c choosing, err error) {
	r, err := l.enter(ctx, e, 0, 1)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	c.Questions = min(timedQuestions, r.task.Len())
	for i := range c.Questions {
		chosen, err := r.strategy.Decide(ctx, r.request(i))
		if err != nil {
			return c, err
		}
		var took [2][]float64 // Chosen and pinned.
		for round := range pairedRounds + 1 {
			for turn := range took {
				way := (round + turn) % len(took) // Neither is always the first.
				r.salt = fmt.Sprint(round, " ", way)
				begun := time.Now()
				d := chosen
				if way == 0 {
					if d, err = r.strategy.Decide(ctx, r.request(i)); err != nil {
						return c, err
					}
				}
				a, err := r.write(ctx, i, d, tokens, true)
				if err != nil {
					return c, err
				}
				if spent := time.Since(begun).Seconds(); round > 0 { // The first warms up.
					took[way] = append(took[way], spent)
				} else if way == 0 {
					c.Tokens += len(a.Tokens)
				}
			}
		}
		c.Prompt += len(r.task.Prompts()[i])
		c.Chosen += median(took[0])
		c.Pinned += median(took[1])
	}
	return c, nil
}

// median is the middle one of an odd number of values, which it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// clock times the questions of an exam, in rounds, of which the median counts. A round
// before them warms up; in each, what a question has in common with those before it is
// found, such as the beginning of pass 1's.
func (l *lab) clock(ctx context.Context, e exam, tokens int) (t times, err error) {
	r, err := l.enter(ctx, e, 0, 1)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var rounds []times
	for round := range timedRounds + 1 {
		r.salt = strconv.Itoa(round) // The same questions again: none may be known.
		one, err := r.clock(ctx, tokens)
		if err != nil {
			return t, err
		}
		if round > 0 {
			rounds = append(rounds, one)
		}
	}
	slices.SortFunc(rounds, func(a, b times) int {
		if a.First+a.Second < b.First+b.Second {
			return -1
		}
		return 1
	})
	return rounds[len(rounds)/2], nil
}

func (r *room) clock(ctx context.Context, tokens int) (t times, err error) {
	t.Questions = min(timedQuestions, r.task.Len())
	for i := range t.Questions {
		begun := time.Now()
		d, err := r.strategy.Decide(ctx, r.request(i))
		if err != nil {
			return t, err
		}
		t.First += time.Since(begun).Seconds()
		begun = time.Now()
		most := tokens
		if most == 0 {
			most = answerTokens
		}
		a, err := r.write(ctx, i, d, most, tokens != 0)
		if err != nil {
			return t, err
		}
		t.Second += time.Since(begun).Seconds()
		t.Tokens += len(a.Tokens)
	}
	return t, nil
}
