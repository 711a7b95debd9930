package expertvector

import (
	"context"
	"errors"
	"fmt"
	"path"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// selector finds the Jobs and pods of an expert.
func selector(expert *v1alpha1.ExpertVector) client.MatchingLabels {
	return client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentTrain, v1alpha1.LabelExpert: expert.Name}
}

// run sees to the run's Job and writes what it came to.
func (r *Reconciler) run(ctx context.Context, expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, run desired.Run) (status.Ready, error) {
	if !runs.IsLatest(expert.Status.Runs, run.ID) {
		expert.Status.Progress = nil
	}
	selector := selector(expert)
	job, pods, err := r.Runner.Ensure(ctx, expert, selector, run)
	if err != nil {
		return status.Ready{}, err
	}
	out, err := r.Runner.Observe(ctx, job, pods, selector, fields(expert))
	if err != nil {
		return status.Ready{}, err
	}
	r.progress(ctx, expert, &out)
	return r.conclude(ctx, expert, base, run, job, out)
}

func (r *Reconciler) conclude(ctx context.Context, expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel,
	run desired.Run, job *batchv1.Job, out outcome.Outcome,
) (status.Ready, error) {
	if out.State == outcome.Succeeded {
		result := out.Results[container(expert)]
		if !out.Seen {
			return status.Ready{}, r.Runner.Again(ctx, job)
		}
		if result.Expert == nil {
			return status.Ready{}, runs.Silent(job, "made")
		}
		if err := accept(expert, base, run, result.Expert); err != nil {
			return status.Ready{}, err
		}
	}
	expert.Status.Runs = runs.Remember(expert.Status.Runs, runs.Record(runs.Latest(expert.Status.Runs), run, job, out))
	if out.State == outcome.Succeeded {
		return ready(expert, nil), nil
	}
	doing := v1alpha1.ReasonTraining
	if expert.Spec.Source != nil {
		doing = v1alpha1.ReasonImporting
	}
	return status.Ready{}, r.Runner.Explain(ctx, job, out, runs.Latest(expert.Status.Runs), doing, describe(expert.Status.Progress, doing))
}

// done reports whether the run's result is what the status has.
func done(expert *v1alpha1.ExpertVector, run desired.Run) bool {
	return expert.Status.Artifact != nil && expert.Status.Artifact.RunID == run.ID
}

// accept writes a result into the status, if it belongs to the model that the
// run was made for.
func accept(expert *v1alpha1.ExpertVector, base *v1alpha1.BaseModel, run desired.Run, result *contract.ExpertResult) error {
	model, decomposition := string(base.Status.Artifact.Digest), string(base.Status.Decomposition.Digest)
	if result.BaseDigest != model || result.DecompositionDigest != decomposition {
		return status.Stall(v1alpha1.ReasonDecompositionMismatch,
			"The expert scales decomposition %s of model %s, but BaseModel %s has decomposition %s of model %s; change the object to train it anew",
			result.DecompositionDigest, result.BaseDigest, base.Name, decomposition, model)
	}
	folder, err := contract.DigestDir(result.Digest)
	if err != nil {
		return status.Stall(contract.ReasonInternal, "The run reported an artifact without a digest (%v); is the runtime's image of another version than the operator?", err)
	}
	acceptStored(expert, run)
	expert.Status.Artifact = &v1alpha1.ExpertArtifact{
		Digest: v1alpha1.Digest(result.Digest), SizeBytes: result.SizeBytes, RunID: run.ID, Recipe: run.Recipe,
		TrainedFor: v1alpha1.Digest(result.Pass1Digest), Activation: v1alpha1.Activation(result.Activation),
		Verified: runs.Verified(result.Verified),
		URI:      "pvc://" + path.Join(desired.ClaimName(base), contract.DirExperts, folder),
	}
	expert.Status.BaseDigest = v1alpha1.Digest(model)
	expert.Status.DecompositionDigest = v1alpha1.Digest(decomposition)
	expert.Status.BaselineScore, expert.Status.Score, expert.Status.Progress = "", "", nil
	if result.Training != nil {
		expert.Status.Progress = progressOf(contract.Progress{Training: result.Training, EstimatedRemainingSeconds: -1})
		expert.Status.BaselineScore = score(result.Training.BaselineScore)
		expert.Status.Score = score(result.Training.BestScore)
	}
	return nil
}

// ready describes an expert whose artifact is what the specification asks for.
// missing, where it is not nil, is what a new run would lack.
func ready(expert *v1alpha1.ExpertVector, missing error) status.Ready {
	setImproved(expert)
	message := fmt.Sprintf("Expert %s is there", expert.Status.Artifact.Digest)
	if expert.Status.Score != "" {
		message += fmt.Sprintf("; validation score %s, base model %s", expert.Status.Score, expert.Status.BaselineScore)
	}
	if p := expert.Status.Progress; p != nil {
		message += fmt.Sprintf(", after %s iterations", p.Summary)
	}
	if missing != nil {
		message += ". Only a new run would lack this: " + explanation(missing)
	}
	return status.Ready{Reason: v1alpha1.ReasonSucceeded, Message: message}
}

// explanation is the message of a conclusive error.
func explanation(err error) string {
	var stalled *status.Stalled
	var waiting *status.Waiting
	switch {
	case errors.As(err, &stalled):
		return stalled.Message
	case errors.As(err, &waiting):
		return waiting.Message
	}
	return err.Error()
}

// stands reports whether the artifact is what the specification asks for, as far
// as can be told where a data set cannot be read: it was made by the same recipe.
func stands(expert *v1alpha1.ExpertVector, run desired.Run) bool {
	a := expert.Status.Artifact
	return a != nil && a.Recipe != "" && a.Recipe == run.Recipe
}

// setImproved writes how a trained expert compares with its base; of one that was
// imported no scores are known.
func setImproved(expert *v1alpha1.ExpertVector) {
	gain, known := status.Gain(expert)
	if !known {
		meta.RemoveStatusCondition(&expert.Status.Conditions, v1alpha1.ConditionImproved)
		return
	}
	message := fmt.Sprintf("validation score %s, base model %s", expert.Status.Score, expert.Status.BaselineScore)
	switch gain.Sign() {
	case 1:
		status.Set(expert, v1alpha1.ConditionImproved, true, v1alpha1.ReasonAboveBaseline, "Better than the base model: "+message)
	case 0:
		status.Set(expert, v1alpha1.ConditionImproved, false, v1alpha1.ReasonAtBaseline, "As good as the base model: "+message)
	default:
		status.Set(expert, v1alpha1.ConditionImproved, false, v1alpha1.ReasonBelowBaseline, "Worse than the base model: "+message+
			"; policies do not serve it unless their spec.rollout.gate.minGain says so. A lower learning rate or more data may help")
	}
}

// meanwhile adds to what an expert waits for that its previous artifact stays
// until then.
func meanwhile(expert *v1alpha1.ExpertVector, err error) error {
	if expert.Status.Artifact == nil {
		return err
	}
	note := fmt.Sprintf(". Until then the artifact of before stays: %s", expert.Status.Artifact.Digest)
	if c := storedCondition(expert); c.Status == metav1.ConditionFalse {
		note = ". " + c.Message
	}
	switch e := err.(type) { //nolint:errorlint // Steps return these as they are; wrapped errors are left alone.
	case *status.Waiting:
		e.Message = status.Tidy(e.Message) + note
	case *status.Stalled:
		if e.Reason != v1alpha1.ReasonExpertLost { // It says it all.
			e.Message = status.Tidy(e.Message) + note
		}
	}
	return err
}

func container(expert *v1alpha1.ExpertVector) string {
	if expert.Spec.Source != nil {
		return desired.ContainerImport
	}
	return desired.ContainerTrain
}

// fields are those that remedies name.
func fields(expert *v1alpha1.ExpertVector) outcome.Fields {
	if expert.Spec.Training != nil {
		return outcome.Fields{At: "spec.training", Need: "set spec.training.dtype to BF16"}
	}
	return outcome.Fields{At: "the BaseModel's spec.runtime"}
}
