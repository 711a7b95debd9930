package adaptivepolicy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// A rollout stands between what a policy asks for, the candidate, and what its pods are
// offered, the stable set. Each reconciliation finds its way anew from three things that
// outlive the operator: the ConfigMap, which has the stable set in full; the status, which
// has what evaluations found; and their Jobs. A set is promoted in two steps, so that no end
// of the operator between them loses why: first what the evaluation found is written into the
// status, then, by a later reconciliation that reads it there, the set into the ConfigMap.

// roll decides which set a policy's pods are offered: the candidate once the gate lets it
// pass and its trials have ended, and the stable one, or none but the base, until then. A
// policy that asks for neither serves what it asks for at once.
func (r *Reconciler) roll(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, chosen choice) (choice, error) {
	if !desired.Evaluates(policy) && !desired.Tries(policy) {
		chosen.problem = status.First(chosen.problem, chosen.learning)
		return chosen, r.endRollout(ctx, policy)
	}
	now := cmp.Or(policy.Status.Rollout, &v1alpha1.RolloutStatus{})
	policy.Status.Rollout = now
	stable, err := r.stable(ctx, policy, base, chosen)
	if err != nil {
		return chosen, err
	}
	decomposition := base.Status.Decomposition.Digest
	reference := stable
	if stable != nil && stable.DecompositionDigest != decomposition {
		reference = nil // It cannot be computed with this base.
	}
	s, err := r.stage(ctx, policy, base, reference, chosen)
	if err != nil {
		return chosen, err
	}
	candidate := desired.StableSet{Set: chosen.set, DecompositionDigest: decomposition, Since: metav1.Now().Rfc3339Copy()}
	if s.promoted {
		if reference == nil || setDigest(reference.Set) != chosen.digest {
			stable = &candidate
		}
		chosen.stable = stable
	} else {
		chosen = chosen.withhold(stable, reference)
	}
	s.write(policy, stable, candidate)
	if s.failed && chosen.learning != nil {
		s.problem = nil // The set that follows may pass.
	}
	chosen.problem = status.First(chosen.problem, chosen.learning)
	if s.beside == nil {
		chosen.problem = status.First(chosen.problem, s.problem)
	} else {
		chosen.set.Candidate, chosen.trial = s.beside, &s // What to say of it the pods know.
	}
	return chosen, nil
}

// endRollout forgets the rollout of a policy whose gate evaluates nothing.
func (r *Reconciler) endRollout(ctx context.Context, policy *v1alpha1.AdaptivePolicy) error {
	if err := r.Runner.End(ctx, policy, client.MatchingLabels(desired.EvaluationSelector(policy))); err != nil {
		return err
	}
	policy.Status.Rollout = nil
	meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionRolledOut)
	meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionEvaluationFailed)
	return nil
}

// stable finds the set that serves, nil where only the base does. A policy that served before
// it had a gate goes on with what it served. The ConfigMap is read only where the set is
// another than the policy asks for: its cache has no content.
func (r *Reconciler) stable(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, chosen choice) (*desired.StableSet, error) {
	if s := policy.Status.Rollout.Stable; s != nil && string(s.Digest) == chosen.digest && s.DecompositionDigest == base.Status.Decomposition.Digest {
		return &desired.StableSet{Set: chosen.set, DecompositionDigest: s.DecompositionDigest, Since: s.Since}, nil
	}
	var kept corev1.ConfigMap
	key := client.ObjectKey{Namespace: policy.Namespace, Name: desired.ExpertSetName(policy)}
	if err := r.Live.Get(ctx, key, &kept); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil //nolint:nilnil // Nothing serves yet.
		}
		return nil, fmt.Errorf("reading ConfigMap %s: %w", key.Name, err)
	}
	if !metav1.IsControlledBy(&kept, policy) {
		return nil, nil //nolint:nilnil // It is somebody else's, as serve will say.
	}
	return keptSet(kept.Data, policy.Status.DecompositionDigest), nil
}

// keptSet reads the stable set of a ConfigMap, nil where there is none: where somebody has
// damaged it, it is what pods that start are offered, and else the base.
func keptSet(data map[string]string, decomposition v1alpha1.Digest) *desired.StableSet {
	stable := &desired.StableSet{}
	if json.Unmarshal([]byte(data[desired.StableSetKey]), stable) == nil && len(stable.Set.Experts) > 0 {
		return stable
	}
	stable = &desired.StableSet{DecompositionDigest: decomposition, Since: metav1.Now().Rfc3339Copy()}
	if json.Unmarshal([]byte(data[contract.ExpertSetKey]), &stable.Set) == nil && len(stable.Set.Experts) > 0 {
		stable.Set.Called, stable.Set.Candidate = "", nil // It is called anew where it is sent.
		return stable
	}
	return nil
}

// stage is how far a rollout is.
type stage struct {
	// promoted says that the candidate is to serve.
	promoted bool
	// reason and message are those of the condition RolledOut, summary that of the status.
	reason, message, summary string
	// failed says that the gate does not let the candidate serve.
	failed bool
	// problem is what keeps the policy from being Ready for all that.
	problem error
	// beside is what pods are to have beside the stable set, nil for nothing.
	beside *contract.CandidateSet
}

// stage takes a rollout a step further. reference is the set that the candidate follows; nil
// is the base.
func (r *Reconciler) stage(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel,
	reference *desired.StableSet, chosen choice,
) (stage, error) {
	now := policy.Status.Rollout
	switch {
	case reference != nil && setDigest(reference.Set) == chosen.digest:
		return promoted(now, chosen), r.endEvaluation(ctx, policy)
	case reference == nil && len(chosen.set.Experts) == 0 && !awaits(chosen.problem):
		return stage{promoted: true, reason: v1alpha1.ReasonPromoted, summary: "Base", message: "There are no experts to evaluate: the base answers"}, r.endEvaluation(ctx, policy)
	case awaits(chosen.problem):
		return awaiting(reference), nil
	}
	passed := stage{
		promoted: true, reason: v1alpha1.ReasonPromoted, summary: "Stable", message: fmt.Sprintf("Expert set %s serves", chosen.digest),
	}
	if desired.Evaluates(policy) {
		found, problem := r.evaluation(ctx, policy, base, reference, chosen)
		if problem != nil {
			if !status.Conclusive(problem) {
				return stage{}, problem
			}
			return evaluating(now, problem, reference), nil
		}
		if passed = judged(policy, found, reference); !passed.promoted {
			return passed, nil
		}
	} else if err := r.endEvaluation(ctx, policy); err != nil {
		return stage{}, err
	}
	if reference == nil { // There is nothing that it could be beside.
		return passed, nil
	}
	return try(policy, reference, chosen, passed), nil
}

// awaits reports whether what a policy asks for is not complete yet, so that the set would be
// another when it is. What only a person mends is not awaited.
func awaits(problem error) bool {
	waiting, ok := problem.(*status.Waiting) //nolint:errorlint // First returns what the steps returned.
	return ok && waiting.Reason != v1alpha1.ReasonProbeUnfittable && waiting.Reason != v1alpha1.ReasonClassifierUntrainable
}

// promoted is the stage of a set that serves.
func promoted(now *v1alpha1.RolloutStatus, chosen choice) stage {
	s := stage{promoted: true, reason: v1alpha1.ReasonPromoted, summary: "Stable"}
	s.message = fmt.Sprintf("Expert set %s serves", chosen.digest)
	if e := now.Evaluation; e != nil && string(e.CandidateDigest) == chosen.digest {
		s = passed(e)
	}
	return s.afterCanary(now.Canary, chosen)
}

// passed is the stage of a set that serves since the gate let it.
func passed(e *v1alpha1.RolloutEvaluation) stage {
	return stage{
		promoted: true, reason: v1alpha1.ReasonPromoted, summary: "Passed " + signed(e.Gate.Gain),
		message: fmt.Sprintf("Expert set %s serves, having passed the gate: %s", e.CandidateDigest, gains(e.Gate, e.StableDigest != "")),
	}
}

// awaiting is the stage of a set that is not evaluated yet, as what it is to have is not all
// there. What is awaited is the policy's problem already.
func awaiting(reference *desired.StableSet) stage {
	return stage{
		reason: v1alpha1.ReasonAwaitingExperts, summary: "Awaiting experts",
		message: "The expert set is evaluated once all of it is there" + meanwhileServed(reference),
	}
}

// evaluating is the stage of a set whose evaluation goes on, or could not be made.
func evaluating(now *v1alpha1.RolloutStatus, problem error, reference *desired.StableSet) stage {
	problem = until(problem, meanwhileServed(reference))
	s := stage{problem: problem, reason: v1alpha1.ReasonEvaluating, summary: "Evaluating", message: problem.Error()}
	if now.Progress != nil {
		s.summary = now.Progress.Summary
	}
	switch e := problem.(type) { //nolint:errorlint // As above.
	case *status.Waiting:
		s.message = e.Message
		if e.Reason != v1alpha1.ReasonEvaluating {
			s.reason = e.Reason
		}
	case *status.Stalled:
		s.reason, s.message, s.summary = e.Reason, e.Message, "Not evaluated"
	}
	return s
}

// meanwhileServed says what serves until a set may.
func meanwhileServed(reference *desired.StableSet) string {
	if reference == nil {
		return ". Until it has passed the gate the base model answers"
	}
	return ". Until it has passed the gate the set before is served"
}

// judged is the stage of a set that was evaluated: it is promoted, or not. One whose
// evaluation has only just ended waits until that is written down.
func judged(policy *v1alpha1.AdaptivePolicy, found evaluated, reference *desired.StableSet) stage {
	e := policy.Status.Rollout.Evaluation
	against := reasonsAgainst(desired.Gate(policy), e)
	if len(against) > 0 {
		instead := "the base model answers"
		if reference != nil {
			instead = "the set before is served on"
		}
		message := fmt.Sprintf("The gate does not let expert set %s serve, and %s: %s. Train or choose the experts otherwise, or ask for less in spec.rollout.gate",
			e.CandidateDigest, instead, strings.Join(against, "; "))
		return stage{
			reason: v1alpha1.ReasonEvaluationFailed, failed: true, summary: "Failed " + signed(e.Gate.Gain), message: message,
			problem: status.Stall(v1alpha1.ReasonEvaluationFailed, "%s", message),
		}
	}
	if found.fresh {
		message := fmt.Sprintf("Expert set %s has passed the gate, and begins to serve: %s", e.CandidateDigest, gains(e.Gate, e.StableDigest != ""))
		return stage{
			reason: v1alpha1.ReasonEvaluated, summary: "Passed " + signed(e.Gate.Gain), message: message,
			problem: status.Wait(v1alpha1.ReasonEvaluated, "%s", message).Again(convergingInterval),
		}
	}
	return passed(e)
}

// withhold is what pods are offered while the candidate may not serve: the stable set, or the
// base alone. A base that has no stable set of its own goes on as another if there is one that
// runs (see holds).
func (c choice) withhold(stable, reference *desired.StableSet) choice {
	c.fits = c.fits && (stable == nil || reference != nil)
	c.stable = reference
	c.set = contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{}}
	if reference != nil {
		c.set = reference.Set
	}
	c.digest = setDigest(c.set)
	offered := map[string]v1alpha1.Digest{}
	for _, ref := range c.set.Refs() {
		offered[ref.Name] = v1alpha1.Digest(ref.Digest)
	}
	c.candidates = append([]candidate(nil), c.candidates...)
	for i := range c.candidates {
		c.candidates[i].withhold(offered)
	}
	if c.classifier != nil {
		classifier := *c.classifier
		classifier.withhold(offered)
		c.classifier = &classifier
	}
	return c
}

// offers are the experts of all that pods are offered, a candidate's among them.
func (c choice) offers() []contract.ExpertRef {
	refs := c.set.Refs()
	if beside := c.set.Candidate; beside != nil {
		refs = append(slices.Clip(refs), beside.Set.Refs()...)
	}
	return refs
}

// withhold marks an expert of which pods are offered another artifact, or none, than the
// policy asks for.
func (c *candidate) withhold(offered map[string]v1alpha1.Digest) {
	c.offered = offered[c.name]
	c.held = c.served && c.offered != c.artifact()
}

// setDigest is what a set is called wherever this operator sends it, whatever it was called
// where it was kept.
func setDigest(set contract.ExpertSet) string {
	digest, err := set.Digest()
	if err != nil {
		return "" // It has numbers that are none: it is no set that is asked for.
	}
	return digest
}

// write writes a stage into the status.
func (s stage) write(policy *v1alpha1.AdaptivePolicy, stable *desired.StableSet, candidate desired.StableSet) {
	now := policy.Status.Rollout
	now.Summary = s.summary
	served, asked := now.Stable, now.Candidate
	now.Stable, now.Candidate = nil, nil
	if stable != nil {
		now.Stable = rolloutSet(*stable, served)
	}
	if !s.promoted {
		now.Candidate = rolloutSet(candidate, asked)
	}
	if s.promoted || s.failed {
		now.Progress = nil
	}
	status.Set(policy, v1alpha1.ConditionRolledOut, s.promoted, s.reason, s.message)
	if s.failed {
		status.Set(policy, v1alpha1.ConditionEvaluationFailed, true, s.reason, s.message)
	} else {
		meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionEvaluationFailed)
	}
}

// rolloutSet is a set by its digests, which is that since it was.
func rolloutSet(set desired.StableSet, was *v1alpha1.RolloutSet) *v1alpha1.RolloutSet {
	s := &v1alpha1.RolloutSet{Digest: v1alpha1.Digest(setDigest(set.Set)), Since: set.Since, DecompositionDigest: set.DecompositionDigest}
	if was != nil && was.Digest == s.Digest && was.DecompositionDigest == s.DecompositionDigest {
		s.Since = was.Since
	}
	for _, ref := range set.Set.Refs() {
		s.Experts = append(s.Experts, v1alpha1.RolloutExpert{Name: ref.Name, Digest: v1alpha1.Digest(ref.Digest)})
	}
	if set.Set.Probe != nil {
		s.ProbeDigest = v1alpha1.Digest(set.Set.Probe.Digest)
	}
	return s
}
