package desired

import (
	"slices"
	"testing"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// dispatching makes a training tell two skills and others apart; a third is shown.
func dispatching(e *v1alpha1.ExpertVector) {
	e.Spec.Role, e.Spec.Skill = v1alpha1.RoleDispatcher, "dispatching"
	e.Spec.Training.Objective = v1alpha1.Objective{
		Type: v1alpha1.ObjectiveNextToken, NextToken: &v1alpha1.NextTokenObjective{Reward: v1alpha1.RewardExactMatch},
	}
	e.Spec.Training.Dataset = v1alpha1.TrainingDataset{Skills: &v1alpha1.SkillsDataset{RequestTokens: new(int32(64)), Sets: []v1alpha1.SkillDataset{
		{Skill: "math", Description: "word problems", Dataset: &v1alpha1.Dataset{
			ConfigMap: &v1alpha1.ConfigMapKeyRef{Name: "sums", Key: "train.jsonl"}, Format: v1alpha1.FormatGSM8K,
		}},
		{Skill: "law"},
		{Skill: "code", Dataset: &v1alpha1.Dataset{
			PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "sets", Path: "mbpp.jsonl"}, Format: v1alpha1.FormatMBPP, Limit: 100,
		}},
		{Skill: "others", Dataset: &v1alpha1.Dataset{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/o.jsonl"}, Format: v1alpha1.FormatChat}},
	}}}
}

// classifying makes a policy train its classifier.
func classifying(p *v1alpha1.AdaptivePolicy) {
	p.Spec.Strategy = v1alpha1.Strategy{
		Type:   v1alpha1.StrategyClassifier,
		Prompt: &v1alpha1.PromptStrategy{Template: "{skills} {prompt}", RequestTokens: new(int32(64))},
		Classifier: &v1alpha1.ClassifierStrategy{Train: &v1alpha1.ClassifierTraining{
			Objective: v1alpha1.ClassifierReinforce, Method: &v1alpha1.Method{Type: v1alpha1.MethodLoRA, LoRA: &v1alpha1.LowRankMethod{Rank: 4}},
			Schedule: &v1alpha1.Schedule{Iterations: 40, BatchSize: 24}, Optimizer: &v1alpha1.Optimizer{LearningRate: "0.01"}, Seed: new(int64(7)),
			Others: &v1alpha1.Dataset{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/o.jsonl"}, Format: v1alpha1.FormatPairs},
		}},
	}
}

// brought makes an expert one that was imported.
func brought(e *v1alpha1.ExpertVector) {
	e.Spec.Training, e.Spec.Source = nil, &v1alpha1.ExpertSource{HTTP: &v1alpha1.HTTPSource{URL: "https://example.org/law.tgz"}}
}

// skilled are an expert that was trained and one that was imported.
func skilled() []*v1alpha1.ExpertVector {
	law := expertVector(brought)
	law.Name, law.Spec.Skill = "law", "law"
	return []*v1alpha1.ExpertVector{expertVector(), law}
}

func classifierConfig(t *testing.T) any {
	t.Helper()
	p := policy()
	classifying(p)
	config, untaught, err := Classifier(p, skilled())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(untaught, []string{"law"}) {
		t.Errorf("untaught %v, want law", untaught)
	}
	return config
}

// TestClassifierNeverSeesValidationSets, by which the experts were chosen.
func TestClassifierNeverSeesValidationSets(t *testing.T) {
	e := expertVector()
	if got := trainingPrompts(e); got != &e.Spec.Training.Dataset.Train {
		t.Errorf("a classifier learns from %+v", got)
	}
	dispatching(e)
	if trainingPrompts(e) != nil || trainingPrompts(expertVector(brought)) != nil {
		t.Error("a dispatcher or an import teaches a skill")
	}
	p := policy()
	classifying(p)
	if n := TaughtSkills(p, skilled()); n != 2 {
		t.Errorf("%d answers can be learnt, want math and others", n)
	}
}

// TestSkillsMakeRuns: other content is another run of the same recipe, other skills
// are another recipe, and a ConfigMap's name is no part of the run.
func TestSkillsMakeRuns(t *testing.T) {
	run := func(digestOfMath string, change func(*v1alpha1.SkillsDataset)) Run {
		t.Helper()
		e := expertVector(dispatching)
		change(e.Spec.Training.Dataset.Skills)
		r, err := Expert(e, baseModel(), map[string]string{"skill-0": digest(digestOfMath)}, settings)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	same := func(*v1alpha1.SkillsDataset) {}
	was := run("9", same)
	for name, tc := range map[string]struct {
		run                 Run
		sameRun, sameRecipe bool
	}{
		"nothing":              {run("9", same), true, true},
		"other content":        {run("8", same), false, true},
		"another ConfigMap":    {run("9", func(s *v1alpha1.SkillsDataset) { s.Sets[0].Dataset.ConfigMap.Name = "copy" }), true, false},
		"another claim":        {run("9", func(s *v1alpha1.SkillsDataset) { s.Sets[2].Dataset.PersistentVolumeClaim.ClaimName = "other" }), false, false},
		"another description":  {run("9", func(s *v1alpha1.SkillsDataset) { s.Sets[1].Description = "statutes" }), false, false},
		"another order":        {run("9", func(s *v1alpha1.SkillsDataset) { s.Sets[1], s.Sets[3] = s.Sets[3], s.Sets[1] }), false, false},
		"another template":     {run("9", func(s *v1alpha1.SkillsDataset) { s.Template = "{skills}{prompt}" }), false, false},
		"more of each request": {run("9", func(s *v1alpha1.SkillsDataset) { s.RequestTokens = new(int32(128)) }), false, false},
	} {
		if got := tc.run.ID == was.ID; got != tc.sameRun {
			t.Errorf("%s: same run is %t, want %t", name, got, tc.sameRun)
		}
		if got := tc.run.Recipe == was.Recipe; got != tc.sameRecipe {
			t.Errorf("%s: same recipe is %t, want %t", name, got, tc.sameRecipe)
		}
	}
}
