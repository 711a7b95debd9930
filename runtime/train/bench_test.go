package train

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/jobs"
)

// demo is where the demo's model and data lie.
var demo = filepath.Join("..", "..", "config", "samples", "demo")

// newDemo puts the demo's model into a volume and returns the specification of a
// run on one of its skills, with the hyperparameters of the samples.
func newDemo(t testing.TB, skill, format, reward, template string) contract.TrainSpec {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	origin := filepath.Join(demo, "model")
	m, err := checkpoint.BuildManifest(origin)
	check(err)
	dir, err := contract.ArtifactDir(root, contract.DirModels, m.Digest)
	check(err)
	check(os.MkdirAll(dir, 0o750))
	check(os.CopyFS(dir, os.DirFS(origin)))
	check(artifact.WriteManifest(dir, m))
	ck, err := checkpoint.OpenDir(dir)
	check(err)
	defer func() { _ = ck.Close() }()
	dec, err := expert.Decompose(t.Context(), ck, root, contract.DecomposeSpec{
		BaseDigest: m.Digest, Modules: expert.Modules(), DType: "F32",
	}, nil, nil)
	check(err)
	set := func(name string) contract.DatasetSpec {
		return contract.DatasetSpec{Path: filepath.Join(demo, "data", skill, name+".jsonl"), Format: format, PromptTemplate: template}
	}
	hyper := contract.DefaultHyper()
	hyper.BatchSize, hyper.LearningRate, hyper.KLWeight, hyper.MaxNewTokens = 64, 0.02, 0, 24
	hyper.Rollout, hyper.Baseline, hyper.Seed = contract.RolloutSample, contract.BaselineMean, 1
	return contract.TrainSpec{
		Name: skill, Skill: skill, RunID: skill, DataDir: root, BaseDigest: m.Digest, DecompositionDigest: dec.Digest,
		Objective: contract.ObjectiveReinforce, Train: set("train"), Validation: set("validation"), Reward: reward, Hyperparameters: hyper,
	}
}

// BenchmarkIteration measures one iteration of the demo's math expert: 64
// sampled answers, their judgement, the gradient and the step.
func BenchmarkIteration(b *testing.B) {
	benchmarkIteration(b, newDemo(b, "math", contract.FormatGSM8K, contract.RewardNumeric, ""))
}

// BenchmarkGeneration measures one generation of a search for that expert: 16 candidates
// answer 16 questions each.
func BenchmarkGeneration(b *testing.B) {
	spec := newDemo(b, "math", contract.FormatGSM8K, contract.RewardNumeric, "")
	spec.Objective = contract.ObjectiveEvolution
	h := &spec.Hyperparameters
	h.BatchSize, h.Population, h.Sigma, h.TruncatedRank = 16, 16, 0.3, 64
	h.Rollout, h.Baseline = contract.RolloutGreedy, contract.BaselineNone
	benchmarkIteration(b, spec)
}

func benchmarkIteration(b *testing.B, spec contract.TrainSpec) {
	b.Helper()
	be, err := cpu.New(0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = be.Close() }()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	judge := mustJudge(b, spec.Reward)
	data, err := loadSets(b.Context(), spec, judge)
	if err != nil {
		b.Fatal(err)
	}
	t, err := newTrainer(b.Context(), spec, "", data, judge, b.TempDir(), Options{Backend: be, Progress: jobs.NewProgress(), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	tokens := 0
	for b.Loop() {
		if t.state, err = t.objective.iterate(b.Context(), t); err != nil {
			b.Fatal(err)
		}
		tokens += t.state.History[len(t.state.History)-1].AnswerTokens
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "answer-tokens/s")
}
