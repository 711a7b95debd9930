package adaptivepolicy

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/controllers/status"
	"github.com/transformersquared/operator/controllers/status/statustest"
	"github.com/transformersquared/operator/runtime/contract"
)

// probed is a policy whose probe knows math and code.
func probed(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := policy(probing)
	p.Status.Probe = &v1alpha1.ProbeStatus{
		RunID: "run", Digest: digest("f"), BaseDigest: digest("a"), Labels: []string{"code", "math"},
		Prompts: 960, HeldOutPrompts: new(int32(192)), Accuracy: "0.9844",
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// learned says what a probe has learnt from answers.
func learned(a v1alpha1.ProbeAnswers) func(*v1alpha1.AdaptivePolicy) {
	return func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.Answers = &a }
}

// probing makes a policy one of strategy Probe.
func probing(p *v1alpha1.AdaptivePolicy) {
	p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyProbe}
}

// unprobed makes a pod say that it serves all of a set but its probe, and why not that one.
func unprobed(reason, digit string) func(*observation) {
	return func(o *observation) {
		wrong := &contract.LoadError{Digest: digestOf(digit), Reason: reason, Message: "the probe is not in /data/probes: fit it again"}
		o.status.Probe = &contract.ServedProbe{Digest: digestOf(digit), State: contract.ExpertFailed, Error: wrong}
		o.status.Error, o.failure, o.refused, o.trouble = wrong, wrong, true, wrong.Message
	}
}

func TestAPolicyServesTheProbeThatItHas(t *testing.T) {
	both := found(expert("math", taught), expert("code", taught))
	knows := func(labels ...string) func(*v1alpha1.AdaptivePolicy) {
		return func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.Labels = labels }
	}
	for name, tc := range map[string]struct {
		policy   *v1alpha1.AdaptivePolicy
		experts  map[string]*v1alpha1.ExpertVector
		strategy string
		untaught []string
	}{
		"none has been fitted":            {policy(probing), both, contract.StrategyPrompt, nil},
		"one is being fitted":             {policy(probing, func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe = &v1alpha1.ProbeStatus{} }), both, contract.StrategyPrompt, nil},
		"it knows all":                    {probed(), both, contract.StrategyProbe, nil},
		"it knows one of them":            {probed(knows("law", "math")), both, contract.StrategyProbe, []string{"code"}},
		"it knows none of them":           {probed(knows("law", "art")), both, contract.StrategyPrompt, nil},
		"it knows none that is there yet": {probed(knows("code", "law")), found(expert("math"), expert("code", unmade)), contract.StrategyPrompt, nil},
		"it is of another base": {
			probed(func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.BaseDigest = digest("9") }), both, contract.StrategyPrompt, nil,
		},
		"another strategy": {probed(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Type = v1alpha1.StrategyFixed }), both, contract.StrategyFixed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			chosen := choose(tc.policy, readyBase(), tc.experts)
			if chosen.set.Strategy != tc.strategy || (chosen.set.Probe != nil) != (tc.strategy == contract.StrategyProbe) || !slices.Equal(chosen.untaught, tc.untaught) {
				t.Errorf("strategy %s with probe %+v, untaught %q; want %s, %q", chosen.set.Strategy, chosen.set.Probe, chosen.untaught, tc.strategy, tc.untaught)
			}
		})
	}
}

func TestASetHasWhatAProbesChoiceIsBoundedBy(t *testing.T) {
	p := probed(func(p *v1alpha1.AdaptivePolicy) {
		p.Spec.Strategy.Probe = &v1alpha1.ProbeStrategy{MinProbability: "0.4", TopK: 2}
		p.Spec.Strategy.Fallback = &v1alpha1.Fallback{Type: v1alpha1.FallbackExpert, Name: "code"}
	})
	set := choose(p, readyBase(), found(expert("math"), expert("code"))).set
	if set.MinProbability != 0.4 || set.TopK != 2 || set.Fallback != "code" {
		t.Errorf("%+v", set)
	}
}

// TestHowAProbeStands: only one that a pod of this base misses is lost.
func TestHowAProbeStands(t *testing.T) {
	chosen := choose(probed(), readyBase(), found(expert("math"), expert("code")))
	for _, tc := range []struct {
		name string
		seen []observation
		want v1alpha1.ExpertState
		said string
	}{
		{"no pod", nil, v1alpha1.ExpertLoading, ""},
		{"all have it", []observation{serving("p", chosen.digest)}, v1alpha1.ExpertServed, ""},
		{"one has not loaded it", []observation{serving("p", chosen.digest), serving("q", "before")}, v1alpha1.ExpertLoading, "Waiting LoadingExperts"},
		{"its folder is gone", []observation{serving("p", "less", unprobed(contract.ReasonExpertMissing, "f"))}, v1alpha1.ExpertLost, "Waiting ProbeLost"},
		{"it is damaged", []observation{serving("p", "less", unprobed(contract.ReasonDigestMismatch, "f"))}, v1alpha1.ExpertRefused, "Waiting ExpertSetRefused"},
		{"the one before is gone", []observation{serving("p", "less", unprobed(contract.ReasonExpertMissing, "7"))}, v1alpha1.ExpertLoading, "Waiting ExpertSetRefused"},
		{
			"a pod of the base before misses it",
			[]observation{serving("p", "less", unprobed(contract.ReasonExpertMissing, "f"), oldBase)}, v1alpha1.ExpertLoading, "Waiting ExpertSetRefused",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := probeState(chosen, tc.seen); got != tc.want {
				t.Errorf("the probe is %s, want %s", got, tc.want)
			}
			if got := verdict(loaded(chosen, tc.seen)); got != tc.said {
				t.Errorf("it says %q, want %q", got, tc.said)
			}
		})
	}
}

// TestProbeStatusEndsWithTheStrategy: what is no more is not told.
func TestProbeStatusEndsWithTheStrategy(t *testing.T) {
	p := policy()
	status.Set(p, v1alpha1.ConditionProbeCurrent, true, v1alpha1.ReasonCurrent, "")
	probeStatus(p, choose(p, readyBase(), found(expert("math"), expert("code"))), nil)
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionProbeCurrent); c != nil {
		t.Errorf("condition %+v", c)
	}
}

func TestAResultThatIsNoneIsNotTaken(t *testing.T) {
	valid := contract.ProbeResult{Digest: digestOf("f"), BaseDigest: digestOf("a"), Labels: []string{"code", "math"}, Examples: 96, Least: 0.75}
	for name, change := range map[string]func(*contract.ProbeResult){
		"no digest":    func(r *contract.ProbeResult) { r.Digest = "" },
		"of no base":   func(r *contract.ProbeResult) { r.BaseDigest = "x" },
		"of one label": func(r *contract.ProbeResult) { r.Labels = r.Labels[:1] },
	} {
		result, now := valid, v1alpha1.ProbeStatus{}
		change(&result)
		if err := acceptProbe(&now, desired.Run{ID: "run"}, nil, &result, &batchv1.Job{}); reasonOf(err) != contract.ReasonInternal || now.RunID != "" {
			t.Errorf("%s: %v, %+v", name, err, now)
		}
	}
	var now v1alpha1.ProbeStatus
	if err := acceptProbe(&now, desired.Run{ID: "run"}, nil, &valid, &batchv1.Job{}); err != nil || now.Digest != digest("f") || now.Threshold != "0.7500" || now.Accuracy != "" {
		t.Errorf("%v, %+v", err, now)
	}
}

// probeMessages is TestMessages' part about probes.
func probeMessages(t *testing.T) (all []statustest.Message) {
	t.Helper()
	there := found(expert("math", taught), expert("code", taught))
	one := []observation{serving("p1", "set")}
	none := choose(policy(probing), readyBase(), there)
	some := choose(probed(), readyBase(), there)
	failed := func(name string, err error) { all = append(all, statustest.Of(name, status.Ready{}, err)) }
	progress := &v1alpha1.ProbeProgress{Summary: "Reading 120/1152", EstimatedRemainingSeconds: new(int64(9))}
	failed("the first probe is fitted", until(status.Wait(v1alpha1.ReasonFitting, "%s", describeFitting(nil)), meanwhileProbe(none)))
	failed("a probe is fitted again, and a pod says how far", until(status.Wait(v1alpha1.ReasonFitting, "%s", describeFitting(progress)), meanwhileProbe(some)))
	failed("there is nothing to fit a probe to", unfittable(none))
	failed("a pod misses the probe", loaded(some, []observation{serving("p2", "less", unprobed(contract.ReasonExpertMissing, "f"))}))
	failed("pods have missed the probe for long", renewing())
	for _, tc := range []struct {
		name    string
		policy  *v1alpha1.AdaptivePolicy
		experts map[string]*v1alpha1.ExpertVector
		current bool
	}{
		{"there is no probe", policy(probing), there, false},
		{"the probe is for the policy's experts", probed(), there, true},
		{"the probe is for other experts", probed(func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.Labels = []string{"math", "law"} }), there, false},
		{"the probe cannot know an expert", probed(func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.Labels = []string{"math", "others"} }), there, true},
		{"the probe has learnt from answers", probed(learned(v1alpha1.ProbeAnswers{
			Questions: new(int32(40)), Weight: "0.2500", Accuracy: "0.8250", PromptsAccuracy: "0.5500",
		})), there, true},
		{"the probe has learnt no better from answers", probed(learned(v1alpha1.ProbeAnswers{Questions: new(int32(40)), Accuracy: "0.9250"})), there, true},
		{"no answers tell the experts apart", probed(learned(v1alpha1.ProbeAnswers{Questions: new(int32(0))})), there, true},
		{"the answers could not be read", probed(learned(v1alpha1.ProbeAnswers{})), there, true},
		{"the probe was not evaluated", probed(func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.Accuracy = "" }), there, true},
	} {
		chosen := choose(tc.policy, readyBase(), tc.experts)
		chosen.probed = tc.current
		probeStatus(tc.policy, chosen, one)
		c := meta.FindStatusCondition(tc.policy.Status.Conditions, v1alpha1.ConditionProbeCurrent)
		all = append(all, statustest.Message{Case: tc.name + " (ProbeCurrent)", Ready: c.Status == metav1.ConditionTrue, Reason: c.Reason, Text: c.Message})
	}
	return all
}

// TestALostProbeIsFittedAgainAfterAWhile, each time after a longer one.
func TestALostProbeIsFittedAgainAfterAWhile(t *testing.T) {
	for _, tc := range []struct {
		name    string
		state   v1alpha1.ExpertState
		ago     time.Duration
		retries int32
		again   bool
	}{
		{"it is served", v1alpha1.ExpertServed, time.Hour, 0, false},
		{"it was fitted a moment ago", v1alpha1.ExpertLost, time.Minute, 0, false},
		{"it has been away for long", v1alpha1.ExpertLost, 4 * time.Minute, 0, true},
		{"it was fitted again, which did not help", v1alpha1.ExpertLost, 4 * time.Minute, 1, false},
		{"that is long ago", v1alpha1.ExpertLost, 7 * time.Minute, 1, true},
		{"nothing ever helps", v1alpha1.ExpertLost, 90 * time.Minute, 40, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := probed(func(p *v1alpha1.AdaptivePolicy) {
				p.Status.Probe.State = tc.state
				p.Status.Probe.Runs = []v1alpha1.RunStatus{{
					ID: "run", JobName: "assistant-1", Result: "Succeeded", CompletionTime: new(metav1.NewTime(time.Now().Add(-tc.ago))), Retries: new(tc.retries),
				}}
			})
			r := &Reconciler{}
			r.Runner.Client = clientOf(t, p)
			err := r.keep(t.Context(), p, desired.ProbeSelector(p), desired.Run{ID: "run"}, nil)
			if again := reasonOf(err) == v1alpha1.ReasonProbeLost; again != tc.again || err != nil && !again {
				t.Errorf("again: %v (%v), want %v", again, err, tc.again)
			}
			if latest := p.Status.Probe.Runs[0]; tc.again && (latest.CompletionTime != nil || *latest.Retries != tc.retries+1 || len(p.Status.Probe.Runs) != 1) {
				t.Errorf("the run is %+v", latest)
			}
		})
	}
}

// TestFromWhichAnswersAProbeCanLearn: of an evaluation of the experts as they are, or else of
// what it has learnt from before.
func TestFromWhichAnswersAProbeCanLearn(t *testing.T) {
	evaluation := func(p *v1alpha1.AdaptivePolicy) {
		p.Status.Rollout = &v1alpha1.RolloutStatus{Evaluation: &v1alpha1.RolloutEvaluation{AnswersID: "new", Digest: digest("5")}}
		for name, e := range found(expert("math", taught), expert("code", taught)) {
			p.Status.Rollout.Evaluation.Experts = append(p.Status.Rollout.Evaluation.Experts, v1alpha1.ExpertScore{Name: name, Digest: e.Status.Artifact.Digest})
		}
	}
	earlier := learned(v1alpha1.ProbeAnswers{ID: "old", Digest: digest("4"), Experts: []string{"code", "math"}})
	retrained := func(e *v1alpha1.ExpertVector) { e.Status.Artifact.Digest = digest("8") }
	both := found(expert("math", taught), expert("code", taught))
	for name, tc := range map[string]struct {
		policy      *v1alpha1.AdaptivePolicy
		experts     map[string]*v1alpha1.ExpertVector
		now, before string
	}{
		"nothing was evaluated":                    {probed(), both, "", ""},
		"it was evaluated":                         {probed(evaluation), both, "new", ""},
		"before there is a probe":                  {policy(probing, evaluation), both, "new", ""},
		"it has learnt from what was before":       {probed(evaluation, earlier), both, "new", "old"},
		"an expert was trained anew":               {probed(evaluation, earlier), found(expert("math", taught), expert("code", taught, retrained)), "old", "old"},
		"an expert was trained anew, first":        {probed(evaluation), found(expert("math", taught), expert("code", taught, retrained)), "", ""},
		"an expert is not trained yet":             {probed(evaluation), found(expert("math", taught), expert("code", taught, unmade)), "", ""},
		"by an operator that did not note answers": {probed(evaluation, func(p *v1alpha1.AdaptivePolicy) { p.Status.Rollout.Evaluation.AnswersID = "" }), both, "", ""},
		"the probe is of another base": {
			probed(earlier, func(p *v1alpha1.AdaptivePolicy) { p.Status.Probe.BaseDigest = digest("9") }), both, "", "",
		},
		"one has never answered": {
			probed(learned(v1alpha1.ProbeAnswers{ID: "old", Digest: digest("4"), Experts: []string{"code"}})), both, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			chosen := choose(tc.policy, readyBase(), tc.experts)
			now, before := learnable(tc.policy, readyBase(), desired.PromptSets(tc.policy, chosen.wanted), chosen)
			id := func(a *contract.EvaluatedAnswers) string {
				if a == nil {
					return ""
				}
				if !slices.Equal(a.Experts, []contract.EvaluatedExpert{{Name: "code", Skill: "code"}, {Name: "math", Skill: "math"}}) {
					t.Errorf("experts %+v", a.Experts)
				}
				return a.ID
			}
			if id(now) != tc.now || id(before) != tc.before {
				t.Errorf("now %q and before %q, want %q and %q", id(now), id(before), tc.now, tc.before)
			}
		})
	}
}
