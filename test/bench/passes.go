package main

import (
	stdcontext "context"
	"fmt"
	"os"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
)

// What pass 1 reads: an instruction that lists four skills, which all requests
// share, what it looks at of a question, and labels of two tokens.
const (
	instructionTokens = 160
	skills            = 4
	longAnswer        = 200
)

// questions are lengths in tokens: a line, and a page that comes with context.
var questions = []int{64, 1024}

// share is how long pass 1 takes of the time that pass 2 does, one a round.
type share struct {
	Shape, DType string
	Question     int
	Answer       string
	Shares       []float64
}

// passes measures both passes of single requests through the engine. Pass 2 runs
// on the base's weights, which is what a merged expert costs.
func passes(ctx stdcontext.Context, o options, s shape, r *report) error {
	return eachDType(ctx, o, s, r, func(subject *subject, dtype string) error {
		return passesOf(ctx, o, s, subject, dtype, r)
	})
}

func passesOf(ctx stdcontext.Context, o options, s shape, subject *subject, dtype string, r *report) error {
	e, err := engine.New(ctx, engine.Options{
		Base: subject.model, ContextLength: context, MaxBatch: skills,
	})
	if err != nil {
		return err
	}
	defer e.Close()
	for _, question := range questions {
		if err := passesFor(ctx, o, s, e, question, dtype, r); err != nil {
			return err
		}
	}
	return nil
}

func passesFor(ctx stdcontext.Context, o options, s shape, e *engine.Engine, questionTokens int, dtype string, r *report) error {
	long := &share{Shape: s.Name, DType: dtype, Question: questionTokens, Answer: fmt.Sprintf("%d tokens", longAnswer)}
	short := &share{Shape: s.Name, DType: dtype, Question: questionTokens, Answer: "one token"}
	r.Passes = append(r.Passes, long, short)
	for round := range o.rounds + 1 { // The first warms up, and brings the instruction into the cache.
		fmt.Fprintf(os.Stderr, "%s %s passes: round %d of %d\n", s.Name, dtype, round, o.rounds)
		question := tokens(questionTokens, 1000*round, s.Vocab)
		seen := question[:min(questionTokens, contract.DefaultRequestTokens)]
		first, err := timed(func() error {
			request := engine.ScoreRequest{Prompt: append(tokens(instructionTokens, 7, s.Vocab), seen...)}
			for i := range skills {
				request.Labels = append(request.Labels, tokens(2, 100*i, s.Vocab))
			}
			_, err := e.Score(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
		for answer, into := range map[int]*share{longAnswer: long, 1: short} {
			second, err := timed(func() error {
				_, err := e.Generate(ctx, engine.Request{Prompt: question, MaxTokens: answer, Logprobs: -1}, func(engine.Delta) error { return nil })
				return err
			})
			if err != nil {
				return err
			}
			if round > 0 {
				into.Shares = append(into.Shares, first/second)
			}
		}
	}
	return nil
}

// tokens makes a text up.
func tokens(n, from, vocabulary int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((from + 31*i) % vocabulary)
	}
	return out
}

// timed returns the seconds that f takes.
func timed(f func() error) (float64, error) {
	begun := time.Now()
	err := f()
	return time.Since(begun).Seconds(), err
}
