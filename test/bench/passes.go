package main

import (
	stdcontext "context"
	"fmt"
	"os"
	"slices"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
)

// What pass 1 reads: an instruction that lists four skills, which all requests
// share, what it looks at of a question, and labels of two tokens.
const (
	instructionTokens = 160
	skills            = 4
	longAnswer        = 200
	// shortPairs is how often a round compares pass 1 with an answer of one token.
	shortPairs = 5
)

// questions are lengths in tokens: a line, and a page that comes with context.
var questions = []int{64, 1024}

// A conversation: so many tokens of the turns before, of which the last are an answer, and of
// the user's next one. Both have to fit into context.
const (
	historyTokens  = 2000
	answeredTokens = 8
	turnTokens     = 40
)

// share is how long pass 1 takes of the time that pass 2 does, or the second turn of a
// conversation of what its own tokens take alone, one a round: by the clock and of
// processors.
type share struct {
	Shape, DType string
	// What is measured, and beside what.
	What, Beside      string
	Shares, Processor []float64
}

// add adds a round.
func (s *share) add(what, beside spent) {
	s.Shares, s.Processor = append(s.Shares, what.clock/beside.clock), append(s.Processor, what.processor/beside.processor)
}

// passes measures both passes of single requests through the engine, and what the prefix
// cache saves of a conversation's second turn. Pass 2 runs on the base's weights, which is
// what a merged expert costs.
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
	return secondTurn(ctx, o, s, e, dtype, r)
}

func passesFor(ctx stdcontext.Context, o options, s shape, e *engine.Engine, questionTokens int, dtype string, r *report) error {
	what := fmt.Sprintf("pass 1 of a question of %d tokens", questionTokens)
	long := &share{Shape: s.Name, DType: dtype, What: what, Beside: fmt.Sprintf("pass 2 of %d tokens", longAnswer)}
	short := &share{Shape: s.Name, DType: dtype, What: what, Beside: "pass 2 of one token"}
	r.Passes = append(r.Passes, long, short)
	for round := range o.rounds + 1 { // The first warms up, and brings the instruction into the cache.
		fmt.Fprintf(os.Stderr, "%s %s passes: round %d of %d\n", s.Name, dtype, round, o.rounds)
		for pair := range shortPairs {
			question := tokens(questionTokens, 1000*round+3*pair, s.Vocab)
			first, err := chosen(ctx, e, question, s.Vocab)
			if err != nil {
				return err
			}
			for _, answer := range answerLengths(pair) {
				// None of them finds its prompt in the cache: each begins otherwise.
				second, err := answered(ctx, e, slices.Concat(tokens(1, answer, s.Vocab), question[1:]), answer)
				if err != nil {
					return err
				}
				if into := map[int]*share{longAnswer: long, 1: short}[answer]; round > 0 {
					into.add(first, second)
				}
			}
		}
	}
	return nil
}

// chosen is what pass 1 of a question costs.
func chosen(ctx stdcontext.Context, e *engine.Engine, question []int32, vocabulary int) (spent, error) {
	request := engine.ScoreRequest{Prompt: append(tokens(instructionTokens, 7, vocabulary),
		question[:min(len(question), contract.DefaultRequestTokens)]...)}
	for i := range skills {
		request.Labels = append(request.Labels, tokens(2, 100*i, vocabulary))
	}
	return timed(func() error {
		_, err := e.Score(ctx, request)
		return err
	})
}

// answerLengths are those of the answers that pass 1 of a round's n-th question is compared
// with: one token each time, since that is over soon, and one measurement says little.
func answerLengths(n int) []int {
	if n == 0 {
		return []int{longAnswer, 1}
	}
	return []int{1}
}

// secondTurn measures the second turn of a conversation.
func secondTurn(ctx stdcontext.Context, o options, s shape, e *engine.Engine, dtype string, r *report) error {
	turn := &share{
		Shape: s.Name, DType: dtype, What: fmt.Sprintf("a turn of %d tokens behind %d", turnTokens, historyTokens), Beside: "its tokens alone",
	}
	r.Passes = append(r.Passes, turn)
	for round := range o.rounds + 1 {
		var written []int32
		first := tokens(historyTokens-answeredTokens, 17*round+3, s.Vocab)
		_, err := e.Generate(ctx, engine.Request{Prompt: first, MaxTokens: answeredTokens, Logprobs: -1, IgnoreStopTokens: true}, func(d engine.Delta) error {
			if d.Token >= 0 {
				written = append(written, d.Token)
			}
			return nil
		})
		if err != nil {
			return err
		}
		next := tokens(turnTokens, 1000*round+5, s.Vocab)
		behind, err := answered(ctx, e, slices.Concat(first, written, next), 1)
		if err != nil {
			return err
		}
		alone, err := answered(ctx, e, next, 1)
		if err != nil {
			return err
		}
		if round > 0 {
			turn.add(behind, alone)
		}
	}
	return nil
}

// answered is what an answer of so many tokens costs.
func answered(ctx stdcontext.Context, e *engine.Engine, prompt []int32, answer int) (spent, error) {
	return timed(func() error {
		_, err := e.Generate(ctx, engine.Request{Prompt: prompt, MaxTokens: answer, Logprobs: -1}, func(engine.Delta) error { return nil })
		return err
	})
}

// tokens makes a text up.
func tokens(n, from, vocabulary int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((from + 31*i) % vocabulary)
	}
	return out
}
