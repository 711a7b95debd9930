package train

import (
	"context"
	"errors"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// brokenJudge judges nothing.
type brokenJudge struct{ err error }

func (brokenJudge) Check(reward.Reference) error { return nil }
func (brokenJudge) Close() error                 { return nil }
func (b brokenJudge) Judge(context.Context, string, reward.Reference) (reward.Verdict, error) {
	return reward.Verdict{}, b.err
}

func TestAJudgeThatFailsHalfWayHasTheRunTriedAgain(t *testing.T) {
	_, _, tok := newExercise(t).volume.Load(t)
	for err, want := range map[error]string{
		errors.New("the judge ended"): contract.ReasonJudgeUnavailable, context.Canceled: contract.ReasonInterrupted,
	} {
		task := &Task{set: &dataset.Set{Records: make([]dataset.Record, 1)}, tokenizer: tok, judge: brokenJudge{err}}
		got, failed := task.verdicts(t.Context(), []int{0}, make([]rollout.Answer, 1))
		if reason, permanent := failure.Of(failed); got != nil || reason != want || permanent {
			t.Errorf("verdicts = %v, %v (%s, permanent: %t), want %s", got, failed, reason, permanent, want)
		}
	}
}
