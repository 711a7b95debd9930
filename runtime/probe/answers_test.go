package probe

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/jobs"
)

// evaluation publishes an artifact of the questions, as t2 evaluate does.
func evaluation(t *testing.T, v *enginetest.Volume, base string, answerers []string, questions []contract.EvaluationQuestion) string {
	t.Helper()
	stage, err := artifact.Stage(filepath.Join(v.Root, contract.DirEvaluations))
	check(t, err)
	check(t, artifact.WriteJSONAtomic(filepath.Join(stage.Dir(), contract.EvaluationMatrix), contract.EvaluationRights{
		Answerers: answerers, Sets: []contract.EvaluationQuestions{{Questions: questions}, {Questions: questions[:1]}},
	}))
	m := contract.EvaluationManifest{BaseDigest: base, Answerers: answerers}
	m.Files, err = artifact.HashFiles(stage.Dir(), []string{contract.EvaluationMatrix})
	check(t, err)
	m.Digest = contract.DigestFiles(m.Files)
	check(t, stage.PublishDigest(m.Digest, m))
	return m.Digest
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lesson is a volume, and prompts of math and code in it. The questions begin as prompts of math do,
// and it is code that answers them right.
func lesson(t *testing.T) (*enginetest.Volume, contract.ProbeSpec, []contract.EvaluationQuestion) {
	t.Helper()
	v := enginetest.New(t)
	spec := contract.ProbeSpec{Name: "assistant", DataDir: v.Root, BaseDigest: v.ModelDigest}
	for skill, letter := range map[string]string{"math": "a", "code": "z"} {
		var lines strings.Builder
		for i := range 60 {
			fmt.Fprintf(&lines, "{\"prompt\": %q, \"answer\": \"x\"}\n", fmt.Sprintf("%s %d", strings.Repeat(letter, 16), i))
		}
		path := filepath.Join(t.TempDir(), skill+".jsonl")
		check(t, os.WriteFile(path, []byte(lines.String()), 0o600))
		spec.Sets = append(spec.Sets, contract.SkillSet{Skill: skill, Dataset: contract.DatasetSpec{Path: path, Format: contract.FormatPairs}})
	}
	slices.SortFunc(spec.Sets, func(a, b contract.SkillSet) int { return strings.Compare(a.Skill, b.Skill) })
	var questions []contract.EvaluationQuestion
	for i := range 24 {
		questions = append(questions, contract.EvaluationQuestion{
			Line: i + 1, Prompt: fmt.Sprintf("%s%s %d", strings.Repeat("a", 10), strings.Repeat("m", 6), i),
			Right: []*bool{new(false), new(i%2 == 0), new(false), new(true)}, // base, candidate set, math-1, code-1
		})
	}
	return v, spec, questions
}

var everybody = []string{contract.AnswererBase, contract.AnswererCandidate, "math-1", "code-1"}

func run(t *testing.T, spec contract.ProbeSpec) *contract.ProbeResult {
	t.Helper()
	be, err := cpu.New(2)
	check(t, err)
	done, err := Run(t.Context(), spec, Options{Backend: be, Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	return done.Probe
}

func TestAProbeLearnsFromAnEvaluation(t *testing.T) {
	v, spec, questions := lesson(t)
	alone := run(t, spec)
	if alone.Lesson != nil {
		t.Errorf("without answers the lesson is %+v", alone.Lesson)
	}
	asked := len(questions)
	same := questions[0]
	all, unasked := questions[1], questions[2]
	all.Prompt, all.Right = "all are right", []*bool{new(true), new(true), new(true), new(true)}
	unasked.Prompt, unasked.Right = "one was not asked", []*bool{new(false), new(true), nil, new(true)}
	spec.Answers = &contract.EvaluatedAnswers{
		ID:      "answers",
		Digest:  evaluation(t, v, v.ModelDigest, everybody, append(questions, same, all, unasked)),
		Experts: []contract.EvaluatedExpert{{Name: "code-1", Skill: "code"}, {Name: "math-1", Skill: "math"}},
	}
	taught := run(t, spec)
	l := taught.Lesson
	t.Logf("%+v", l)
	if l == nil || l.Questions != asked || l.Weight == 0 || l.Before.Right > 0.5 || l.After.Right < 0.9 {
		t.Fatalf("the lesson is %+v of %d questions", l, asked)
	}
	if taught.Digest == alone.Digest || taught.Examples != alone.Examples || taught.Evaluation.Accuracy < 0.95 {
		t.Errorf("probe %s has %d examples and an accuracy of %.3f; %s of prompts alone", taught.Digest, taught.Examples, taught.Evaluation.Accuracy, alone.Digest)
	}
	if again := run(t, spec); again.Digest != taught.Digest {
		t.Errorf("once more it is %s", again.Digest)
	}
}

// TestAnswersThatAreNotThereAreDoneWithout: the probe is then that of the prompts.
func TestAnswersThatAreNotThereAreDoneWithout(t *testing.T) {
	v, spec, questions := lesson(t)
	alone := run(t, spec)
	experts := []contract.EvaluatedExpert{{Name: "code-1", Skill: "code"}, {Name: "math-1", Skill: "math"}}
	damaged := evaluation(t, v, v.ModelDigest, everybody[:3], questions)
	dir, err := contract.ArtifactDir(v.Root, contract.DirEvaluations, damaged)
	check(t, err)
	path := filepath.Join(dir, contract.EvaluationMatrix)
	check(t, os.Chmod(path, 0o600))
	text, err := json.Marshal(contract.EvaluationRights{})
	check(t, err)
	check(t, os.WriteFile(path, text, 0o600))
	for name, answers := range map[string]contract.EvaluatedAnswers{
		"not there":       {Digest: contract.DigestPrefix + strings.Repeat("7", 64), Experts: experts},
		"damaged":         {Digest: damaged, Experts: experts},
		"of another base": {Digest: evaluation(t, v, contract.DigestPrefix+strings.Repeat("8", 64), everybody, questions[:3]), Experts: experts},
		"of others":       {Digest: evaluation(t, v, v.ModelDigest, everybody, questions), Experts: []contract.EvaluatedExpert{experts[0], {Name: "law-1", Skill: "math"}}},
		"of one skill":    {Digest: evaluation(t, v, v.ModelDigest, everybody, questions[:5]), Experts: experts[:1]},
	} {
		spec.Answers = &answers
		if got := run(t, spec); got.Lesson != nil || got.Digest != alone.Digest {
			t.Errorf("%s: %s with %+v, want %s", name, got.Digest, got.Lesson, alone.Digest)
		}
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	spec := contract.ProbeSpec{DataDir: "/data", BaseDigest: contract.DigestPrefix + strings.Repeat("a", 64), Sets: make([]contract.SkillSet, 2)}
	spec.Answers = &contract.EvaluatedAnswers{Digest: "x"}
	err := Validate(spec)
	if err == nil || !strings.Contains(err.Error(), "answers.digest") || !strings.Contains(err.Error(), "answers.experts") {
		t.Errorf("got %v", err)
	}
}
