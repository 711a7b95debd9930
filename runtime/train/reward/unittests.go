package reward

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/transformersquared/operator/runtime/judge"
)

// UnitTests judges programs in Python by running them and their tests (see
// package judge for what confines them). What a data set's set-up defines is
// there for the tests, after the answer's own definitions.
type UnitTests struct {
	programs judge.Runner
}

// NewUnitTests returns a judge that runs programs by a runner, which it closes.
// Without one it can check references and nothing else.
func NewUnitTests(programs judge.Runner) *UnitTests { return &UnitTests{programs: programs} }

// Check reports a reference without tests. Whether a test is Python shows when
// it runs.
func (u *UnitTests) Check(ref Reference) error {
	for _, test := range ref.Tests {
		if strings.TrimSpace(test) != "" {
			return nil
		}
	}
	return errors.New("there are no tests, which the reward UnitTests runs")
}

// Judge reports whether the program in answer passes all tests.
func (u *UnitTests) Judge(ctx context.Context, answer string, ref Reference) (Verdict, error) {
	if u.programs == nil {
		return Verdict{}, errors.New("the reward UnitTests was given nothing to run programs with")
	}
	extracted, program, setup := assemble(answer, ref)
	verdict := Verdict{Extracted: extracted}
	result, err := u.programs.Run(ctx, judge.Job{Program: program, Setup: setup, Tests: ref.Tests, Entry: ref.EntryPoint})
	if err != nil {
		return Verdict{}, fmt.Errorf("running a program and its tests: %w", err)
	}
	if verdict.Right, verdict.Why = result.Passed, result.Why; result.Passed {
		verdict.Why = "all tests passed"
	}
	return verdict, nil
}

// Confinement says what the programs are confined by, after having tried.
func (u *UnitTests) Confinement(ctx context.Context) (judge.Confinement, error) {
	if u.programs == nil {
		return judge.Confinement{}, errors.New("the reward UnitTests was given nothing to run programs with")
	}
	return u.programs.Confinement(ctx)
}

// Close ends what runs programs.
func (u *UnitTests) Close() error {
	if u.programs == nil {
		return nil
	}
	return u.programs.Close()
}
