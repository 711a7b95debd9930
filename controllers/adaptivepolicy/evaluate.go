package adaptivepolicy

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// evaluated is the evaluation of a candidate, which the status has.
type evaluated struct {
	// fresh says that the status has it since this reconciliation.
	fresh bool
}

// evaluation sees to the evaluation of a candidate beside the set that it follows, and writes
// what came of it into the status. It returns what there is to wait for until then. What was
// evaluated is not evaluated again.
func (r *Reconciler) evaluation(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel,
	reference *desired.StableSet, chosen choice,
) (evaluated, error) {
	refs := chosen.set.Refs()
	var before *contract.ExpertSet
	if reference != nil {
		before, refs = &reference.Set, slices.Concat(refs, reference.Set.Refs())
	}
	donors, err := r.donors(ctx, policy, refs)
	if err != nil {
		return evaluated{}, err
	}
	digests, problem := r.evaluationDigests(ctx, policy)
	if problem != nil && !status.Conclusive(problem) {
		return evaluated{}, problem
	}
	run, err := desired.Evaluation(policy, base, donors, before, chosen.set, digests, r.Settings)
	if err != nil {
		return evaluated{}, err
	}
	selector := client.MatchingLabels(desired.EvaluationSelector(policy))
	now := policy.Status.Rollout
	if e := now.Evaluation; e != nil && (problem == nil && e.RunID == run.ID || problem != nil && e.Recipe == run.Recipe) {
		now.Progress = nil
		if problem == nil {
			_, err = r.Runner.Supersede(ctx, policy, selector, now.Runs, run.ID)
		}
		return evaluated{}, err
	}
	if problem != nil {
		return evaluated{}, problem
	}
	if !status.Holds(base, v1alpha1.ConditionDecomposed) || !base.DeletionTimestamp.IsZero() {
		return evaluated{}, baseNotReady(base)
	}
	return evaluated{fresh: true}, r.perform(ctx, policy, task{
		selector: selector, run: run, container: desired.ContainerEvaluate, doing: v1alpha1.ReasonEvaluating, runs: &now.Runs,
		learn: func(p contract.Progress) { learnEvaluation(now, p) },
		halt: func() {
			if now.Progress != nil {
				now.Progress.EstimatedRemainingSeconds = nil
			}
		},
		forget:   func() { now.Progress = nil },
		describe: func() string { return describeEvaluation(now.Progress) },
		accept: func(t contract.Termination, job *batchv1.Job) error {
			return acceptEvaluation(policy, run, before, chosen, t.Evaluation, job)
		},
	})
}

// endEvaluation ends an evaluation that goes on of a set that nobody asks for any more.
func (r *Reconciler) endEvaluation(ctx context.Context, policy *v1alpha1.AdaptivePolicy) error {
	_, err := r.Runner.Supersede(ctx, policy, client.MatchingLabels(desired.EvaluationSelector(policy)), policy.Status.Rollout.Runs, "")
	return err
}

// evaluationDigests are the digests of those data sets that ConfigMaps hold, by role.
func (r *Reconciler) evaluationDigests(ctx context.Context, policy *v1alpha1.AdaptivePolicy) (map[string]string, error) {
	digests := map[string]string{}
	for _, set := range desired.EvaluationSets(policy) {
		digest, err := r.Datasets.Digest(ctx, policy.Namespace, set.Field, *set.Dataset)
		if err != nil {
			return nil, err
		}
		digests[set.Role] = digest
	}
	return digests, nil
}

// learnEvaluation takes how far an evaluation is.
func learnEvaluation(now *v1alpha1.RolloutStatus, progress contract.Progress) {
	if progress.Phase == "" {
		return
	}
	now.Progress = &v1alpha1.EvaluationProgress{Summary: status.Clip(progress.Phase, maxPhase)}
	if progress.Total > 0 {
		now.Progress.Summary += fmt.Sprintf(" %d/%d", progress.Done, progress.Total)
		now.Progress.EstimatedRemainingSeconds = remaining(progress)
	}
}

func describeEvaluation(p *v1alpha1.EvaluationProgress) string {
	const what = "Evaluating the expert set"
	if p == nil {
		return what
	}
	text := what + ": " + strings.TrimPrefix(p.Summary, "Evaluating ")
	if p.EstimatedRemainingSeconds != nil {
		text += fmt.Sprintf(", about %d s left", *p.EstimatedRemainingSeconds)
	}
	return text
}

// acceptEvaluation writes what an evaluation found into the status.
func acceptEvaluation(policy *v1alpha1.AdaptivePolicy, run desired.Run, before *contract.ExpertSet, chosen choice,
	result *contract.EvaluationResult, job *batchv1.Job,
) error {
	guards := desired.Gate(policy).Guards
	if result == nil || !contract.ValidDigest(result.Digest) || len(result.Sets) != 1+len(guards) || len(result.Experts) != len(chosen.set.Experts) ||
		slices.ContainsFunc(result.Sets, func(s contract.SetScores) bool { return !sensible(s) }) {
		return runs.Silent(job, "found")
	}
	e := &v1alpha1.RolloutEvaluation{
		RunID: run.ID, Recipe: run.Recipe, AnswersID: run.Answers, CandidateDigest: v1alpha1.Digest(chosen.digest), Digest: v1alpha1.Digest(result.Digest),
		Gate: evaluationResult(result.Sets[0], before != nil), DurationSeconds: new(int64(max(result.Seconds, 0) + 0.5)),
	}
	if before != nil {
		e.StableDigest = v1alpha1.Digest(setDigest(*before))
	}
	for i, g := range guards {
		e.Guards = append(e.Guards, v1alpha1.GuardResult{Name: g.Name, Result: evaluationResult(result.Sets[1+i], before != nil)})
	}
	for i, right := range result.Experts {
		ref := chosen.set.Experts[i]
		e.Experts = append(e.Experts, v1alpha1.ExpertScore{Name: ref.Name, Digest: v1alpha1.Digest(ref.Digest), Score: share(right, result.Sets[0].Questions)})
	}
	policy.Status.Rollout.Evaluation = e
	return nil
}

// sensible reports whether scores can be some.
func sensible(s contract.SetScores) bool {
	within := func(n int) bool { return n >= 0 && n <= s.Questions }
	return s.Questions > 0 && within(s.Base) && within(s.Stable) && within(s.Candidate) && s.Won >= 0 && s.Won <= s.Candidate && s.Lost >= 0 &&
		s.Candidate+s.Lost <= s.Questions
}

// evaluationResult writes scores. follows says that a set served before.
func evaluationResult(s contract.SetScores, follows bool) v1alpha1.EvaluationResult {
	gain, low, high := s.Gain()
	r := v1alpha1.EvaluationResult{
		Questions: int32(s.Questions), BaselineScore: share(s.Base, s.Questions), Score: share(s.Candidate, s.Questions),
		Gain: difference(gain), GainLow: difference(low), GainHigh: difference(high), DatasetDigest: v1alpha1.Digest(s.DatasetDigest),
	}
	if follows {
		r.StableScore = share(s.Stable, s.Questions)
	}
	return r
}

func share(right, of int) v1alpha1.Score { return score(float64(right) / float64(of)) }

// difference writes a gain with four decimals.
func difference(x float64) v1alpha1.Gain {
	text := strconv.FormatFloat(x, 'f', 4, 64)
	if text == "-0.0000" {
		text = "0.0000"
	}
	return v1alpha1.Gain(text)
}

// signed writes a gain for people, with its sign and two decimals.
func signed(g v1alpha1.Gain) string {
	value, _ := strconv.ParseFloat(string(g), 64) // The operator wrote it.
	text := strconv.FormatFloat(value, 'f', 2, 64)
	if value >= 0 {
		return "+" + text
	}
	return text
}

// gains says in words what was found by a data set.
func gains(r v1alpha1.EvaluationResult, follows bool) string {
	who, before := "the base model", r.BaselineScore
	if follows {
		who, before = "the set before", r.StableScore
	}
	return fmt.Sprintf("its score by %d questions is %s and that of %s %s, a gain of %s (from %s to %s with a confidence of 0.95)", r.Questions, r.Score, who, before, r.Gain, r.GainLow, r.GainHigh)
}

// reasonsAgainst are what the gate has against a set, by its evaluation: nothing of one that
// may serve. The numbers are compared as they are written.
func reasonsAgainst(gate *v1alpha1.RolloutGate, e *v1alpha1.RolloutEvaluation) []string {
	var against []string
	follows := e.StableDigest != ""
	if least := cmp.Or(gate.MinGain, "0"); rational(e.Gate.Gain).Cmp(rational(least)) < 0 {
		against = append(against, fmt.Sprintf("%s, below %s (spec.rollout.gate.minGain)", gains(e.Gate, follows), least))
	}
	for i := range min(len(gate.Guards), len(e.Guards)) { // The same run has the same guards.
		most, found := cmp.Or(gate.Guards[i].MaxLoss, "0"), e.Guards[i].Result
		loss := new(big.Rat).Neg(rational(found.Gain))
		if loss.Cmp(rational(most)) > 0 {
			against = append(against, fmt.Sprintf("by guard %s, %s, which loses more than %s (spec.rollout.gate.guards[%d].maxLoss)",
				gate.Guards[i].Name, gains(found, follows), most, i))
		}
	}
	return against
}

// rational is the value of a number as it is written; the schema has checked that it is one.
func rational[T ~string](text T) *big.Rat {
	value, ok := new(big.Rat).SetString(strings.TrimSpace(string(text)))
	if !ok {
		return new(big.Rat)
	}
	return value
}
