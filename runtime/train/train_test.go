package train

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// exercise is a volume with a random model, and a data set of prompts whose
// right answer is a byte that the model gives now and then, but not greedily:
// what reinforcement can teach it.
type exercise struct {
	volume *enginetest.Volume
	spec   contract.TrainSpec
}

func newExercise(t *testing.T) exercise {
	t.Helper()
	v := enginetest.New(t)
	m, _, tok := v.Load(t)
	var lines bytes.Buffer
	for i := 0; lines.Len() == 0 || i < 12; i++ {
		question := fmt.Sprintf("question %d", i)
		prompt, err := EncodePrompt(tok, []dataset.Message{{Role: "user", Content: question}})
		if err != nil {
			t.Fatal(err)
		}
		const draws = 24
		prompts := make([][]int32, draws+1)
		for j := range prompts {
			prompts[j] = prompt
		}
		answers, err := rollout.Generate(t.Context(), m, prompts, func(j int) *sample.Sampler {
			if j == draws {
				return greedy(j)
			}
			return sample.New(sample.Params{Temperature: 1}, sample.Stream(5, uint64(i), uint64(j)))
		}, rollout.Options{Stop: tok.EOS(), MaxNewTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers[:draws] {
			if b := a.Tokens[0]; b > ' ' && b < 0x7f && b != answers[draws].Tokens[0] {
				if err := json.NewEncoder(&lines).Encode(map[string]string{"prompt": question, "answer": string(b)}); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
	}
	path := filepath.Join(t.TempDir(), "pairs.jsonl")
	if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	set := contract.DatasetSpec{Path: path, Format: contract.FormatPairs}
	hyper := contract.DefaultHyper()
	hyper.Iterations, hyper.BatchSize, hyper.LearningRate, hyper.MaxNewTokens = 12, 48, 0.1, 1
	hyper.Rollout, hyper.Baseline, hyper.Seed = contract.RolloutSample, contract.BaselineMean, 3
	hyper.KLWeight, hyper.ValidationInterval, hyper.CheckpointInterval = 0.01, 4, 5
	return exercise{volume: v, spec: contract.TrainSpec{
		Name: "bytes", Skill: "bytes", RunID: "run", DataDir: v.Root,
		BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		Objective: contract.ObjectiveReinforce, Train: set, Validation: set,
		Reward: contract.RewardExactMatch, Hyperparameters: hyper,
	}}
}

// watcher is a log that calls back after each iteration.
type watcher struct {
	slog.Handler
	after func(iteration int)
}

func (w watcher) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "Iteration was finished" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "iteration" {
				w.after(int(a.Value.Int64()))
			}
			return a.Key != "iteration"
		})
	}
	return nil
}

func (watcher) Enabled(context.Context, slog.Level) bool { return true }

func (w watcher) WithAttrs([]slog.Attr) slog.Handler { return w }

func (w watcher) WithGroup(string) slog.Handler { return w }

// train runs a specification; after (may be nil) is called after each iteration.
func (e exercise) train(ctx context.Context, t *testing.T, threads int, after func(iteration int)) (contract.Termination, *jobs.Progress, error) {
	t.Helper()
	be := registrytest.Open(t, threads)
	log := slog.New(slog.DiscardHandler)
	if after != nil {
		log = slog.New(watcher{after: after})
	}
	progress := jobs.NewProgress()
	done, err := Run(ctx, e.spec, Options{Backend: be, Progress: progress, Log: log})
	return done, progress, err
}

func (e exercise) mustTrain(t *testing.T, threads int) contract.Termination {
	t.Helper()
	done, _, err := e.train(t.Context(), t, threads, nil)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// history reads the metrics that a run published with its expert.
func (e exercise) history(t *testing.T, done contract.Termination) (points []point) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e.volume.ExpertDir(t, done.Expert.Digest), MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var p point
		if err := strictJSON([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		points = append(points, p)
	}
	return points
}

func TestReinforcementTeachesWhatTheModelSaysNowAndThen(t *testing.T) {
	e := newExercise(t)
	e.spec.Hyperparameters.Iterations = 40
	done, progress, err := e.train(t.Context(), t, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	training := done.Expert.Training
	if training.BaselineScore != 0 {
		t.Errorf("the base model scores %v, but no right answer is its greedy one", training.BaselineScore)
	}
	if training.BestScore < 0.3 {
		t.Errorf("the expert scores %v, want at least 0.3", training.BestScore)
	}
	if diff := cmp.Diff(*training, *progress.Snapshot().Training); diff != "" {
		t.Errorf("progress differs from the result (-result +progress):\n%s", diff)
	}

	e.publishes(t, done)
}

// publishes wants of what a run published what it validated.
func (e exercise) publishes(t *testing.T, done contract.Termination) {
	t.Helper()
	training := done.Expert.Training
	v, err := expert.Read(e.volume.ExpertDir(t, done.Expert.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if v.Manifest.Score != training.BestScore || v.Manifest.Skill != "bytes" {
		t.Errorf("manifest says skill %q, score %v", v.Manifest.Skill, v.Manifest.Score)
	}
	m, dec, tok := e.volume.Load(t)
	if err := errors.Join(v.Fits(dec), v.FitsModel(m.Linears())); err != nil {
		t.Fatal(err)
	}
	mixed, err := expert.Mix([]expert.Weighted{{Adapter: v, Alpha: 1}})
	if err != nil {
		t.Fatal(err)
	}
	composed, err := expert.Compose(t.Context(), m, dec, mixed)
	if err != nil {
		t.Fatal(err)
	}
	set, err := dataset.Load(t.Context(), e.spec.Validation, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := NewTask(set, tok, mustJudge(t, e.spec.Reward), 512)
	if err != nil {
		t.Fatal(err)
	}
	who := Answerer{Model: composed}
	if e.spec.Hyperparameters.Activation == contract.ActivationAnswer {
		who.Reader = m
	}
	if v.Manifest.Activation == contract.ActivationAnswer != (who.Reader != nil) {
		t.Errorf("the expert acts on %q", v.Manifest.Activation)
	}
	r, err := task.Evaluate(t.Context(), who, 1)
	if err != nil {
		t.Fatal(err)
	}
	if r.Score != training.BestScore {
		t.Errorf("the published expert scores %v, its manifest says %v", r.Score, training.BestScore)
	}
}

// TestEveryMethodLearnsAndContinues trains by every method, once by reinforcement with
// groups of answers and once from given ones, interrupts it, and wants the same expert.
func TestEveryMethodLearnsAndContinues(t *testing.T) {
	for name, change := range map[string]func(*contract.TrainSpec){
		"LoRA": func(s *contract.TrainSpec) {
			s.Hyperparameters.Method, s.Hyperparameters.Rank, s.Hyperparameters.Alpha = contract.MethodLoRA, 4, 8
		},
		"DoRA": func(s *contract.TrainSpec) {
			s.Hyperparameters.Method, s.Hyperparameters.Rank, s.Hyperparameters.Alpha = contract.MethodDoRA, 4, 8
			s.Modules = []string{"q_proj", "o_proj", "down_proj"}
		},
		"IA3": func(s *contract.TrainSpec) { s.Hyperparameters.Method = contract.MethodIA3 },
		"SVF": func(*contract.TrainSpec) {},
		"SVF on answers": func(s *contract.TrainSpec) {
			s.Hyperparameters.Activation = contract.ActivationAnswer
		},
		"LoRA on answers": func(s *contract.TrainSpec) {
			s.Hyperparameters.Method, s.Hyperparameters.Rank, s.Hyperparameters.Alpha = contract.MethodLoRA, 4, 8
			s.Hyperparameters.Activation = contract.ActivationAnswer
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newExercise(t)
			h := &e.spec.Hyperparameters
			change(&e.spec)
			h.LearningRate, h.MaxGradNorm, h.Iterations, h.ValidationInterval, h.CheckpointInterval = 0.03, 1, 8, 4, 3
			if name == "DoRA" || name == "SVF" || name == "LoRA on answers" {
				e.spec.Objective, h.KLWeight, h.BatchSize = contract.ObjectiveNextToken, 0, 12
			} else {
				h.Baseline, h.GroupSize, h.BatchSize = contract.BaselineGroup, 8, 12
			}
			done := e.mustTrain(t, 2)
			if training := done.Expert.Training; training.BestScore <= training.BaselineScore {
				t.Errorf("the expert scores %v, the base %v", training.BestScore, training.BaselineScore)
			}
			e.publishes(t, done)

			again := newExercise(t)
			again.spec.Hyperparameters, again.spec.Objective, again.spec.Modules = e.spec.Hyperparameters, e.spec.Objective, e.spec.Modules
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, _, err := again.train(ctx, t, 2, func(iteration int) {
				if iteration == 5 {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("interrupting the run: %v", err)
			}
			if got := again.mustTrain(t, 2); got.Expert.Digest != done.Expert.Digest {
				t.Errorf("the continued run makes expert %s, the uninterrupted one %s", got.Expert.Digest, done.Expert.Digest)
			}
		})
	}
}

func TestPromptsThatTheModelCannotHoldAreLeftOut(t *testing.T) {
	e := newExercise(t)
	_, _, tok := e.volume.Load(t)
	path := filepath.Join(t.TempDir(), "set.jsonl")
	long := fmt.Sprintf("{\"prompt\": %q, \"answer\": \"a\"}\n", strings.Repeat("x", 600))
	short := "{\"prompt\": \"x\", \"answer\": \"a\"}\n"
	if err := os.WriteFile(path, []byte(long+short), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := dataset.Load(t.Context(), contract.DatasetSpec{Path: path, Format: contract.FormatPairs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := NewTask(set, tok, mustJudge(t, contract.RewardExactMatch), 512)
	if err != nil {
		t.Fatal(err)
	}
	skipped := task.Skipped()
	if task.Len() != 1 || len(skipped) != 1 || skipped[0].Index != 0 || !strings.HasPrefix(skipped[0].Why, "line 1: the prompt has ") {
		t.Errorf("%d records, skipped %v; want one of each", task.Len(), skipped)
	}
}

func TestMatricesInBFloat16TeachTheSame(t *testing.T) {
	e := newExercise(t)
	e.spec.Hyperparameters.Iterations, e.spec.Hyperparameters.DType = 40, "bf16"
	done := e.mustTrain(t, 2)
	if got := done.Expert.Training.BestScore; got < 0.3 {
		t.Errorf("the expert scores %v, want at least 0.3", got)
	}
	exact := newExercise(t)
	exact.spec.Hyperparameters.Iterations = 40
	if exact.mustTrain(t, 2).Expert.Digest == done.Expert.Digest {
		t.Error("with matrices in bf16 the expert has the same bits: they were not")
	}
}

func TestAnExpertComesWithItsMetricsAndItsCurve(t *testing.T) {
	e := newExercise(t)
	done := e.mustTrain(t, 2)
	scores := 0
	all := e.history(t, done)
	for i, p := range all {
		if p.Iteration != i+1 || p.Reward < -1 || p.Reward > 1 || p.KL == nil || *p.KL < 0 || p.AnswerTokens != 48 {
			t.Errorf("line %d is %+v", i+1, p)
		}
		if p.Score != nil {
			scores++
		}
	}
	if len(all) != 12 || scores != 3 {
		t.Errorf("%d iterations and %d validations, want 12 and 3", len(all), scores)
	}
	curve, err := os.Open(filepath.Join(e.volume.ExpertDir(t, done.Expert.Digest), CurveFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = curve.Close() }()
	points := 0
	for d := xml.NewDecoder(curve); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the curve is no XML: %v", err)
		}
		if s, ok := token.(xml.StartElement); ok && s.Name.Local == "circle" {
			points++
		}
	}
	if points != 4 { // the base model and three validations
		t.Errorf("the curve has %d validation points, want 4", points)
	}
}

func TestTheResultDoesNotDependOnThreads(t *testing.T) {
	one, four := newExercise(t), newExercise(t)
	a, b := one.mustTrain(t, 1), four.mustTrain(t, 4)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("results differ (-1 thread +4 threads):\n%s", diff)
	}
}

func TestAnotherSeedIsAnotherExpert(t *testing.T) {
	a, b := newExercise(t), newExercise(t)
	b.spec.Hyperparameters.Seed++
	if x, y := a.mustTrain(t, 2), b.mustTrain(t, 2); x.Expert.Digest == y.Expert.Digest {
		t.Error("two seeds gave one expert")
	}
}

func TestAFinishedRunIsNotRunAgain(t *testing.T) {
	e := newExercise(t)
	want := e.mustTrain(t, 2)
	iterations := 0
	got, _, err := e.train(t.Context(), t, 2, func(int) { iterations++ })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || iterations > 0 {
		t.Errorf("run again for %d iterations, results differ (-first +second):\n%s", iterations, diff)
	}
	// When the expert has gone, it is made again.
	if err := os.RemoveAll(e.volume.ExpertDir(t, want.Expert.Digest)); err != nil {
		t.Fatal(err)
	}
	if got := e.mustTrain(t, 2); got.Expert.Digest != want.Expert.Digest {
		t.Errorf("the expert made again is %s, want %s", got.Expert.Digest, want.Expert.Digest)
	}
}

func TestPatienceEndsARun(t *testing.T) {
	e := newExercise(t)
	h := &e.spec.Hyperparameters
	h.LearningRate, h.ValidationInterval, h.Patience, h.Iterations = 1e-9, 1, 2, 100
	done := e.mustTrain(t, 2)
	// The first validation is the best so far; two more are not better.
	if got := done.Expert.Training.Iteration; got != 3 {
		t.Errorf("the run ended after iteration %d, want 3", got)
	}
}

func TestAPerfectValidationEndsARun(t *testing.T) {
	e := newExercise(t)
	h := &e.spec.Hyperparameters
	h.Iterations, h.ValidationInterval, e.spec.Validation.Limit = 400, 2, 1
	done := e.mustTrain(t, 2)
	got := done.Expert.Training
	if got.BestScore != 1 || got.Iteration >= h.Iterations || got.Iteration%2 != 0 {
		t.Fatalf("the run ended as %+v, want it to end with the first validation of 1", *got)
	}
	// The expert is the one of that validation, whatever was still allowed.
	h.Iterations, e.spec.RunID = got.Iteration, "exactly"
	if exactly := e.mustTrain(t, 2); exactly.Expert.Digest != done.Expert.Digest {
		t.Errorf("a run of %d iterations published %s, the one that ended there %s", got.Iteration, exactly.Expert.Digest, done.Expert.Digest)
	}
}

func TestWithoutAPenaltyTheBaseModelIsAskedOnlyForValidations(t *testing.T) {
	e := newExercise(t)
	h := &e.spec.Hyperparameters
	history := func(klWeight float64, interval int) []point {
		h.KLWeight, h.ValidationInterval = klWeight, interval
		e.spec.RunID = fmt.Sprint("run-", klWeight, "-", interval)
		return e.history(t, e.mustTrain(t, 2))
	}
	sparse, every := history(0, 4), history(0, 1)
	for i, p := range sparse {
		if due := p.Iteration%4 == 0; (p.KL != nil) != due {
			t.Errorf("iteration %d has a divergence: %v; want %v", p.Iteration, p.KL != nil, due)
		}
		q := every[i]
		if q.KL == nil {
			t.Fatalf("iteration %d was validated and has no divergence", q.Iteration)
		}
		if p.KL != nil && *p.KL != *q.KL {
			t.Errorf("iteration %d: divergence %v, where each is measured %v", p.Iteration, *p.KL, *q.KL)
		}
		// Asking the base model changes nothing else.
		p.KL, q.KL, p.Score, q.Score = nil, nil, nil, nil
		if diff := cmp.Diff(q, p); diff != "" {
			t.Errorf("iteration %d differs from the one whose divergence was measured:\n%s", i+1, diff)
		}
	}
	for _, p := range history(0.01, 4) {
		if p.KL == nil {
			t.Errorf("iteration %d was penalised by a divergence that is not in its metrics", p.Iteration)
		}
	}
}

func TestDivergenceIsPermanentAndPublishesNothing(t *testing.T) {
	e := newExercise(t)
	e.spec.Hyperparameters.Parameterization = contract.ParameterizationDirect
	e.spec.Hyperparameters.LearningRate = 3e38
	e.spec.Hyperparameters.Iterations = 50
	_, _, err := e.train(t.Context(), t, 2, nil)
	if reason, permanent := failure.Of(err); reason != contract.ReasonDiverged || !permanent {
		t.Fatalf("%v is classified as %s, permanent %v; want permanent %s", err, reason, permanent, contract.ReasonDiverged)
	}
	if !strings.Contains(err.Error(), "learningRate") {
		t.Errorf("error %q says no remedy", err)
	}
	entries, err := os.ReadDir(filepath.Join(e.volume.Root, contract.DirExperts))
	if err == nil && len(entries) > 0 {
		t.Errorf("%d experts were published", len(entries))
	}
}

func TestInputsThatDoNotFitAreRefused(t *testing.T) {
	e := newExercise(t)
	other := contract.DigestPrefix + strings.Repeat("0", 64)
	tests := []struct {
		name          string
		change        func(t *testing.T, s *contract.TrainSpec)
		wantReason    string
		wantPermanent bool
		wantText      string
	}{
		{name: "a model that is not there", wantReason: contract.ReasonSourceNotFound, wantText: "t2 fetch",
			change: func(_ *testing.T, s *contract.TrainSpec) { s.BaseDigest = other }},
		{name: "a decomposition that is not there", wantReason: contract.ReasonSourceNotFound, wantText: "t2 decompose",
			change: func(_ *testing.T, s *contract.TrainSpec) { s.DecompositionDigest = other }},
		{name: "a module that was not decomposed", wantReason: contract.ReasonUsage, wantPermanent: true, wantText: "q_proj",
			change: func(_ *testing.T, s *contract.TrainSpec) { s.Modules = []string{"q_proj"} }},
		{name: "a data set that is not there", wantReason: contract.ReasonSourceNotFound, wantText: "validation data",
			change: func(_ *testing.T, s *contract.TrainSpec) { s.Validation.Path = "/nonexistent.jsonl" }},
		{name: "a prompt beyond the model's positions", wantReason: contract.ReasonInvalidDataset, wantPermanent: true, wantText: "long.jsonl, line 1: the prompt has",
			change: func(t *testing.T, s *contract.TrainSpec) {
				s.Train.Path = filepath.Join(t.TempDir(), "long.jsonl")
				line := fmt.Sprintf("{\"prompt\": %q, \"answer\": \"a\"}\n", strings.Repeat("x", 600))
				if err := os.WriteFile(s.Train.Path, []byte(line), 0o600); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "a run identifier that is a path", wantReason: contract.ReasonUsage, wantPermanent: true, wantText: "runID",
			change: func(_ *testing.T, s *contract.TrainSpec) { s.RunID = "../../etc" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			changed := e
			test.change(t, &changed.spec)
			_, _, err := changed.train(t.Context(), t, 2, nil)
			reason, permanent := failure.Of(err)
			if reason != test.wantReason || permanent != test.wantPermanent || !strings.Contains(err.Error(), test.wantText) {
				t.Errorf("%v is classified as %s, permanent %v; want %q in it, %s, %v", err, reason, permanent, test.wantText, test.wantReason, test.wantPermanent)
			}
		})
	}
}

func TestChangedModelFilesAreNoticed(t *testing.T) {
	e := newExercise(t)
	path := filepath.Join(e.volume.ModelDir, "model.safetensors")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = e.train(t.Context(), t, 2, nil)
	if reason, permanent := failure.Of(err); reason != contract.ReasonDigestMismatch || !permanent {
		t.Errorf("%v is classified as %s, permanent %v", err, reason, permanent)
	}
}
