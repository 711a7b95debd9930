package adaptivepolicy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/runs"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// DefaultPatience is how long after it was fitted pods may miss a probe before it is fitted
// again: a node may see late what another one wrote to a shared volume. It doubles with each
// time that this did not help, up to longestPatience.
const (
	DefaultPatience = 3 * time.Minute
	longestPatience = 5 // Times doubled.
)

// probe is how a policy's probe stands.
type probe struct {
	// current says that it was fitted to the experts and the prompts that the policy has.
	current bool
	// learning says that nothing but what an evaluation has found out since is to be learnt:
	// the set with the probe there is whole, and no more is to come of what was asked for.
	learning bool
}

// fit sees to the Job that fits a policy's probe, and writes what came of it into the
// status. It returns how the probe there stands to the one that the policy asks for, and what
// there is to wait for: until then the one before is served, or the base is asked.
func (r *Reconciler) fit(ctx context.Context, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, chosen choice) (probe, error) {
	selector := client.MatchingLabels(desired.ProbeSelector(policy))
	if policy.Spec.Strategy.Type != v1alpha1.StrategyProbe {
		if err := r.Runner.End(ctx, policy, selector); err != nil {
			return probe{}, err
		}
		policy.Status.Probe = nil
		return probe{}, nil
	}
	sets := desired.PromptSets(policy, chosen.wanted)
	switch {
	case slices.ContainsFunc(chosen.candidates, func(c candidate) bool { return c.state == v1alpha1.ExpertMissing }):
		return probe{}, nil // That is told elsewhere; each that comes would be another run.
	case len(sets) < 2:
		return probe{}, unfittable(chosen)
	}
	digests, problem := r.promptDigests(ctx, policy, sets)
	if problem != nil && !status.Conclusive(problem) {
		return probe{}, problem
	}
	now, before := learnable(policy, base, sets, chosen)
	run, err := desired.Probe(policy, base, sets, now, digests, r.Settings)
	if err != nil {
		return probe{}, err
	}
	known, err := desired.Probe(policy, base, sets, before, digests, r.Settings)
	if err != nil {
		return probe{}, err
	}
	was := policy.Status.Probe
	fitted := was != nil && was.Digest != ""
	switch {
	case problem == nil && fitted && was.RunID == run.ID:
		return probe{current: true}, r.keep(ctx, policy, selector, run, now)
	case problem != nil && fitted && (was.Recipe == run.Recipe || was.Recipe == known.Recipe):
		return probe{current: true}, nil
	case problem != nil:
		return probe{}, until(problem, meanwhileProbe(chosen))
	}
	stands := fitted && was.RunID == known.ID
	if !status.Holds(base, v1alpha1.ConditionDecomposed) || !base.DeletionTimestamp.IsZero() {
		return probe{current: stands}, nil // Told elsewhere, too.
	}
	if err := r.fitting(ctx, policy, selector, run, now); err != nil {
		return probe{current: stands, learning: stands}, until(err, meanwhileProbe(chosen))
	}
	return probe{current: true}, nil
}

// promptDigests are the digests of those sets that ConfigMaps hold, by role.
func (r *Reconciler) promptDigests(ctx context.Context, policy *v1alpha1.AdaptivePolicy, sets []desired.PromptSet) (map[string]string, error) {
	digests := map[string]string{}
	for _, set := range sets {
		digest, err := r.Datasets.Digest(ctx, policy.Namespace, set.Field, *set.Dataset)
		if err != nil {
			return nil, err
		}
		digests[set.Role] = digest
	}
	return digests, nil
}

// keep leaves the probe as it is, and ends what was begun for another, unless pods have
// missed its artifact for long: then it is made again by another Job of the same run.
func (r *Reconciler) keep(ctx context.Context, policy *v1alpha1.AdaptivePolicy, selector client.MatchingLabels, run desired.Run,
	answers *contract.EvaluatedAnswers,
) error {
	now := policy.Status.Probe
	if ended, err := r.Runner.Supersede(ctx, policy, selector, now.Runs, now.RunID); ended || err != nil {
		now.Progress = nil
		return err
	}
	i := slices.IndexFunc(now.Runs, func(r v1alpha1.RunStatus) bool { return r.ID == now.RunID })
	switch {
	case i >= 0 && now.Runs[i].CompletionTime == nil:
		return r.fitting(ctx, policy, selector, run, answers) // It was lost, and is made again.
	case now.State != v1alpha1.ExpertLost:
		return nil
	case i < 0: // Its run is forgotten, after many others.
		return r.fitting(ctx, policy, selector, run, answers)
	}
	was := now.Runs[i]
	times := ptr.Deref(was.Retries, 0)
	patience := cmp.Or(r.Patience, DefaultPatience) << min(times, longestPatience)
	if done := was.CompletionTime; done != nil && time.Since(done.Time) < patience {
		return nil // Pods are asked now and then, and that is waited for.
	}
	if err := r.Runner.End(ctx, policy, selector); err != nil {
		return err
	}
	now.Runs = runs.Remember(now.Runs, v1alpha1.RunStatus{ID: was.ID, JobName: was.JobName, StartTime: was.StartTime, Retries: new(times + 1)})
	return renewing()
}

func renewing() error {
	return status.Wait(v1alpha1.ReasonProbeLost, "Pods do not find the probe in the volume; it is fitted again now").Warn()
}

// fitting sees to the Job that fits a probe, by these answers if there are some.
func (r *Reconciler) fitting(ctx context.Context, policy *v1alpha1.AdaptivePolicy, selector client.MatchingLabels, run desired.Run,
	answers *contract.EvaluatedAnswers,
) error {
	now := cmp.Or(policy.Status.Probe, &v1alpha1.ProbeStatus{})
	forget := func() { now.Progress = nil }
	err := r.perform(ctx, policy, task{
		selector: selector, run: run, container: desired.ContainerProbe, doing: v1alpha1.ReasonFitting, runs: &now.Runs,
		learn:    func(p contract.Progress) { learnFitting(now, p) },
		halt:     forget, // Another pod begins anew.
		forget:   forget,
		describe: func() string { return describeFitting(now.Progress) },
		accept: func(t contract.Termination, job *batchv1.Job) error {
			return acceptProbe(now, run, answers, t.Probe, job)
		},
	})
	if len(now.Runs) > 0 {
		policy.Status.Probe = now
	}
	return err
}

// learnFitting takes how far the fitting of a probe is.
func learnFitting(now *v1alpha1.ProbeStatus, progress contract.Progress) {
	if progress.Phase == "" {
		return
	}
	now.Progress = &v1alpha1.ProbeProgress{Summary: status.Clip(progress.Phase, maxPhase)}
	if progress.Total > 0 {
		now.Progress.Summary += fmt.Sprintf(" %d/%d", progress.Done, progress.Total)
		now.Progress.EstimatedRemainingSeconds = remaining(progress)
	}
}

// maxPhase bounds the word for what a Job does, beside two numbers.
const maxPhase = 20

func describeFitting(p *v1alpha1.ProbeProgress) string {
	if p == nil {
		return "Fitting the probe"
	}
	text := "Fitting the probe: " + p.Summary
	if p.EstimatedRemainingSeconds != nil {
		text += fmt.Sprintf(", about %d s left", *p.EstimatedRemainingSeconds)
	}
	return text
}

// acceptProbe writes what was fitted into the status.
func acceptProbe(now *v1alpha1.ProbeStatus, run desired.Run, answers *contract.EvaluatedAnswers, result *contract.ProbeResult, job *batchv1.Job) error {
	if result == nil || !contract.ValidDigest(result.Digest) || !contract.ValidDigest(result.BaseDigest) || len(result.Labels) < 2 {
		return runs.Silent(job, "found")
	}
	e := result.Evaluation
	*now = v1alpha1.ProbeStatus{
		RunID: run.ID, Recipe: run.Recipe, Runs: now.Runs, State: v1alpha1.ExpertLoading,
		Digest: v1alpha1.Digest(result.Digest), BaseDigest: v1alpha1.Digest(result.BaseDigest), Labels: result.Labels,
		Prompts: int32(max(result.Examples, 0)), HeldOutPrompts: new(int32(max(e.Prompts, 0))),
		Answers:   probeAnswers(answers, result.Lesson),
		Threshold: score(result.Least), DurationSeconds: new(int64(max(result.Seconds, 0) + 0.5)),
	}
	if e.Prompts > 0 {
		now.Accuracy, now.Unsure, now.CalibrationError = score(e.Accuracy), score(e.Unsure), score(e.CalibrationError)
		now.LogLoss = v1alpha1.Decimal(strconv.FormatFloat(max(e.LogLoss, 0), 'f', 4, 64))
	}
	return nil
}

// meanwhileProbe says what is served until a probe is fitted.
func meanwhileProbe(chosen choice) string {
	if chosen.set.Probe != nil {
		return ". Until then the probe of before is served"
	}
	return ". Until then the base is asked which skill a request wants"
}

// unfittable says that there is nothing to fit a probe to.
func unfittable(chosen choice) error {
	return status.Wait(v1alpha1.ReasonProbeUnfittable,
		"Less than two of the policy's skills have training prompts, so that a probe has nothing to tell apart; add experts that are trained "+
			"in the cluster, or prompts of no skill in spec.strategy.probe.others, or take strategy Prompt%s", meanwhileProbe(chosen)).Warn()
}

// useProbe gives a set the policy's probe, if that is of this base and knows one of the
// experts; the base is asked otherwise, as of strategy Prompt. Of the skills that the policy
// is to serve it notes those that the probe does not know.
func useProbe(chosen *choice, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel) {
	if policy.Spec.Strategy.Type != v1alpha1.StrategyProbe {
		return
	}
	now := policy.Status.Probe
	if now == nil || now.Digest == "" || now.BaseDigest != base.Status.Artifact.Digest ||
		!slices.ContainsFunc(chosen.set.Experts, func(e contract.ExpertRef) bool { return slices.Contains(now.Labels, e.Skill) }) {
		chosen.set = chosen.set.WithoutProbe()
		return
	}
	chosen.set.Probe = &contract.ProbeRef{Digest: string(now.Digest)}
	for _, e := range chosen.wanted {
		if !slices.Contains(now.Labels, e.Spec.Skill) {
			chosen.untaught = append(chosen.untaught, e.Spec.Skill)
		}
	}
}

// missesProbe reports whether a pod does not find the probe of the expected set in its
// volume.
func (o *observation) missesProbe(chosen choice) bool {
	e := o.probeError(chosen)
	return e != nil && e.Reason == contract.ReasonExpertMissing
}

// probeError is why a pod does not serve the probe of the expected set; nil where it does, or
// nothing is known.
func (o *observation) probeError(chosen choice) *contract.LoadError {
	p := o.status.Probe
	if !o.current || chosen.set.Probe == nil || p == nil || p.State != contract.ExpertFailed || p.Digest != chosen.set.Probe.Digest {
		return nil
	}
	return p.Error
}

// lostProbe says which pod does not find the probe.
func lostProbe(chosen choice, seen []observation) error {
	for i := range seen {
		if o := &seen[i]; o.missesProbe(chosen) {
			return status.Wait(v1alpha1.ReasonProbeLost,
				"Pod %s does not find the probe in the volume, and asks the base instead. It is fitted again if it stays away: %s",
				o.pod.Name, o.trouble).Warn()
		}
	}
	return nil
}

// probeStatus writes how the probe stands.
func probeStatus(policy *v1alpha1.AdaptivePolicy, chosen choice, seen []observation) {
	if policy.Spec.Strategy.Type != v1alpha1.StrategyProbe {
		meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionProbeCurrent)
		return
	}
	if s := policy.Status.Probe; s != nil {
		s.State, s.Untaught = probeState(chosen, seen), chosen.untaught
	}
	holds, reason, message := probeCurrent(policy, chosen)
	status.Set(policy, v1alpha1.ConditionProbeCurrent, holds, reason, message)
}

func probeState(chosen choice, seen []observation) v1alpha1.ExpertState {
	switch {
	case chosen.set.Probe == nil:
		return ""
	case slices.ContainsFunc(seen, func(o observation) bool { return o.missesProbe(chosen) }):
		return v1alpha1.ExpertLost
	case slices.ContainsFunc(seen, func(o observation) bool { return o.probeError(chosen) != nil }):
		return v1alpha1.ExpertRefused
	case len(seen) > 0 && agree(chosen, seen):
		return v1alpha1.ExpertServed
	default:
		return v1alpha1.ExpertLoading
	}
}

// probeCurrent is the condition ProbeCurrent.
func probeCurrent(policy *v1alpha1.AdaptivePolicy, chosen choice) (holds bool, reason, message string) {
	switch {
	case chosen.set.Probe == nil:
		return false, v1alpha1.ReasonProbeNotReady, "There is no probe that can be served: the base is asked which skill a request wants"
	case !chosen.probed:
		return false, v1alpha1.ReasonProbeStale, "The probe was fitted to other experts or other training data than the policy has, and is served until it is fitted again" +
			untaughtNote(chosen)
	}
	s := policy.Status.Probe
	message = fmt.Sprintf("The probe was fitted to %d training prompts of the policy's experts", s.Prompts)
	if s.Accuracy != "" {
		message += fmt.Sprintf(", and finds the skill of %s of %d others", percent(s.Accuracy), ptr.Deref(s.HeldOutPrompts, 0))
	}
	return true, v1alpha1.ReasonCurrent, message + learnt(s.Answers) + untaughtNote(chosen)
}

func untaughtNote(chosen choice) string {
	if len(chosen.untaught) == 0 {
		return ""
	}
	return fmt.Sprintf(". It does not know %s, which only the name of a model chooses", strings.Join(chosen.untaught, ", "))
}

// percent writes a score for people.
func percent(s v1alpha1.Score) string {
	value := number(v1alpha1.Decimal(s))
	return strconv.FormatFloat(math.Round(1000*value)/10, 'f', -1, 64) + " %"
}
