package basemodel

import (
	"context"
	"fmt"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// fields are those that remedies name.
var fields = outcome.Fields{At: "spec.runtime"}

// decompose runs the Job that fetches and decomposes, unless its result is
// there, and writes what it came to.
func (r *Reconciler) decompose(ctx context.Context, base *v1alpha1.BaseModel, claim *corev1.PersistentVolumeClaim) (status.Ready, error) {
	run, err := desired.Decompose(base, r.Settings)
	if err != nil {
		return status.Ready{}, err
	}
	if done(base, run) {
		return ready(base), nil
	}
	selector := client.MatchingLabels{
		v1alpha1.LabelComponent: v1alpha1.ComponentDecompose, v1alpha1.LabelBaseModel: base.Name,
	}
	job, pods, err := r.Runner.Ensure(ctx, base, selector, run)
	if err != nil {
		base.Status.Progress = nil
		setSteps(base, outcome.Outcome{})
		return status.Ready{}, err
	}
	out, err := r.Runner.Observe(ctx, job, pods, selector, fields)
	if err != nil {
		return status.Ready{}, err
	}
	r.progress(ctx, base, &out)
	return r.conclude(ctx, base, claim, run, job, out)
}

func (r *Reconciler) conclude(ctx context.Context, base *v1alpha1.BaseModel, claim *corev1.PersistentVolumeClaim,
	run desired.Run, job *batchv1.Job, out outcome.Outcome,
) (status.Ready, error) {
	if out.State == outcome.Succeeded {
		result := out.Results[desired.ContainerDecompose]
		if !out.Seen {
			return status.Ready{}, r.Runner.Again(ctx, job)
		}
		if !complete(result) {
			return status.Ready{}, runs.Silent(job, "made")
		}
		accept(base, result)
	}
	base.Status.Runs = runs.Remember(base.Status.Runs, runs.Record(runs.Latest(base.Status.Runs), run, job, out))
	setSteps(base, out)
	if out.State == outcome.Succeeded {
		return ready(base), nil
	}
	if claim.Status.Phase == corev1.ClaimPending && (out.State == outcome.Pending || out.State == outcome.Blocked) {
		out.Message += fmt.Sprintf("; PersistentVolumeClaim %s has no volume yet", claim.Name)
	}
	doing := v1alpha1.ReasonDecomposing
	if out.Container == desired.ContainerFetch {
		doing = v1alpha1.ReasonFetching
	}
	return status.Ready{}, r.Runner.Explain(ctx, job, out, runs.Latest(base.Status.Runs), doing, describe(base.Status.Progress, doing))
}

// done reports whether the run's result is what the status has.
func done(base *v1alpha1.BaseModel, run desired.Run) bool {
	was := runs.Latest(base.Status.Runs)
	return was != nil && was.ID == run.ID && was.Result == runs.ResultSucceeded &&
		base.Status.Artifact != nil && base.Status.Decomposition != nil
}

// complete reports whether a run said what it made.
func complete(result contract.Termination) bool {
	return result.Model != nil && contract.ValidDigest(result.Model.Digest) &&
		result.Decomposition != nil && contract.ValidDigest(result.Decomposition.Digest)
}

// accept writes a result into the status.
func accept(base *v1alpha1.BaseModel, result contract.Termination) {
	model, decomposition := result.Model, result.Decomposition
	base.Status.Progress = nil
	base.Status.Artifact = &v1alpha1.ModelArtifact{
		Digest: v1alpha1.Digest(model.Digest), SizeBytes: model.SizeBytes, Files: int32(model.FileCount),
		Revision: model.Revision, Verified: runs.Verified(model.Verified),
	}
	base.Status.Architecture = &v1alpha1.Architecture{
		Family: model.Architecture.Family, Layers: int32(model.Architecture.Layers),
		HiddenSize: int32(model.Architecture.HiddenSize), Parameters: model.Architecture.Parameters,
		VocabularySize: int32(model.Architecture.VocabularySize), ContextLength: int32(model.Architecture.ContextLength),
	}
	base.Status.Decomposition = &v1alpha1.DecompositionStatus{
		Digest: v1alpha1.Digest(decomposition.Digest), Matrices: int32(decomposition.Matrices),
		SingularValues:   int64(decomposition.SingularValues),
		MaxRelativeError: v1alpha1.Decimal(strconv.FormatFloat(decomposition.MaxRelativeError, 'g', 3, 64)),
		Modules:          desired.Modules(base),
	}
}

func ready(base *v1alpha1.BaseModel) status.Ready {
	setDone(base)
	return status.Ready{Reason: v1alpha1.ReasonSucceeded, Message: fmt.Sprintf(
		"Model %s is decomposed: %d matrices, %d singular values, relative error at most %s",
		base.Status.Artifact.Digest, base.Status.Decomposition.Matrices,
		base.Status.Decomposition.SingularValues, base.Status.Decomposition.MaxRelativeError)}
}
