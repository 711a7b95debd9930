package train

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train/rollout"
)

// evolving is the exercise as a search, which draws answers.
func evolving(t *testing.T) exercise {
	t.Helper()
	e := newExercise(t)
	h := &e.spec.Hyperparameters
	e.spec.Objective, h.Baseline, h.KLWeight = contract.ObjectiveEvolution, contract.BaselineNone, 0
	h.BatchSize, h.Population, h.Sigma, h.TruncatedRank, h.Iterations = 12, 16, 0.3, 16, 24
	return e
}

// forward is a backend that computes no gradient.
type forward struct{ backend.Backend }

var errBackward = errors.New("a gradient was asked for")

func (forward) MatMulBackward(int, ...backend.Product) error { return errBackward }

func TestEvolutionTeachesWithoutAGradient(t *testing.T) {
	for name, change := range map[string]func(*contract.Hyper){
		"answers that are drawn": func(*contract.Hyper) {},
		"greedy answers, and z itself": func(h *contract.Hyper) {
			h.Rollout, h.Parameterization, h.Sigma = contract.RolloutGreedy, contract.ParameterizationDirect, 0.1
		},
		"experts that act on answers alone": func(h *contract.Hyper) {
			h.Activation, h.Sigma, h.Iterations = contract.ActivationAnswer, 0.6, 30 // It acts on one token alone.
		},
		"all singular values, on integers": func(h *contract.Hyper) {
			h.DType, h.TruncatedRank, h.Parameterization = contract.DTypeInt8, 0, contract.ParameterizationDirect
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := evolving(t)
			change(&e.spec.Hyperparameters)
			done, err := Run(t.Context(), e.spec, Options{
				Backend: forward{registrytest.Open(t, 2)}, Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			if training := done.Expert.Training; training.BestScore < 0.3 {
				t.Errorf("the expert scores %v, the base %v; want at least 0.3", training.BestScore, training.BaselineScore)
			}
			all := e.history(t, done)
			for i, p := range all {
				if p.Iteration != i+1 || p.Reward < -1 || p.BestReward == nil || *p.BestReward < p.Reward-1e-9 || p.Spread == nil || !(*p.Spread > 0) || p.AnswerTokens == 0 || p.KL != nil {
					t.Errorf("line %d is %+v", i+1, p)
				}
			}
			if e.spec.Hyperparameters.DType != contract.DTypeInt8 {
				e.publishes(t, done)
			}
		})
	}
}

// TestAnInterruptedSearchEndsWithTheSameBits stops a search after each generation, so
// that each goes on from what a file says, on another number of threads.
func TestAnInterruptedSearchEndsWithTheSameBits(t *testing.T) {
	shorter := func(e *exercise) {
		e.spec.Hyperparameters.Iterations, e.spec.Hyperparameters.ValidationInterval = 6, 2
	}
	undisturbed := evolving(t)
	shorter(&undisturbed)
	want := undisturbed.mustTrain(t, 2)

	disturbed := evolving(t)
	shorter(&disturbed)
	stops := 0
	for ; ; stops++ {
		if stops > 10 {
			t.Fatal("the run does not come to an end")
		}
		ctx, cancel := context.WithCancel(t.Context())
		began := -1
		got, _, err := disturbed.train(ctx, t, 1+stops%2, func(iteration int) {
			if began < 0 {
				began = iteration
			}
			if iteration > began {
				cancel()
			}
		})
		cancel()
		if err == nil {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("results differ (-undisturbed +disturbed):\n%s", diff)
			}
			break
		}
		if reason, permanent := failure.Of(err); reason != contract.ReasonInterrupted || permanent {
			t.Fatalf("%v (%s, permanent %v), want an interruption", err, reason, permanent)
		}
	}
	if stops < 4 {
		t.Errorf("the run was interrupted %d times only", stops)
	}
}

// TestASearchThatFindsNothingEnds: no candidate of any generation is better than another,
// so that each is drawn from a wider distribution, until it is as wide as makes sense.
func TestASearchThatFindsNothingEnds(t *testing.T) {
	e := evolving(t)
	path := filepath.Join(t.TempDir(), "impossible.jsonl")
	if err := os.WriteFile(path, []byte(`{"prompt": "x", "answer": "two words"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e.spec.Train.Path, e.spec.Validation.Path = path, path
	e.spec.Hyperparameters.Iterations, e.spec.Hyperparameters.ValidationInterval = 1000, 1000
	done := e.mustTrain(t, 2)
	training := done.Expert.Training
	if training.Iteration == 0 || training.Iteration > 100 || training.BestScore != 0 {
		t.Errorf("the run ended as %+v, want it ended early", *training)
	}
	all := e.history(t, done)
	if last := all[len(all)-1]; last.Score == nil {
		t.Errorf("the last generation was not validated: %+v", last)
	}
}

// prepared returns the exercise's run, not begun.
func (e exercise) prepared(t *testing.T, dir string) *trainer {
	t.Helper()
	judge := mustJudge(t, e.spec.Reward)
	data, err := loadSets(t.Context(), e.spec, judge)
	if err != nil {
		t.Fatal(err)
	}
	trainer, err := newTrainer(t.Context(), e.spec, "sha256:run", data, judge, dir, Options{
		Backend: registrytest.Open(t, 2), Progress: jobs.NewProgress(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return trainer
}

func TestEvolutionLetsGoOfTheBase(t *testing.T) {
	trainer := evolving(t).prepared(t, t.TempDir())
	base := weak.Make(trainer.base)
	if err := trainer.advance(t.Context()); err != nil { // The base's score.
		t.Fatal(err)
	}
	if trainer.state.BaselineScore == unknownScore || base.Value() == nil {
		t.Fatal("the base was not scored")
	}
	if err := trainer.advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	if base.Value() != nil {
		t.Error("the base is held although nothing asks it any more")
	}
	if trainer.state.Iteration != 1 {
		t.Errorf("%d generations were made, want 1", trainer.state.Iteration)
	}
}

// TestCandidatesAreJudgedAsTheExpertsThatTheyWouldBe compares a candidate's reward with
// the score of the model that is validated, and wants no trace of what was applied before.
func TestCandidatesAreJudgedAsTheExpertsThatTheyWouldBe(t *testing.T) {
	for _, activation := range []string{contract.ActivationPrompt, contract.ActivationAnswer} {
		t.Run(activation, func(t *testing.T) { candidatesAreJudged(t, activation) })
	}
}

func candidatesAreJudged(t *testing.T, activation string) {
	t.Helper()
	e := evolving(t)
	e.spec.Hyperparameters.Rollout, e.spec.Hyperparameters.Activation = contract.RolloutGreedy, activation
	trainer := e.prepared(t, t.TempDir())
	evolution := trainer.objective.(*evolution)
	s, err := search.ResumeCMA(evolution.options, *trainer.state.search)
	if err != nil {
		t.Fatal(err)
	}
	candidates := s.Ask()
	var scores []float64
	for _, x := range candidates {
		p, err := evolution.layout.Scatter(x, evolution.start)
		if err != nil {
			t.Fatal(err)
		}
		if err := trainer.method.apply(p); err != nil {
			t.Fatal(err)
		}
		r, err := trainer.validate.Evaluate(t.Context(), trainer.answerer(trainer.method.model()), trainer.hyper.MaxNewTokens)
		if err != nil {
			t.Fatal(err)
		}
		scores = append(scores, 2*r.Score-1)
	}
	if err := evolution.method.reset(); err != nil {
		t.Fatal(err)
	}
	fitness, _, err := evolution.evaluate(t.Context(), trainer, candidates)
	if err != nil {
		t.Fatal(err)
	}
	differ := false
	for i, f := range fitness {
		if math.Abs(f.Score-scores[i]) > 1e-12 {
			t.Errorf("candidate %d has the reward %v in the batch of all, and %v alone", i, f.Score, scores[i])
		}
		differ = differ || f.Score != fitness[0].Score
	}
	if !differ {
		t.Error("all candidates are alike: the test says nothing")
	}
}

func TestFitnessIsTheMeanRewardAndTheLikelihoodOfRightAnswers(t *testing.T) {
	answer := func(likelihood float64) *rollout.Answer { return &rollout.Answer{LogLikelihood: likelihood} }
	for name, test := range map[string]struct {
		answers []*rollout.Answer
		right   []bool
		want    search.Fitness
	}{
		"half of them right": {
			[]*rollout.Answer{answer(-1), answer(-2), answer(-3), answer(-4)}, []bool{true, false, true, false}, search.Fitness{Score: 0, TieBreak: -2},
		},
		"none right":      {[]*rollout.Answer{answer(-1), answer(-2)}, []bool{false, false}, search.Fitness{Score: -1, TieBreak: math.NaN()}},
		"one without one": {[]*rollout.Answer{answer(-1), nil}, []bool{true, false}, search.Fitness{Score: math.NaN(), TieBreak: math.NaN()}},
	} {
		if diff := cmp.Diff(test.want, earned(test.answers, test.right), cmp.Comparer(func(a, b float64) bool {
			return a == b || math.IsNaN(a) && math.IsNaN(b)
		})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestASearchGoesOnFromItsOwnCheckpointOnly(t *testing.T) {
	dir := t.TempDir()
	e := evolving(t)
	trainer := e.prepared(t, dir)
	for range 3 {
		if err := trainer.advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := trainer.state.save(dir); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(saved, []byte(prefixM)) {
		t.Error("the checkpoint of a search has moments")
	}
	if got := e.prepared(t, dir).state; got.Iteration != 2 || cmp.Diff(trainer.state, got, cmp.AllowUnexported(state{})) != "" {
		t.Errorf("the state differs (-saved +read):\n%s", cmp.Diff(trainer.state, got, cmp.AllowUnexported(state{})))
	}
	for name, damage := range map[string]func(s *state){
		"without a search":          func(s *state) { s.search = nil },
		"of another sigma":          func(s *state) { s.search.CMA.Options.Sigma /= 2 },
		"of fewer generations":      func(s *state) { s.search.History = s.search.History[:1] },
		"with a step that is none":  func(s *state) { s.search.CMA.Sigma = -1 },
		"with another's dimensions": func(s *state) { s.search.CMA.Mean = s.search.CMA.Mean[1:] },
	} {
		damaged := trainer.state.clone()
		encoded := *damaged.search
		distribution := *encoded.CMA
		encoded.CMA, damaged.search = &distribution, &encoded
		damage(damaged)
		if err := damaged.save(dir); err != nil {
			t.Fatal(err)
		}
		if got := e.prepared(t, dir).state; got.Iteration != 0 {
			t.Errorf("a state %s was gone on from", name)
		}
	}
}

func TestWhatCannotBeSearchedIsRefused(t *testing.T) {
	valid := validSpec()
	valid.Objective = contract.ObjectiveEvolution
	valid.Hyperparameters.Population, valid.Hyperparameters.Sigma, valid.Hyperparameters.DType = 8, 0.1, contract.DTypeInt8
	if err := Validate(valid); err != nil {
		t.Fatalf("a valid specification is refused: %v", err)
	}
	for want, change := range map[string]func(s *contract.TrainSpec){
		"method LoRA cannot be searched": func(s *contract.TrainSpec) {
			s.Hyperparameters.Method, s.Hyperparameters.Rank, s.Hyperparameters.Alpha = contract.MethodLoRA, 4, 8
		},
		"population 3":             func(s *contract.TrainSpec) { s.Hyperparameters.Population = 3 },
		"population 1025":          func(s *contract.TrainSpec) { s.Hyperparameters.Population = 1025 },
		"sigma 0":                  func(s *contract.TrainSpec) { s.Hyperparameters.Sigma = 0 },
		"sigma NaN":                func(s *contract.TrainSpec) { s.Hyperparameters.Sigma = math.NaN() },
		"truncatedRank -1":         func(s *contract.TrainSpec) { s.Hyperparameters.TruncatedRank = -1 },
		"dtype Int8 has no gradie": func(s *contract.TrainSpec) { s.Objective = contract.ObjectiveReinforce },
		"baseline Group": func(s *contract.TrainSpec) {
			s.Hyperparameters.Baseline, s.Hyperparameters.GroupSize, s.Hyperparameters.Rollout = contract.BaselineGroup, 4, contract.RolloutSample
		},
	} {
		s := valid
		change(&s)
		if err := Validate(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
