package desired

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/runtime/contract"
)

// probing is a policy of strategy Probe that has prompts of no skill.
func probing(change ...func(*v1alpha1.AdaptivePolicy)) *v1alpha1.AdaptivePolicy {
	p := policy()
	p.Spec.Strategy = v1alpha1.Strategy{Type: v1alpha1.StrategyProbe, Probe: &v1alpha1.ProbeStrategy{
		MaxPrompts: 512,
		Others:     &v1alpha1.Dataset{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "o.jsonl"}, Format: v1alpha1.FormatPairs},
	}}
	for _, c := range change {
		c(p)
	}
	return p
}

// TestProbesLearnFromTrainingPromptsAlone: of experts that have some, by skill, others last.
func TestProbesLearnFromTrainingPromptsAlone(t *testing.T) {
	art := expertVector()
	art.Name, art.Spec.Skill = "art", "art"
	sets := PromptSets(probing(), append(skilled(), art)) // The expert law was imported.
	var got []string
	for _, s := range sets {
		got = append(got, s.Role+" "+s.Label+": "+s.Field)
	}
	want := []string{
		"skill-0 art: spec.training.dataset.train of ExpertVector art", "skill-1 math: spec.training.dataset.train of ExpertVector math",
		"others others: spec.strategy.probe.others",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if sets[0].Dataset != &art.Spec.Training.Dataset.Train {
		t.Errorf("%s is taught by %+v", sets[0].Label, sets[0].Dataset)
	}
}

// TestAProbeIsAnotherForOtherPrompts, and for nothing else.
func TestAProbeIsAnotherForOtherPrompts(t *testing.T) {
	run := func(digestOfMath string, p *v1alpha1.AdaptivePolicy, change func(*v1alpha1.ExpertVector), base *v1alpha1.BaseModel) Run {
		t.Helper()
		experts := skilled()
		change(experts[0])
		r, err := Probe(p, base, PromptSets(p, experts), nil, map[string]string{"skill-0": digest(digestOfMath)}, settings)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	same := func(*v1alpha1.ExpertVector) {}
	was := run("9", probing(), same, baseModel())
	for name, tc := range map[string]struct {
		run                          Run
		sameRun, sameRecipe, sameJob bool
	}{
		"nothing":       {run("9", probing(), same, baseModel()), true, true, true},
		"other content": {run("8", probing(), same, baseModel()), false, true, false},
		"another ConfigMap of the same content": {
			run("9", probing(), func(e *v1alpha1.ExpertVector) { e.Spec.Training.Dataset.Train.ConfigMap.Name = "copy" }, baseModel()), true, false, false,
		},
		"another claim": {run("9", probing(func(p *v1alpha1.AdaptivePolicy) {
			p.Spec.Strategy.Probe.Others.PersistentVolumeClaim.ClaimName = "copy"
		}), same, baseModel()), false, false, false},
		"another skill":   {run("9", probing(), func(e *v1alpha1.ExpertVector) { e.Spec.Skill = "sums" }, baseModel()), false, false, false},
		"another base":    {run("9", probing(), same, baseModel(func(b *v1alpha1.BaseModel) { b.Status.Artifact.Digest = v1alpha1.Digest(digest("7")) })), false, false, false},
		"fewer prompts":   {run("9", probing(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.MaxPrompts = 64 }), same, baseModel()), false, false, false},
		"another expert":  {run("9", probing(), func(e *v1alpha1.ExpertVector) { e.Spec.Training.Seed = new(int64(7)) }, baseModel()), true, true, true},
		"a description":   {run("9", probing(), func(e *v1alpha1.ExpertVector) { e.Spec.Description = "sums" }, baseModel()), true, true, true},
		"what is chosen":  {run("9", probing(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe.TopK = 2 }), same, baseModel()), true, true, true},
		"a number format": {run("9", probing(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Serving.DType = v1alpha1.ServingInt8 }), same, baseModel()), true, true, false},
	} {
		if got := tc.run.ID == was.ID; got != tc.sameRun {
			t.Errorf("%s: same run is %t, want %t", name, got, tc.sameRun)
		}
		if got := tc.run.Recipe == was.Recipe; got != tc.sameRecipe {
			t.Errorf("%s: same recipe is %t, want %t", name, got, tc.sameRecipe)
		}
		if got := tc.run.JobName == was.JobName; got != tc.sameJob {
			t.Errorf("%s: same Job is %t, want %t", name, got, tc.sameJob)
		}
	}
}

func TestADefaultSpeltOutIsNoOtherProbe(t *testing.T) {
	sets := PromptSets(probing(), skilled())
	run := func(strategy *v1alpha1.ProbeStrategy) string {
		t.Helper()
		r, err := Probe(probing(func(p *v1alpha1.AdaptivePolicy) { p.Spec.Strategy.Probe = strategy }), baseModel(), sets, nil, nil, settings)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	if run(nil) != run(&v1alpha1.ProbeStrategy{MaxPrompts: 1024}) {
		t.Error("maxPrompts as it is by default makes another run")
	}
}

// evaluatedAnswers are those of the experts math and law to the questions of an evaluation.
func evaluatedAnswers() *contract.EvaluatedAnswers {
	return &contract.EvaluatedAnswers{ID: "0123456789abcdef", Digest: digest("5"), Experts: []contract.EvaluatedExpert{
		{Name: "law", Skill: "law"}, {Name: "math", Skill: "math"},
	}}
}

// TestAProbeIsAnotherForOtherAnswers, and not for another evaluation of the same experts by the
// same questions: else each evaluation would fit a probe, and each probe make an evaluation.
func TestAProbeIsAnotherForOtherAnswers(t *testing.T) {
	run := func(change func(*contract.EvaluatedAnswers)) Run {
		t.Helper()
		p := probing()
		var answers *contract.EvaluatedAnswers
		if change != nil {
			answers = evaluatedAnswers()
			change(answers)
		}
		r, err := Probe(p, baseModel(), PromptSets(p, skilled()), answers, map[string]string{"skill-0": digest("9")}, settings)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	was := run(func(*contract.EvaluatedAnswers) {})
	for name, tc := range map[string]struct {
		run  Run
		same bool
	}{
		"none":                                {run(nil), false},
		"another evaluation of the same":      {run(func(a *contract.EvaluatedAnswers) { a.Digest = digest("4") }), true},
		"answers of others":                   {run(func(a *contract.EvaluatedAnswers) { a.ID = "f" }), false},
		"an expert that stands for another's": {run(func(a *contract.EvaluatedAnswers) { a.Experts[0].Skill = "art" }), false},
	} {
		if (tc.run.ID == was.ID) != tc.same || (tc.run.Recipe == was.Recipe) != tc.same {
			t.Errorf("%s: run %s of recipe %s, want the same as %s of %s: %t", name, tc.run.ID, tc.run.Recipe, was.ID, was.Recipe, tc.same)
		}
	}
}

// TestAnswersDependOnExpertsAlone, and on how these are asked: not on how they are chosen.
func TestAnswersDependOnExpertsAlone(t *testing.T) {
	run := func(change func(*v1alpha1.AdaptivePolicy, *contract.ExpertSet)) Run {
		t.Helper()
		e := identifiedEvaluations()["of the next set"]
		change(e.policy, &e.candidate)
		r, err := Evaluation(e.policy, baseModel(), e.donors, e.stable, e.candidate, map[string]string{"gate": digest("9")}, settings)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	was := run(func(*v1alpha1.AdaptivePolicy, *contract.ExpertSet) {})
	for name, tc := range map[string]struct {
		run  Run
		same bool
	}{
		"another probe": {run(func(_ *v1alpha1.AdaptivePolicy, s *contract.ExpertSet) {
			s.Strategy, s.Probe = contract.StrategyProbe, &contract.ProbeRef{Digest: digest("6")}
		}), true},
		"another guard": {run(func(p *v1alpha1.AdaptivePolicy, _ *contract.ExpertSet) {
			p.Spec.Rollout.Gate.Guards[0].Reward = v1alpha1.RewardNumeric
		}), true},
		"another expert": {run(func(_ *v1alpha1.AdaptivePolicy, s *contract.ExpertSet) { s.Experts[0].Digest = digest("6") }), false},
		"the same questions elsewhere": {run(func(p *v1alpha1.AdaptivePolicy, _ *contract.ExpertSet) {
			p.Spec.Rollout.Gate.Dataset.ConfigMap.Name = "other"
		}), true},
		"more questions": {run(func(p *v1alpha1.AdaptivePolicy, _ *contract.ExpertSet) { p.Spec.Rollout.Gate.Samples = 101 }), false},
		"another reward": {run(func(p *v1alpha1.AdaptivePolicy, _ *contract.ExpertSet) {
			p.Spec.Rollout.Gate.Reward = v1alpha1.RewardMath
		}), false},
	} {
		if (tc.run.Answers == was.Answers) != tc.same {
			t.Errorf("%s: answers %s, and %s before, want the same: %t", name, tc.run.Answers, was.Answers, tc.same)
		}
	}
}
