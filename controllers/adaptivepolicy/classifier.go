package adaptivepolicy

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/runtime/contract"
)

// classifier is what pass 1 of a policy runs with.
type classifier struct {
	candidate
	// own says that the policy trains it.
	own      bool
	untaught []string
}

// trainedFor is the question that its artifact was trained to answer; empty where
// there is none, or it is not known.
func (c *classifier) trainedFor() v1alpha1.Digest {
	if c.expert == nil || c.expert.Status.Artifact == nil {
		return ""
	}
	return c.expert.Status.Artifact.TrainedFor
}

// stale reports whether it was trained for another question than the policy asks.
func (c *classifier) stale(question string) bool {
	return c.trainedFor() != "" && string(c.trainedFor()) != question
}

// trainClassifier sees to the ExpertVector that a policy asks to be trained as its
// classifier, and puts it among those that were found; one that is not asked for any
// more is deleted. A policy whose experts have nothing to teach keeps the one it has.
func (r *Reconciler) trainClassifier(ctx context.Context, policy *v1alpha1.AdaptivePolicy, chosen choice,
	found map[string]*v1alpha1.ExpertVector,
) error {
	name := policy.OwnClassifierName()
	if !trainsClassifier(policy) {
		if old := found[name]; old != nil && metav1.IsControlledBy(old, policy) && old.DeletionTimestamp.IsZero() {
			return r.Applier.Delete(ctx, old)
		}
		return nil
	}
	if desired.TaughtSkills(policy, chosen.wanted) < 2 {
		return nil
	}
	config, _, err := desired.Classifier(policy, chosen.wanted)
	if err != nil {
		return err
	}
	live := &v1alpha1.ExpertVector{}
	if err := r.Applier.Apply(ctx, policy, live, config); err != nil {
		return err
	}
	found[name] = live
	return nil
}

func trainsClassifier(policy *v1alpha1.AdaptivePolicy) bool {
	s := policy.Spec.Strategy
	return s.Type == v1alpha1.StrategyClassifier && s.Classifier != nil && s.Classifier.Train != nil
}

// classify decides what pass 1 runs with, and returns what keeps the policy from
// being Ready for that. Where there is no classifier that can be served, pass 1 runs
// with the base weights.
func classify(chosen *choice, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, found map[string]*v1alpha1.ExpertVector) error {
	name := policy.ClassifierName()
	if name == "" {
		return nil
	}
	c := &classifier{candidate: candidate{name: name, expert: found[name], named: true}, own: trainsClassifier(policy)}
	chosen.classifier = c
	wanted := contract.ExpertSet{PromptTemplate: chosen.set.PromptTemplate, RequestTokens: chosen.set.RequestTokens}
	for _, e := range chosen.wanted {
		wanted.Experts = append(wanted.Experts, contract.ExpertRef{Skill: e.Spec.Skill, Description: e.Spec.Description})
		if c.own && (e.Spec.Training == nil || e.Spec.Training.Dataset.Skills != nil) {
			c.untaught = append(c.untaught, e.Spec.Skill)
		}
	}
	question, err := wanted.Pass1().Digest()
	if err != nil {
		return err
	}
	chosen.question = question
	trainable := desired.TaughtSkills(policy, chosen.wanted) >= 2
	problem := judgeClassifier(c, policy, base, question, trainable)
	chosen.fits = chosen.fits && c.state != v1alpha1.ExpertMismatch
	if !c.served {
		chosen.set = chosen.set.WithoutClassifier()
		return problem
	}
	ref := reference(&c.candidate)
	ref.Description = "" // Nobody is shown it.
	chosen.set.Classifier = &ref
	if c.own && !trainable {
		return untrainable()
	}
	return problem
}

// judgeClassifier sets whether a classifier is served, and returns what is wrong with
// it.
func judgeClassifier(c *classifier, policy *v1alpha1.AdaptivePolicy, base *v1alpha1.BaseModel, question string, trainable bool) error {
	const meanwhile = ". Until then pass 1 runs with the base weights"
	e := c.expert
	switch {
	case (e == nil || !e.DeletionTimestamp.IsZero()) && c.own:
		c.state, c.expert = v1alpha1.ExpertMissing, nil
		if !trainable {
			return untrainable()
		}
		return status.Wait(v1alpha1.ReasonClassifierNotReady, "Waiting for ExpertVector %s to be made%s", c.name, meanwhile)
	case e == nil || !e.DeletionTimestamp.IsZero():
		c.state, c.expert = v1alpha1.ExpertMissing, nil
		return status.Wait(v1alpha1.ReasonClassifierNotReady,
			"ExpertVector %s (spec.strategy.classifier.expertRef) is not there; make it%s", c.name, meanwhile)
	case e.Spec.Role != v1alpha1.RoleDispatcher:
		c.state = v1alpha1.ExpertMismatch
		return status.Stall(v1alpha1.ReasonNoDispatcher,
			"ExpertVector %s (spec.strategy.classifier.expertRef) is no dispatcher, and pass 1 runs with the base weights; set its spec.role to Dispatcher, or name another",
			c.name)
	case foreign(policy, e) && !transfers(policy):
		c.state = v1alpha1.ExpertMismatch
		return status.Stall(v1alpha1.ReasonExpertOfAnotherBase,
			"ExpertVector %s (spec.strategy.classifier.expertRef) belongs to BaseModel %s, the policy to %s; name another, or set spec.transfer to EqualShape to use it all the same if its matrices have the shapes of this base's",
			c.name, e.Spec.BaseModelRef.Name, policy.Spec.BaseModelRef.Name)
	case c.own && e.Status.Artifact == nil:
		c.state = v1alpha1.ExpertNotReady
		return status.Wait(v1alpha1.ReasonClassifierNotReady, "Waiting for ExpertVector %s: %s%s",
			c.name, status.Tidy(status.Explain(e)), meanwhile)
	}
	if foreign(policy, e) {
		c.from = e.Spec.BaseModelRef.Name
	}
	err := fitness(&c.candidate, base, func() (bool, error) { return dispatchesWell(c, policy) })
	if c.own && c.served && c.stale(question) {
		c.state = v1alpha1.ExpertUpdating
		return status.Wait(v1alpha1.ReasonClassifierStale,
			"The classifier was trained for other experts than the policy has, and is served until it has been trained again: %s",
			status.Explain(e))
	}
	return err
}

// dispatchesWell reports whether a classifier finds the skill at least as often as the
// base weights do. How far experts must be above the base is another matter: only a
// gate that lets worse ones pass lets worse classifiers pass.
func dispatchesWell(c *classifier, policy *v1alpha1.AdaptivePolicy) (bool, error) {
	if above(c.expert, "0") || gained(policy, c.expert) {
		return true, nil
	}
	score, baseline := c.expert.Status.Score, c.expert.Status.BaselineScore
	if !status.IsReady(c.expert) {
		return false, status.Wait(v1alpha1.ReasonClassifierNotReady,
			"ExpertVector %s finds the skill of %s of the prompts, the base weights of %s: pass 1 runs with these. Waiting for its next run: %s",
			c.name, score, baseline, status.Explain(c.expert))
	}
	return false, status.Stall(v1alpha1.ReasonBelowBaseline,
		"ExpertVector %s finds the skill of %s of the prompts, the base weights of %s: pass 1 runs with these; change its training, or take strategy Prompt",
		c.name, score, baseline)
}

// untrainable says that there is nothing to train a classifier with.
func untrainable() error {
	return status.Wait(v1alpha1.ReasonClassifierUntrainable,
		"Less than two of the policy's skills have training prompts, so that a classifier has nothing to tell apart; "+
			"add experts that are trained in the cluster, or prompts of no skill in spec.strategy.classifier.train.others").Warn()
}

// classifierStatus writes how the classifier stands.
func classifierStatus(policy *v1alpha1.AdaptivePolicy, chosen choice, seen []observation) {
	c := chosen.classifier
	if c == nil {
		policy.Status.Classifier = nil
		meta.RemoveStatusCondition(&policy.Status.Conditions, v1alpha1.ConditionClassifierCurrent)
		return
	}
	s := &v1alpha1.PolicyClassifier{
		Expert: c.name, State: c.state, TrainedFor: c.trainedFor(), Question: v1alpha1.Digest(chosen.question),
		Stale: new(c.stale(chosen.question)), Untaught: c.untaught,
	}
	if c.expert != nil && c.from == "" {
		s.Score, s.BaselineScore = c.expert.Status.Score, c.expert.Status.BaselineScore
	}
	if c.served {
		s.Digest = c.expert.Status.Artifact.Digest
		if s.State == v1alpha1.ExpertLoading && len(seen) > 0 && agree(chosen, seen) {
			s.State = v1alpha1.ExpertServed
		}
		if c.held {
			s.State, s.Digest = v1alpha1.ExpertHeld, c.offered
		}
	}
	policy.Status.Classifier = s
	markClassifierLost(policy, seen)
	setClassifierCurrent(policy, c, s)
}

// markClassifierLost writes whether a pod misses the classifier's artifact.
func markClassifierLost(policy *v1alpha1.AdaptivePolicy, seen []observation) {
	if c := policy.Status.Classifier; c != nil {
		one := []v1alpha1.PolicyExpertStatus{{Name: c.Expert, State: c.State, Digest: c.Digest}}
		markLost(one, seen)
		c.State = one[0].State
	}
}

// setClassifierCurrent writes the condition ClassifierCurrent.
func setClassifierCurrent(policy *v1alpha1.AdaptivePolicy, c *classifier, s *v1alpha1.PolicyClassifier) {
	holds := false
	var reason, message string
	switch {
	case s.Digest == "":
		reason, message = v1alpha1.ReasonClassifierNotReady, "There is no classifier that can be served: pass 1 runs with the base weights"
	case *s.Stale && c.own:
		reason, message = v1alpha1.ReasonClassifierStale, "ExpertVector "+c.name+" was trained for other experts than the policy has, and is trained again"
	case *s.Stale:
		reason, message = v1alpha1.ReasonClassifierStale, "ExpertVector "+c.name+" was trained for other skills, descriptions or another template than the policy has; "+
			"train it for these, or let the policy do so by spec.strategy.classifier.train"
	case s.TrainedFor == "":
		reason, message = v1alpha1.ReasonClassifierUnknown, "Nothing is known of the skills that ExpertVector "+c.name+" was trained for"
	default:
		holds, reason, message = true, v1alpha1.ReasonCurrent, "ExpertVector "+c.name+" was trained for the policy's skills"
		if len(s.Untaught) > 0 {
			message += fmt.Sprintf(", without prompts of %s, whose experts were imported", strings.Join(s.Untaught, ", "))
		}
	}
	status.Set(policy, v1alpha1.ConditionClassifierCurrent, holds, reason, message)
}
