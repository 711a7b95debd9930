package server_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/train"
)

// letters are names of the demo's skills that say nothing: which of them is meant
// the base model cannot know.
var letters = map[string]string{"math": "A", "code": "B", "reasoning": "C"}

// demoVolume is a volume with the demo model.
func demoVolume(t testing.TB) (root, model string, dm contract.DecompositionManifest) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root = t.TempDir()
	source := filepath.Join(demo, "model")
	m, err := checkpoint.BuildManifest(source)
	check(err)
	dir, err := contract.ArtifactDir(root, contract.DirModels, m.Digest)
	check(err)
	check(artifact.MkdirAll(dir))
	for _, f := range m.Files {
		b, err := os.ReadFile(filepath.Join(source, f.Path))
		check(err)
		check(os.WriteFile(filepath.Join(dir, f.Path), b, 0o600))
	}
	check(artifact.WriteManifest(dir, m))
	ck, err := checkpoint.OpenDir(dir)
	check(err)
	defer func() { check(ck.Close()) }()
	dm, err = expert.Decompose(t.Context(), ck, root, contract.DecomposeSpec{
		BaseDigest: m.Digest, Modules: []string{"gate_proj", "up_proj", "down_proj"}, DType: "F32",
	}, nil, nil)
	check(err)
	return root, m.Digest, dm
}

// classifierSpec trains a classifier of letters, on the prompts that the demo's
// experts are trained with.
func classifierSpec(root, model string, dm contract.DecompositionManifest) contract.TrainSpec {
	skills := func(part string) contract.DatasetSpec {
		s := &contract.SkillsSpec{Part: part}
		for _, each := range []struct{ skill, format, template string }{
			{"math", contract.FormatGSM8K, ""}, {"code", contract.FormatMBPP, "{question}"}, {"reasoning", contract.FormatARC, ""},
		} {
			s.Pass1.Skills = append(s.Pass1.Skills, contract.SkillLine{Skill: letters[each.skill]})
			s.Sets = append(s.Sets, contract.SkillSet{Skill: letters[each.skill], Dataset: contract.DatasetSpec{
				Path: filepath.Join(demo, "data", each.skill, "train.jsonl"), Format: each.format, PromptTemplate: each.template,
			}})
		}
		return contract.DatasetSpec{Format: contract.FormatSkills, Skills: s}
	}
	h := contract.DefaultHyper()
	h.Iterations, h.BatchSize, h.LearningRate, h.MaxGradNorm, h.KLWeight = 30, 24, 0.1, 1, 0
	h.ValidationInterval, h.CheckpointInterval = 15, 30
	return contract.TrainSpec{
		Name: "demo-classifier", Skill: "dispatching", RunID: "classifier", DataDir: root,
		BaseDigest: model, DecompositionDigest: dm.Digest, Objective: contract.ObjectiveNextToken,
		Train: skills(contract.PartTrain), Validation: skills(contract.PartValidation),
		Reward: contract.RewardExactMatch, Hyperparameters: h,
	}
}

// fromVolume serves a volume as a pod does.
func fromVolume(t *testing.T, root, model string, dm contract.DecompositionManifest) *server.Server {
	t.Helper()
	c, err := server.FromSpec(contract.ServeSpec{Name: "demo", DataDir: root, BaseDigest: model, DecompositionDigest: dm.Digest, MaxBatch: 4})
	if err != nil {
		t.Fatal(err)
	}
	c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
	s := server.New(c)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func trained(t *testing.T, spec contract.TrainSpec) *contract.ExpertResult {
	t.Helper()
	done, err := train.Run(t.Context(), spec, train.Options{
		Backend: registrytest.Open(t, 2), Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return done.Expert
}

// idle writes an expert that changes nothing, and whose name tells its skill.
func idle(t *testing.T, root, model string, dm contract.DecompositionManifest, skill string) contract.ExpertRef {
	t.Helper()
	return idleOn(t, "", root, model, dm, skill)
}

// idleOn is idle of an activation.
func idleOn(t *testing.T, activation, root, model string, dm contract.DecompositionManifest, skill string) contract.ExpertRef {
	t.Helper()
	dir, err := contract.ArtifactDir(root, contract.DirDecompositions, dm.Digest)
	if err != nil {
		t.Fatal(err)
	}
	d, err := expert.OpenDecomposition(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := d.Matrices()[0]
	z := make([]float32, d.Rank(name))
	for i := range z {
		z[i] = 1
	}
	m, err := expert.Write(root, expert.Adapter{Z: map[string][]float32{name: z}, Manifest: contract.ExpertManifest{
		BaseDigest: model, DecompositionDigest: dm.Digest, Skill: skill, Activation: activation,
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return contract.ExpertRef{Name: "demo-" + skill, Skill: skill, Digest: m.Digest}
}

// TestClassifierLearnsToDispatch from the experts' training prompts what the base
// model cannot know, and is served: training, volume, expert set, both passes.
func TestClassifierLearnsToDispatch(t *testing.T) {
	root, model, dm := demoVolume(t)
	spec := classifierSpec(root, model, dm)
	made := trained(t, spec)
	t.Logf("base %.3f, classifier %.3f on validation", made.Training.BaselineScore, made.Training.BestScore)
	if made.Training.BaselineScore > 0.6 || made.Training.BestScore < 0.9 {
		t.Errorf("the base scores %v and the classifier %v, want at most 0.6 and nearly 1", made.Training.BaselineScore, made.Training.BestScore)
	}
	set := contract.ExpertSet{Strategy: contract.StrategyClassifier, Classifier: &contract.ExpertRef{
		Name: "demo-classifier", Skill: "dispatching", Digest: made.Digest,
	}}
	for _, line := range spec.Train.Skills.Pass1.Skills {
		set.Experts = append(set.Experts, idle(t, root, model, dm, line.Skill))
	}
	if want, err := set.Pass1().Digest(); err != nil || made.Pass1Digest != want {
		t.Errorf("the classifier is for question %s, the set asks %s (%v)", made.Pass1Digest, want, err)
	}

	s := fromVolume(t, root, model, dm)
	accuracy := func(set contract.ExpertSet) float64 {
		t.Helper()
		if err := s.Swap(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		right, all := 0, 0
		for _, one := range dispatchCases(t) {
			if one.Skill == contract.OthersLabel {
				continue // Nobody has told the classifier what they are.
			}
			a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", one.Prompt, fields{"max_tokens": 1}))
			if all++; a.Adaptation.Expert == "demo-"+letters[one.Skill] {
				right++
			}
			if a.Adaptation.Strategy != set.Strategy {
				t.Fatalf("answered by strategy %s, want %s", a.Adaptation.Strategy, set.Strategy)
			}
		}
		return float64(right) / float64(all)
	}
	base, classified := accuracy(set.WithoutClassifier()), accuracy(set)
	t.Logf("of the demo's held-out requests, Prompt dispatches %.3f rightly, Classifier %.3f", base, classified)
	if base > 0.6 || classified < 0.9 {
		t.Errorf("Prompt dispatches %.3f rightly, Classifier %.3f: want at most 0.6 and at least 0.9", base, classified)
	}

	e, err := s.Explain(t.Context(), []byte(`{"model": "demo", "prompt": "What is 2 + 3?"}`))
	if err != nil || e.Classifier != "demo-classifier" || !strings.HasPrefix(e.Why, "with its classifier, pass 1 finds") {
		t.Errorf("explained as %+v, %v", e, err)
	}
	classifierIsNoModel(t, s)
	classifierIsLost(t, s, set)
}

// classifierIsNoModel: requests can name it no more than any other name.
func classifierIsNoModel(t *testing.T, s *server.Server) {
	t.Helper()
	_, err := s.Explain(t.Context(), []byte(`{"model": "demo:demo-classifier", "prompt": "x"}`))
	if err == nil || !strings.Contains(err.Error(), "does not exist") || strings.Contains(err.Error(), "demo:demo-classifier,") {
		t.Errorf("the classifier as model: %v", err)
	}
}

// classifierIsLost: without its classifier a set is served as Prompt would, and says
// what is missing.
func classifierIsLost(t *testing.T, s *server.Server, set contract.ExpertSet) {
	t.Helper()
	missing := *set.Classifier
	missing.Name, missing.Digest = "gone", "sha256:"+strings.Repeat("0", 64)
	set.Classifier = &missing
	err := s.Swap(t.Context(), set)
	if err == nil || !strings.Contains(err.Error(), `expert "gone"`) || !strings.Contains(err.Error(), "1 of 4 experts") {
		t.Fatalf("a lost classifier: %v", err)
	}
	a := postTo(t, s.API(), contract.PathChatCompletions, chat("demo", "What is 2 + 3?", fields{"max_tokens": 1}))
	if a.Adaptation.Strategy != contract.StrategyPrompt {
		t.Errorf("without its classifier it is answered by %s", a.Adaptation.Strategy)
	}
	st := s.Status()
	last := st.Experts[len(set.Experts)]
	if last.Name != "gone" || last.State != contract.ExpertFailed || last.Error == nil || last.Error.Reason != contract.ReasonExpertMissing {
		t.Errorf("status says %+v of the classifier", last)
	}
	if digest, err := set.Digest(); err != nil || st.ExpertSetDigest == digest {
		t.Errorf("the digest is that of the whole set (%v)", err)
	}
}
