// Package reward judges a model's answers: is this one right? The answers are
// text, the judgement is exact and deterministic, and nothing a model writes
// can hurt the process that judges it.
//
// What a model thinks before "</think>" is no part of its answer. Of the rest
// counts what it states as its answer: in a box, after "the answer is", after
// "Answer:"; each reward has a rule for an answer that states nothing.
//
//   - ExactMatch compares the text, blanks aside, or the text in a box.
//   - Numeric compares the number: also after "####" at the start of a line (as
//     in GSM8K), or else the last one.
//   - MultipleChoice compares the letter: or else the last that stands alone.
//   - Math compares what expressions of LaTeX mean, by value (see latex).
//   - UnitTests runs the answer's program, in Python, against assertions, in
//     confined processes (see package judge).
package reward

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/judge"
)

// Reference is what an answer is judged by.
type Reference struct {
	// Answer is the right answer, for all rewards but UnitTests.
	Answer string
	// Choices is the number of answers on offer, "A" to the Choices-th letter;
	// 0 where it is not a question of choice.
	Choices int
	// Setup is a program that the tests need besides the answer's, and Tests are
	// statements of Python that raise where the answer is wrong ("assert f(2) ==
	// 4"), for UnitTests.
	Setup string
	Tests []string
	// EntryPoint, where it is set (HumanEval), is the function that the answer
	// defines: Tests is then one program that defines check, and the answer is
	// right if check(EntryPoint) returns. Prompt is the beginning of that function,
	// for an answer that only goes on where it ends.
	EntryPoint string
	Prompt     string
}

// Verdict is what a judge makes of an answer.
type Verdict struct {
	Right bool `json:"right"`
	// Extracted is what the judge took for the answer in all that was written,
	// empty where there was none.
	Extracted string `json:"extracted"`
	// Why says, for people, how the verdict came about.
	Why string `json:"why"`
}

// Judge decides about answers. Implementations are safe for concurrent use.
type Judge interface {
	// Check reports what makes ref unusable for this reward, such as a
	// reference without a number; callers check every record once, before the
	// first answer.
	Check(ref Reference) error
	// Judge decides whether answer is right. An error means that it could not be
	// judged (such as ctx's end), never that it is wrong.
	Judge(ctx context.Context, answer string, ref Reference) (Verdict, error)
	// Close ends what the judge has started.
	Close() error
}

// New returns the judge for one of contract's Reward constants. programs runs
// what UnitTests judges, which closes it; the others need none, and without one
// UnitTests only checks references.
func New(kind string, programs judge.Runner) (Judge, error) {
	switch kind {
	case contract.RewardExactMatch:
		return pure{check: checkExact, judge: judgeExact}, nil
	case contract.RewardNumeric:
		return pure{check: checkNumeric, judge: judgeNumeric}, nil
	case contract.RewardMultipleChoice:
		return pure{check: checkChoice, judge: judgeChoice}, nil
	case contract.RewardMath:
		return pure{check: checkMath, judge: judgeMath}, nil
	case contract.RewardUnitTests:
		return NewUnitTests(programs), nil
	default:
		return nil, fmt.Errorf("reward %q is unknown: use one of %s", kind, strings.Join(Kinds(), ", "))
	}
}

// Prepare has a judge that runs programs make ready, so that what it lacks shows
// before anything is spent on answers. It returns what programs are confined by;
// "" where the judge runs none.
func Prepare(ctx context.Context, j Judge) (string, error) {
	u, ok := j.(*UnitTests)
	if !ok {
		return "", nil
	}
	c, err := u.Confinement(ctx)
	if err != nil {
		return "", err
	}
	return c.String(), nil
}

// Kinds lists the rewards.
func Kinds() []string {
	return []string{
		contract.RewardExactMatch, contract.RewardNumeric, contract.RewardMultipleChoice,
		contract.RewardMath, contract.RewardUnitTests,
	}
}

// pure is a judge made of functions without state.
type pure struct {
	check func(Reference) error
	judge func(answer string, ref Reference) Verdict
}

func (p pure) Check(ref Reference) error { return p.check(ref) }

func (p pure) Judge(ctx context.Context, answer string, ref Reference) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return Verdict{}, err
	}
	return p.judge(answer, ref), nil
}

func (pure) Close() error { return nil }

// All judges answers[i] by refs[i], side by side on all processors.
func All(ctx context.Context, judge Judge, answers []string, refs []Reference) ([]Verdict, error) {
	verdicts := make([]Verdict, len(answers))
	errs := make([]error, len(answers))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range answers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			verdicts[i], errs[i] = judge.Judge(ctx, answers[i], refs[i])
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("judging answers: %w", err)
	}
	return verdicts, nil
}
