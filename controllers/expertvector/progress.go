package expertvector

import (
	"context"
	"fmt"
	"strconv"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// progress asks the pod that runs how far it is, and on which device. A pod that
// does not answer leaves what was known.
func (r *Reconciler) progress(ctx context.Context, expert *v1alpha1.ExpertVector, out *outcome.Outcome) {
	if out.State != outcome.Running {
		if expert.Status.Progress != nil {
			expert.Status.Progress.EstimatedRemainingSeconds = nil
		}
		return
	}
	progress, answered := runs.Ask(ctx, r.Pods, out)
	if !answered {
		return
	}
	if p := progressOf(progress); p != nil {
		expert.Status.Progress = p
		if expert.Status.Artifact == nil {
			expert.Status.BaselineScore = score(progress.Training.BaselineScore)
		}
	}
}

// progressOf turns a pod's answer into the API's form; nil if it says nothing of
// training.
func progressOf(p contract.Progress) *v1alpha1.TrainingProgress {
	t := p.Training
	if t == nil || t.Iterations <= 0 {
		return nil
	}
	progress := &v1alpha1.TrainingProgress{
		Summary:         fmt.Sprintf("%d/%d", t.Iteration, t.Iterations),
		Step:            status.Clip(p.Phase, 32),
		Iteration:       new(int32(max(t.Iteration, 0))),
		Iterations:      int32(t.Iterations),
		ValidationScore: score(t.ValidationScore),
		BestScore:       score(t.BestScore),
	}
	if t.Iteration > 0 {
		progress.Reward = strconv.FormatFloat(t.Reward, 'f', 4, 64)
		if t.KL >= 0 {
			progress.KL = strconv.FormatFloat(t.KL, 'f', 6, 64)
		}
	}
	if p.EstimatedRemainingSeconds >= 0 {
		progress.EstimatedRemainingSeconds = new(p.EstimatedRemainingSeconds)
	}
	return progress
}

// score writes a score with four decimals; a negative one is not known yet.
func score(s float64) v1alpha1.Score {
	if s < 0 {
		return ""
	}
	return v1alpha1.Score(strconv.FormatFloat(s, 'f', 4, 64))
}

func describe(p *v1alpha1.TrainingProgress, doing string) string {
	if p == nil {
		return doing
	}
	text := fmt.Sprintf("Iteration %s", p.Summary)
	if p.BestScore != "" {
		text += fmt.Sprintf(", best validation score %s", p.BestScore)
	}
	if p.EstimatedRemainingSeconds != nil {
		text += fmt.Sprintf(", about %d s left", *p.EstimatedRemainingSeconds)
	}
	return text
}
