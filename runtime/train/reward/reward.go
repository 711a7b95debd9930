// Package reward judges a model's answers: is this one right? The answers are
// text, the judgement is exact and deterministic, and nothing a model writes
// can hurt the process that judges it.
//
//   - Numeric compares the number after the last "####" (as in GSM8K), or else
//     the last number of the answer.
//   - MultipleChoice compares the letter that the answer names.
//   - ExactMatch compares the text, blanks aside.
//   - UnitTests runs the answer's program, in Python, against assertions, in
//     confined processes (see package judge).
package reward

import (
	"context"
	"fmt"
	"strings"

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
	case contract.RewardNumeric:
		return pure{check: checkNumeric, correct: numericCorrect}, nil
	case contract.RewardMultipleChoice:
		return pure{check: checkChoice, correct: choiceCorrect}, nil
	case contract.RewardExactMatch:
		return pure{check: checkExact, correct: exactCorrect}, nil
	case contract.RewardUnitTests:
		return NewUnitTests(programs), nil
	default:
		return nil, fmt.Errorf("reward %q is unknown: use one of %s", kind, strings.Join([]string{
			contract.RewardExactMatch, contract.RewardNumeric,
			contract.RewardMultipleChoice, contract.RewardUnitTests,
		}, ", "))
	}
}

// pure is a judge made of functions without state.
type pure struct {
	check   func(Reference) error
	correct func(answer string, ref Reference) bool
}

func (p pure) Check(ref Reference) error { return p.check(ref) }

func (p pure) Judge(ctx context.Context, answer string, ref Reference) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return Verdict{}, err
	}
	return Verdict{Right: p.correct(answer, ref)}, nil
}

func (pure) Close() error { return nil }
