package expertvector

import (
	"context"
	"fmt"
	"time"

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

// publishSelector finds the Jobs and pods that push an expert.
func publishSelector(expert *v1alpha1.ExpertVector) client.MatchingLabels {
	return client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentPublish, v1alpha1.LabelExpert: expert.Name}
}

// publish sees to it that the artifact of the status is where spec.publish says, and writes
// how that goes into the condition Published. after is when to look again; an error is a
// failed call. Ready does not depend on it: what serves an expert needs no registry.
func (r *Reconciler) publish(ctx context.Context, expert *v1alpha1.ExpertVector) (after time.Duration, err error) {
	if expert.Spec.Publish == nil {
		return 0, r.unpublish(ctx, expert)
	}
	verdict := status.Judge(status.Ready{Reason: v1alpha1.ReasonPublished}, r.push(ctx, expert))
	if verdict.Retry != nil {
		return 0, verdict.Retry
	}
	if verdict.Ready {
		p := expert.Status.Published
		verdict.Message = fmt.Sprintf("Expert %s is at %s with digest %s", p.ArtifactDigest, p.Reference, p.Digest)
	}
	status.Set(expert, v1alpha1.ConditionPublished, verdict.Ready, verdict.Reason, verdict.Message)
	return verdict.After, nil
}

// unpublish ends a push that nobody asks for any more. What has been pushed stays.
func (r *Reconciler) unpublish(ctx context.Context, expert *v1alpha1.ExpertVector) error {
	if meta.FindStatusCondition(expert.Status.Conditions, v1alpha1.ConditionPublished) == nil {
		return nil
	}
	if err := r.Runner.End(ctx, expert, publishSelector(expert)); err != nil {
		return err
	}
	expert.Status.PublishRun = nil
	meta.RemoveStatusCondition(&expert.Status.Conditions, v1alpha1.ConditionPublished)
	return nil
}

// push returns nil once the artifact has been pushed.
func (r *Reconciler) push(ctx context.Context, expert *v1alpha1.ExpertVector) error {
	artifact := expert.Status.Artifact
	if artifact == nil {
		return status.Wait(v1alpha1.ReasonNoArtifact, "The expert is pushed once it is there")
	}
	to := expert.Spec.Publish.OCI.Reference
	if p := expert.Status.Published; p != nil && p.ArtifactDigest == artifact.Digest && p.Reference == to {
		return nil
	}
	if c := storedCondition(expert); c.Status == metav1.ConditionFalse {
		return status.Wait(c.Reason, "%s. It is pushed once pods find it", status.Tidy(c.Message))
	}
	base, err := r.base(ctx, expert)
	if err != nil {
		return err
	}
	run, err := desired.Publish(expert, base, r.Settings)
	if err != nil {
		return err
	}
	selector := publishSelector(expert)
	job, pods, err := r.Runner.Ensure(ctx, expert, selector, run)
	if err != nil {
		return err
	}
	out, err := r.Runner.Observe(ctx, job, pods, selector, outcome.Fields{At: "the BaseModel's spec.runtime"})
	if err != nil {
		return err
	}
	return r.pushed(ctx, expert, run, job, out)
}

// pushed writes what a push came to.
func (r *Reconciler) pushed(ctx context.Context, expert *v1alpha1.ExpertVector, run desired.Run, job *batchv1.Job, out outcome.Outcome) error {
	to := expert.Spec.Publish.OCI.Reference
	if out.State == outcome.Succeeded {
		result := out.Results[desired.ContainerPublish].Expert
		if !out.Seen {
			return r.Runner.Again(ctx, job)
		}
		if result == nil || !contract.ValidDigest(result.Artifact) {
			return runs.Silent(job, "pushed")
		}
		expert.Status.Published = &v1alpha1.PublishedArtifact{
			Reference: to, Digest: v1alpha1.Digest(result.Artifact), ArtifactDigest: expert.Status.Artifact.Digest,
			EvaluationDigest: v1alpha1.Digest(result.Evaluation), Time: metav1.Now(),
		}
		if out.CompletionTime != nil {
			expert.Status.Published.Time = *out.CompletionTime
		}
	}
	record := runs.Record(expert.Status.PublishRun, run, job, out)
	expert.Status.PublishRun = &record
	if out.State == outcome.Succeeded {
		return nil
	}
	return r.Runner.Explain(ctx, job, out, &record, v1alpha1.ReasonPublishing, "Pushing to "+to)
}

// sooner adds to what a reconciliation came to that the object is to be looked at again
// within that time; zero adds nothing.
func sooner(ready status.Ready, err error, after time.Duration) (status.Ready, error) {
	if after == 0 {
		return ready, err
	}
	if err != nil {
		return ready, status.First(err, status.Wait(v1alpha1.ReasonProgressing, "").Again(after))
	}
	if ready.After == 0 || after < ready.After {
		ready.After = after
	}
	return ready, nil
}
