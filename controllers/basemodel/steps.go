package basemodel

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
)

// progress asks the pod that runs how far it is, and on which device. A pod that
// does not answer leaves what was known.
func (r *Reconciler) progress(ctx context.Context, base *v1alpha1.BaseModel, out *outcome.Outcome) {
	if out.State != outcome.Running {
		base.Status.Progress = nil
		return
	}
	progress, answered := runs.Ask(ctx, r.Pods, out)
	if !answered || progress.Phase == "" {
		return
	}
	base.Status.Progress = &v1alpha1.StepProgress{
		Step: status.Clip(progress.Phase, 32), Done: new(max(progress.Done, 0)), Total: new(max(progress.Total, 0)),
	}
	if progress.EstimatedRemainingSeconds >= 0 {
		base.Status.Progress.EstimatedRemainingSeconds = new(progress.EstimatedRemainingSeconds)
	}
}

func describe(p *v1alpha1.StepProgress, doing string) string {
	if p == nil {
		return doing
	}
	text := p.Step
	if total := ptr.Deref(p.Total, 0); total > 0 {
		text += fmt.Sprintf(" %d of %d", ptr.Deref(p.Done, 0), total)
	}
	if p.EstimatedRemainingSeconds != nil {
		text += fmt.Sprintf(", about %d s left", *p.EstimatedRemainingSeconds)
	}
	return text
}

// beginSteps writes the conditions Fetched and Decomposed on the first pass.
func beginSteps(base *v1alpha1.BaseModel) {
	for _, step := range []string{v1alpha1.ConditionFetched, v1alpha1.ConditionDecomposed} {
		if meta.FindStatusCondition(base.Status.Conditions, step) == nil {
			status.Set(base, step, false, v1alpha1.ReasonPending, "Not begun")
		}
	}
}

// setSteps writes the conditions Fetched and Decomposed for a run that has not
// succeeded.
func setSteps(base *v1alpha1.BaseModel, out outcome.Outcome) {
	if out.State == outcome.Succeeded {
		setDone(base)
		return
	}
	reason, message := out.Reason, out.Message
	if reason == "" {
		reason = v1alpha1.ReasonProgressing
	}
	fetched, fetchedOK := out.Results[desired.ContainerFetch]
	if fetchedOK && fetched.Reason == "" && fetched.Model != nil {
		setFetched(base, fetched.Model.Digest, fetched.Model.FileCount)
		if out.State == outcome.Running {
			reason, message = v1alpha1.ReasonDecomposing, ""
		}
		status.Set(base, v1alpha1.ConditionDecomposed, false, reason, message)
		return
	}
	if out.State == outcome.Running {
		reason, message = v1alpha1.ReasonFetching, ""
	}
	status.Set(base, v1alpha1.ConditionFetched, false, reason, message)
	status.Set(base, v1alpha1.ConditionDecomposed, false, v1alpha1.ReasonPending, "The model is not fetched yet")
}

func setDone(base *v1alpha1.BaseModel) {
	setFetched(base, string(base.Status.Artifact.Digest), int(base.Status.Artifact.Files))
	status.Set(base, v1alpha1.ConditionDecomposed, true, v1alpha1.ReasonSucceeded,
		fmt.Sprintf("%d matrices have %d singular values", base.Status.Decomposition.Matrices, base.Status.Decomposition.SingularValues))
}

func setFetched(base *v1alpha1.BaseModel, digest string, files int) {
	status.Set(base, v1alpha1.ConditionFetched, true, v1alpha1.ReasonSucceeded, fmt.Sprintf("%s in %d files", digest, files))
}
