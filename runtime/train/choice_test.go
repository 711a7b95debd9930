package train

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// dispatching makes an exercise of two skills whose prompts differ in a word.
func dispatching(t *testing.T) exercise {
	t.Helper()
	e := newExercise(t)
	skills := func(part string) contract.DatasetSpec {
		s := &contract.SkillsSpec{Part: part, Pass1: contract.Pass1{PromptTemplate: "{skills}\n{prompt}?"}}
		for _, skill := range []string{"x", "y"} {
			path := filepath.Join(t.TempDir(), skill+".jsonl")
			var lines []byte
			for i := range 20 {
				line, err := json.Marshal(map[string]string{"prompt": fmt.Sprintf("%s %d", strings.Repeat(skill, 8), i), "answer": "-"})
				if err != nil {
					t.Fatal(err)
				}
				lines = append(append(lines, line...), '\n')
			}
			if err := os.WriteFile(path, lines, 0o600); err != nil {
				t.Fatal(err)
			}
			s.Pass1.Skills = append(s.Pass1.Skills, contract.SkillLine{Skill: skill})
			s.Sets = append(s.Sets, contract.SkillSet{Skill: skill, Dataset: contract.DatasetSpec{Path: path, Format: contract.FormatPairs}})
		}
		return contract.DatasetSpec{Format: contract.FormatSkills, Skills: s}
	}
	e.spec.Train, e.spec.Validation = skills(contract.PartTrain), skills(contract.PartValidation)
	return e
}

// TestLabelsAreChosenAsPass1Does: the likeliest one, or drawn in proportion.
func TestLabelsAreChosenAsPass1Does(t *testing.T) {
	e := dispatching(t)
	m, _, tok := e.volume.Load(t)
	set, err := dataset.Load(t.Context(), e.spec.Train, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := NewTask(set, tok, mustJudge(t, contract.RewardExactMatch), 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.learn(512); err != nil {
		t.Fatal(err)
	}
	scores, err := rollout.Score(t.Context(), m, task.prompts, task.choice.Labels(), rollout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	greedyAnswers, err := task.answer(t.Context(), Answerer{Model: m}, []int{0, 1, 2}, 1, greedy)
	if err != nil {
		t.Fatal(err)
	}
	right := 0
	for i, s := range scores {
		best := slices.Index(s, slices.Max(s))
		if i < 3 && !slices.Equal(greedyAnswers[i].Tokens, task.choice.Labels()[best]) {
			t.Errorf("prompt %d: chose %v with scores %v", i, greedyAnswers[i].Tokens, s)
		}
		if slices.Equal(task.targets[i], task.choice.Labels()[best]) {
			right++
		}
	}
	result, err := task.Evaluate(t.Context(), Answerer{Model: m}, 1)
	if want := float64(right) / float64(task.Len()); err != nil || result.Score != want {
		t.Errorf("score %v, %v; the likeliest labels are right in %v", result.Score, err, want)
	}

	const draws = 600
	records := make([]int, draws)
	answers, err := task.answer(t.Context(), Answerer{Model: m}, records, 1, func(i int) *sample.Sampler {
		return sample.New(sample.Params{Temperature: 1}, sample.Stream(3, uint64(i)))
	})
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, s := range scores[0] {
		total += math.Exp(s)
	}
	for j, label := range task.choice.Labels() {
		drawn := 0
		for _, a := range answers {
			if slices.Equal(a.Tokens, label) {
				drawn++
			}
		}
		if p, got := math.Exp(scores[0][j])/total, float64(drawn)/draws; math.Abs(got-p) > 0.08 {
			t.Errorf("label %d was drawn with frequency %.3f, its probability is %.3f", j, got, p)
		}
	}
}

// TestEveryObjectiveTeachesToDispatch a random model what is in each prompt.
func TestEveryObjectiveTeachesToDispatch(t *testing.T) {
	for name, change := range map[string]func(*contract.TrainSpec){
		contract.ObjectiveNextToken: func(s *contract.TrainSpec) { s.Hyperparameters.KLWeight = 0 },
		contract.ObjectiveReinforce: func(s *contract.TrainSpec) { s.Hyperparameters.KLWeight = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			e := dispatching(t)
			e.spec.Objective = name
			h := &e.spec.Hyperparameters
			h.Method, h.Rank, h.Alpha = contract.MethodLoRA, 4, 8
			h.Iterations, h.BatchSize, h.LearningRate, h.MaxGradNorm, h.ValidationInterval = 40, 16, 0.02, 1, 10
			change(&e.spec)
			done := e.mustTrain(t, 2)
			training := done.Expert.Training
			t.Logf("base %v, classifier %v", training.BaselineScore, training.BestScore)
			if training.BestScore < training.BaselineScore+0.3 || training.BestScore < 0.9 {
				t.Errorf("the base scores %v, the classifier %v", training.BaselineScore, training.BestScore)
			}
			want, err := e.spec.Train.Skills.Pass1.Digest()
			if err != nil || done.Expert.Pass1Digest != want {
				t.Errorf("it is for question %q, trained for %q (%v)", done.Expert.Pass1Digest, want, err)
			}
		})
	}
}

func TestSkillsOfASpecificationMakeSense(t *testing.T) {
	e := dispatching(t)
	for name, c := range map[string]struct {
		change func(*contract.TrainSpec)
		want   string
	}{
		"only to train with": {func(s *contract.TrainSpec) {
			s.Validation = contract.DatasetSpec{Path: "x", Format: contract.FormatPairs}
		}, "must both have skills"},
		"two skills of a name": {func(s *contract.TrainSpec) { s.Train.Skills.Pass1.Skills[1].Skill = "x" }, "have the same skill"},
		"another question":     {func(s *contract.TrainSpec) { s.Validation.Skills.Pass1.RequestTokens = 64 }, "differ in pass1"},
		"one part twice":       {func(s *contract.TrainSpec) { s.Validation.Skills.Part = contract.PartTrain }, "must be Validation"},
		"the wrong part":       {func(s *contract.TrainSpec) { s.Train.Skills.Part = "" }, `train.skills.part is ""`},
		"another reward":       {func(s *contract.TrainSpec) { s.Reward = contract.RewardNumeric }, "cannot judge a skill"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := dispatching(t).spec
			c.change(&spec)
			if err := Validate(spec); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to contain %q", err, c.want)
			}
		})
	}
	if err := Validate(e.spec); err != nil {
		t.Error(err)
	}
}
