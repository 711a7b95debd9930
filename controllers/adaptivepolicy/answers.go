package adaptivepolicy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
)

// A probe needs nothing but prompts, and a set with a probe is what the gate evaluates; what
// that finds out teaches the next probe, whose set is evaluated once more. There it ends: what
// a probe has learnt from is known by the experts and the questions (desired.Run.Answers), which
// are the same in both evaluations. Where the answers teach nothing the probe is the same to the
// bit, and so is the set.

// learnable are the answers from which the probe of a policy can learn: now, and those that the
// probe there has learnt from, as far as they are of the experts that it is to tell apart. nil
// is none.
func learnable(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, sets []desired.PromptSet, chosen choice) (now, before *contract.EvaluatedAnswers) {
	experts := taughtExperts(sets, chosen.wanted)
	if p := policy.Status.Probe; p != nil && p.Answers != nil && p.BaseDigest == base.Status.Artifact.Digest &&
		all(experts, func(e *v1alpha1.ExpertVector) bool { return slices.Contains(p.Answers.Experts, e.Name) }) {
		before = evaluatedAnswers(p.Answers.ID, p.Answers.Digest, experts)
	}
	if evaluatedNow(policy, base, experts) {
		e := policy.Status.Rollout.Evaluation
		return evaluatedAnswers(e.AnswersID, e.Digest, experts), before
	}
	return before, before
}

// taughtExperts are the experts whose prompts teach the probe, by skill.
func taughtExperts(sets []desired.PromptSet, wanted []*v1alpha1.ExpertVector) []*v1alpha1.ExpertVector {
	var experts []*v1alpha1.ExpertVector
	for _, set := range sets {
		i := slices.IndexFunc(wanted, func(e *v1alpha1.ExpertVector) bool { return e.Spec.Skill == set.Label })
		if set.Label != contract.OthersLabel && i >= 0 {
			experts = append(experts, wanted[i])
		}
	}
	slices.SortFunc(experts, func(a, b *v1alpha1.ExpertVector) int { return cmp.Compare(a.Spec.Skill, b.Spec.Skill) })
	return experts
}

// evaluatedNow reports whether the latest evaluation is of these experts as they are, with this
// base.
func evaluatedNow(policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, experts []*v1alpha1.ExpertVector) bool {
	if policy.Status.Rollout == nil || policy.Status.Rollout.Evaluation == nil || policy.Status.Rollout.Evaluation.AnswersID == "" {
		return false
	}
	return all(experts, func(e *v1alpha1.ExpertVector) bool {
		if e.Status.Artifact == nil || !foreign(policy, e) && e.Status.DecompositionDigest != base.Status.Decomposition.Digest {
			return false
		}
		return slices.ContainsFunc(policy.Status.Rollout.Evaluation.Experts, func(s v1alpha1.ExpertScore) bool {
			return s.Name == e.Name && s.Digest == e.Status.Artifact.Digest
		})
	})
}

// all reports whether there are experts, and something holds of each.
func all(experts []*v1alpha1.ExpertVector, holds func(*v1alpha1.ExpertVector) bool) bool {
	return len(experts) > 0 && !slices.ContainsFunc(experts, func(e *v1alpha1.ExpertVector) bool { return !holds(e) })
}

func evaluatedAnswers(id string, digest v1alpha1.Digest, experts []*v1alpha1.ExpertVector) *contract.EvaluatedAnswers {
	a := &contract.EvaluatedAnswers{ID: id, Digest: string(digest)}
	for _, e := range experts {
		a.Experts = append(a.Experts, contract.EvaluatedExpert{Name: e.Name, Skill: e.Spec.Skill})
	}
	return a
}

// probeAnswers writes what a probe has learnt from answers; nil where there were none.
func probeAnswers(answers *contract.EvaluatedAnswers, lesson *contract.ProbeLesson) *v1alpha1.ProbeAnswers {
	if answers == nil {
		return nil
	}
	a := &v1alpha1.ProbeAnswers{ID: answers.ID, Digest: v1alpha1.Digest(answers.Digest)}
	for _, e := range answers.Experts {
		a.Experts = append(a.Experts, e.Name)
	}
	if lesson == nil {
		return a
	}
	a.Questions = new(int32(max(lesson.Questions, 0)))
	if lesson.Questions > 0 {
		a.Accuracy, a.CalibrationError = score(lesson.After.Right), score(lesson.After.CalibrationError)
		a.PromptsAccuracy, a.PromptsCalibrationError = score(lesson.Before.Right), score(lesson.Before.CalibrationError)
	}
	if lesson.Weight > 0 {
		a.Weight = v1alpha1.Decimal(strconv.FormatFloat(lesson.Weight, 'f', 4, 64))
	}
	return a
}

// learnt says what a probe has learnt from answers.
func learnt(a *v1alpha1.ProbeAnswers) string {
	switch {
	case a == nil:
		return ""
	case a.Questions == nil:
		return ". It has learnt nothing from the evaluation, whose answers it could not read: its run's log says why"
	case *a.Questions == 0:
		return ". No question of the evaluation tells its experts apart"
	case a.Weight == "":
		return fmt.Sprintf(". Of %d questions of the evaluation that tell its experts apart, it sends %s to one that answers right, and has learnt no better from them",
			*a.Questions, percent(a.Accuracy))
	}
	return fmt.Sprintf(". It has learnt from %d questions of the evaluation that tell its experts apart: it sends %s of such to one that answers right, "+
		"and would send %s by the prompts alone", *a.Questions, percent(a.Accuracy), percent(a.PromptsAccuracy))
}
