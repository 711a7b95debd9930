package adaptivepolicy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// Datasets finds the digests of data sets.
type Datasets interface {
	// Digest returns the SHA-256 of a data set that a ConfigMap holds, and nothing of
	// another. A *status.Waiting or *status.Stalled says what is wrong with it, and names
	// the field.
	Digest(ctx context.Context, namespace, field string, set v1alpha1.Dataset) (string, error)
}

// fieldExamples is where a policy names its examples.
const fieldExamples = "spec.strategy.fewShot.dataset"

// search sees to the search of strategy FewShot, and writes what came of it into the
// status. It returns what there is to wait for: the policy serves what was found before
// until then. What was found for these experts and examples is not searched again.
func (r *Reconciler) search(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, donors []*v1alpha1.BaseModel, chosen choice) error {
	selector := client.MatchingLabels(desired.SearchSelector(policy))
	if policy.Spec.Strategy.Type != v1alpha1.StrategyFewShot || policy.Spec.Strategy.FewShot == nil {
		return r.endSearch(ctx, policy, selector)
	}
	experts := searched(chosen)
	if len(experts) == 0 {
		return nil // What is wrong with those that there should be is said elsewhere.
	}
	examples, problem := r.Datasets.Digest(ctx, policy.Namespace, fieldExamples, policy.Spec.Strategy.FewShot.Dataset)
	if problem != nil && !status.Conclusive(problem) {
		return problem
	}
	run, err := desired.Search(policy, base, donors, experts, examples, r.Settings)
	if err != nil {
		return err
	}
	if was := policy.Status.FewShot; was != nil && len(was.Weights) > 0 {
		if problem != nil && was.Recipe == run.Recipe {
			was.Progress = nil
			return nil
		}
		if problem == nil && was.RunID == run.ID {
			was.Progress = nil
			_, err := r.Runner.Supersede(ctx, policy, selector, was.Runs, run.ID)
			return err
		}
	}
	// A search begins with all experts as they are to be: each begins anew for another.
	if chosen.problem != nil || !status.Holds(base, v1alpha1.ConditionDecomposed) || !base.DeletionTimestamp.IsZero() {
		return problem
	}
	if problem != nil {
		return problem
	}
	return meanwhile(policy, r.searching(ctx, policy, base, selector, run, experts))
}

// searching sees to the Job of a search.
func (r *Reconciler) searching(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel,
	selector client.MatchingLabels, run desired.Run, experts []contract.AdaptExpert,
) error {
	now := cmp.Or(policy.Status.FewShot, &v1alpha1.FewShotStatus{})
	err := r.perform(ctx, policy, task{
		selector: selector, run: run, container: desired.ContainerAdapt, doing: v1alpha1.ReasonSearching, runs: &now.Runs,
		learn: func(p contract.Progress) { learnSearch(now, p) },
		halt: func() {
			if now.Progress != nil {
				now.Progress.EstimatedRemainingSeconds = nil
			}
		},
		forget:   func() { now.Progress = nil },
		describe: func() string { return describeSearch(now.Progress) },
		accept: func(t contract.Termination, job *batchv1.Job) error {
			return accept(now, base, run, experts, t.FewShot, job)
		},
	})
	if len(now.Runs) > 0 {
		policy.Status.FewShot = now
	}
	return err
}

// endSearch ends the search of a policy that has another strategy now, and forgets what
// was found.
func (r *Reconciler) endSearch(ctx context.Context, policy *v1alpha1.AdaptivePolicy, selector client.MatchingLabels) error {
	if err := r.Runner.End(ctx, policy, selector); err != nil {
		return err
	}
	policy.Status.FewShot = nil
	return nil
}

// searched are the experts that a search mixes: those that are served, by name, so that
// their order in the policy makes no other search.
func searched(chosen choice) []contract.AdaptExpert {
	var experts []contract.AdaptExpert
	for _, c := range chosen.candidates {
		if c.served {
			experts = append(experts, contract.AdaptExpert{
				Name: c.name, Digest: string(c.expert.Status.Artifact.Digest), TransferFrom: c.from,
			})
		}
	}
	slices.SortFunc(experts, func(a, b contract.AdaptExpert) int { return cmp.Compare(a.Name, b.Name) })
	return experts
}

// learnSearch takes how far a search is.
func learnSearch(now *v1alpha1.FewShotStatus, progress contract.Progress) {
	s := progress.Search
	if s == nil || s.Generations <= 0 {
		return
	}
	now.Progress = &v1alpha1.FewShotProgress{
		Summary:    fmt.Sprintf("%d/%d", s.Generation, s.Generations),
		Generation: new(int32(max(s.Generation, 0))), Generations: int32(s.Generations),
		BestScore: score(s.BestScore), BaselineScore: score(s.BaselineScore), UniformScore: score(s.UniformScore),
		EstimatedRemainingSeconds: remaining(progress),
	}
}

func describeSearch(p *v1alpha1.FewShotProgress) string {
	if p == nil {
		return "Searching the weights of the experts"
	}
	text := "Searching the weights of the experts: generation " + p.Summary
	if p.BestScore != "" {
		text += ", best score " + string(p.BestScore)
	}
	if p.EstimatedRemainingSeconds != nil {
		text += fmt.Sprintf(", about %d s left", *p.EstimatedRemainingSeconds)
	}
	return text
}

// accept writes what a search found into the status.
func accept(now *v1alpha1.FewShotStatus, base *v1alpha1.BaseModel, run desired.Run, experts []contract.AdaptExpert,
	result *contract.FewShotResult, job *batchv1.Job,
) error {
	if result == nil || len(result.Weights) != len(experts) || !contract.ValidDigest(result.ExamplesDigest) {
		return runs.Silent(job, "found")
	}
	weights := make([]v1alpha1.FewShotWeight, len(experts))
	for k, w := range result.Weights {
		weights[k] = v1alpha1.FewShotWeight{
			Name: experts[k].Name, Digest: v1alpha1.Digest(experts[k].Digest), Weight: decimal(w.Weight), Score: score(w.Score),
		}
		for _, alpha := range w.Layers {
			weights[k].Layers = append(weights[k].Layers, decimal(alpha))
		}
	}
	runs := now.Runs
	*now = v1alpha1.FewShotStatus{
		RunID: run.ID, Recipe: run.Recipe, Weights: weights, Runs: runs,
		Score: score(result.Score), BaselineScore: score(result.BaselineScore), UniformScore: score(result.UniformScore),
		Generations: new(int32(max(result.Generations, 0))), Evaluations: new(int32(max(result.Evaluations, 0))),
		DurationSeconds: new(int64(max(result.Seconds, 0) + 0.5)), Examples: int32(max(result.Examples, 0)),
		ExamplesDigest: v1alpha1.Digest(result.ExamplesDigest), DecompositionDigest: base.Status.Decomposition.Digest,
	}
	return nil
}

// meanwhile adds to what a search waits for what is served until then.
func meanwhile(policy *v1alpha1.AdaptivePolicy, err error) error {
	note := ". Until it has found weights the base model answers"
	if now := policy.Status.FewShot; now != nil && len(now.Weights) > 0 {
		note = ". Until then the weights of before are served"
	}
	return until(err, note)
}

// weighed are the weights that the policy's search found for the decomposition that is
// served, by expert.
func weighed(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) map[string]*v1alpha1.FewShotWeight {
	now := policy.Status.FewShot
	if policy.Spec.Strategy.Type != v1alpha1.StrategyFewShot || now == nil || now.DecompositionDigest != base.Status.Decomposition.Digest {
		return nil
	}
	weights := map[string]*v1alpha1.FewShotWeight{}
	for k := range now.Weights {
		weights[now.Weights[k].Name] = &now.Weights[k]
	}
	return weights
}

// weigh gives an expert the weight that a search found for it, and the artifact that had
// it then.
func weigh(c *candidate, ref *contract.ExpertRef, w *v1alpha1.FewShotWeight) {
	if w == nil {
		return
	}
	c.weight, c.pinned = w.Weight, w.Digest
	ref.Weight, ref.Digest = number(w.Weight), string(w.Digest)
	for _, alpha := range w.Layers {
		ref.LayerWeights = append(ref.LayerWeights, number(alpha))
	}
}

// decimal writes a weight with the decimals that a search gives it.
func decimal(x float64) v1alpha1.Decimal {
	return v1alpha1.Decimal(strconv.FormatFloat(max(x, 0), 'f', contract.WeightDigits, 64))
}

// score writes a score with four decimals; a negative one is not known yet.
func score(s float64) v1alpha1.Score {
	if s < 0 {
		return ""
	}
	return v1alpha1.Score(strconv.FormatFloat(s, 'f', 4, 64))
}
