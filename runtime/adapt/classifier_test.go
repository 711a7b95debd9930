package adapt_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/adapt"
	"github.com/transformersquared/operator/runtime/contract"
)

func classifierSet() contract.ExpertSet {
	set := demoSet()
	set.Strategy = contract.StrategyClassifier
	set.Classifier = &contract.ExpertRef{Name: "demo-classifier", Skill: "dispatching", Digest: digest("c")}
	return set
}

// TestClassifierAsksAsPromptDoes but another model, and takes the answer alike.
func TestClassifierAsksAsPromptDoes(t *testing.T) {
	asked, classified := &scorer{scores: []float64{-1, -3, -2}}, &scorer{scores: []float64{-1, -3, -2}}
	want, err := decide(t, demoSet(), asked, "What is 2+3?")
	if err != nil {
		t.Fatal(err)
	}
	got, err := decide(t, classifierSet(), classified, "What is 2+3?")
	if err != nil {
		t.Fatal(err)
	}
	if asked.prompt != classified.prompt || cmp.Diff(asked.labels, classified.labels) != "" {
		t.Errorf("the classifier was asked %q of %v, the base %q of %v", classified.prompt, classified.labels, asked.prompt, asked.labels)
	}
	with := map[string]float64{"demo-classifier": 1}
	if len(asked.with) > 0 || cmp.Diff(with, classified.with) != "" {
		t.Errorf("pass 1 ran with %v, of strategy Prompt with %v", classified.with, asked.with)
	}
	want.Reading.With = with
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decision (-Prompt +Classifier):\n%s", diff)
	}
}

func TestClassifierNeedsItsExpertFirst(t *testing.T) {
	strategy, err := adapt.New(classifierSet(), adapt.Tools{Encoder: bytesEncoder{}, Scorer: &scorer{}})
	if err != nil {
		t.Fatal(err)
	}
	want := adapt.Needs{Passes: 2, Mixtures: []map[string]float64{{"demo-classifier": 1}, {"demo-math": 1}, {"demo-code": 1}}}
	got := strategy.Needs()
	want.With, want.Beginning = map[string]float64{"demo-classifier": 1}, got.Beginning // See TestWhatAllQuestionsBeginWith.
	if diff := cmp.Diff(want, got); diff != "" || strategy.Name() != contract.StrategyClassifier {
		t.Errorf("needs of %s (-want +got):\n%s", strategy.Name(), diff)
	}
}

func TestValidateClassifier(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		want   string
	}{
		"none":                 {func(s *contract.ExpertSet) { s.Classifier = nil }, "has no classifier"},
		"of another strategy":  {func(s *contract.ExpertSet) { s.Strategy = contract.StrategyPrompt }, "of no use to strategy Prompt"},
		"no digest":            {func(s *contract.ExpertSet) { s.Classifier.Digest = "" }, `"demo-classifier": "" is no digest`},
		"an expert's name":     {func(s *contract.ExpertSet) { s.Classifier.Name = "demo-code" }, "listed twice"},
		"the fallback":         {func(s *contract.ExpertSet) { s.Fallback = "demo-classifier" }, "is none of the experts"},
		"what Prompt needs":    {func(s *contract.ExpertSet) { s.Experts[0].Skill = "" }, "has no skill"},
		"bounds of Prompt too": {func(s *contract.ExpertSet) { s.TopK = 9 }, "topK is 9"},
	} {
		t.Run(name, func(t *testing.T) {
			set := classifierSet()
			c.change(&set)
			if err := adapt.Validate(set); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to contain %q", err, c.want)
			}
		})
	}
	if err := adapt.Validate(classifierSet()); err != nil {
		t.Error(err)
	}
	if set := classifierSet().WithoutClassifier(); set.Strategy != contract.StrategyPrompt || set.Classifier != nil || adapt.Validate(set) != nil {
		t.Errorf("without its classifier the set is %+v", set)
	}
}

// TestQuestionIsWhatPass1Asks: what trains a classifier sees what it will be asked.
func TestQuestionIsWhatPass1Asks(t *testing.T) {
	s := &scorer{scores: []float64{-1, -2, -3}}
	set := demoSet()
	set.RequestTokens = 40
	request := strings.Repeat("What is 2+3? ", 20)
	if _, err := decide(t, set, s, request); err != nil {
		t.Fatal(err)
	}
	q, err := adapt.NewQuestion(set.Pass1(), bytesEncoder{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := q.Prompt(request)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tokens(s.prompt), ids); diff != "" {
		t.Errorf("prompt (-asked +question):\n%s", diff)
	}
	if len(q.Labels()) != 3 || q.Label("code") != 1 || q.Label(contract.OthersLabel) != 2 || q.Label("law") != -1 {
		t.Errorf("%d labels; code %d, others %d, law %d", len(q.Labels()), q.Label("code"), q.Label("others"), q.Label("law"))
	}
	if _, err := adapt.NewQuestion(contract.Pass1{Skills: []contract.SkillLine{{Skill: "a"}, {Skill: "a"}}}, bytesEncoder{}); err == nil {
		t.Error("two skills of one name made a question")
	}
}

func TestPass1DigestIsThatOfTheQuestion(t *testing.T) {
	of := func(change func(*contract.ExpertSet)) string {
		set := demoSet()
		change(&set)
		d, err := set.Pass1().Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	was := of(func(*contract.ExpertSet) {})
	for name, c := range map[string]struct {
		change func(*contract.ExpertSet)
		same   bool
	}{
		"another artifact and name": {func(s *contract.ExpertSet) { s.Experts[0].Digest, s.Experts[0].Name = digest("d"), "other" }, true},
		"defaults by name": {func(s *contract.ExpertSet) {
			s.PromptTemplate, s.RequestTokens = contract.DefaultPromptTemplate, contract.DefaultRequestTokens
		}, true},
		"another skill":       {func(s *contract.ExpertSet) { s.Experts[0].Skill = "algebra" }, false},
		"another description": {func(s *contract.ExpertSet) { s.Experts[1].Description = "programs" }, false},
		"one less":            {func(s *contract.ExpertSet) { s.Experts = s.Experts[:1] }, false},
		"another order":       {func(s *contract.ExpertSet) { s.Experts[0], s.Experts[1] = s.Experts[1], s.Experts[0] }, false},
		"another template":    {func(s *contract.ExpertSet) { s.PromptTemplate = "{skills} {prompt}" }, false},
	} {
		if got := of(c.change); (got == was) != c.same {
			t.Errorf("%s: same digest is %t, want %t", name, got == was, c.same)
		}
	}
}
