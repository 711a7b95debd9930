package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/judge"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// TestMain is the judge's worker where the test starts itself as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == judgeWorker {
		_ = judge.Confine(os.Args[2:])
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(opened.work); err != nil {
		fmt.Fprintln(os.Stderr, "removing what the tests shared:", err)
		code = 1
	}
	os.Exit(code)
}

// opened is the laboratory that the tests' own ones are copies of: its models are
// decomposed once.
var opened struct {
	sync.Mutex
	*lab
	work string // Its folder, as long as the tests run.
}

// newLab is a laboratory of the committed models and data sets, of which a test has the
// volume and the cells for itself.
func newLab(t *testing.T) *lab {
	t.Helper()
	opened.Lock()
	defer opened.Unlock()
	if opened.lab == nil {
		work, err := os.MkdirTemp("", "lab") //nolint:usetesting // It outlives the test.
		if err != nil {
			t.Fatal(err)
		}
		opened.work = work
		if opened.lab, err = openLab(t.Context(), work, "data", "models", slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	own := *opened.lab
	own.volume = filepath.Join(t.TempDir(), "volume")
	if err := os.CopyFS(own.volume, os.DirFS(opened.volume)); err != nil {
		t.Fatal(err)
	}
	var err error
	if own.store, err = newStore(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return &own
}

// answerable is the lab's data set of a skill, of a few records.
func answerable(l *lab, k skill) contract.DatasetSpec {
	d := l.set(k, splitTest)
	d.Limit = 24
	return d
}

func TestAnExamOfTheBaseIsWhatEvalSays(t *testing.T) {
	l := newLab(t)
	for _, k := range skills {
		d := answerable(l, k)
		got, err := measure(t.Context(), l.store, l.answering("base", expertBase, alone(""), d, nil))
		if err != nil {
			t.Fatal(err)
		}
		want, err := evaluate(t.Context(), l, d)
		if err != nil {
			t.Fatal(err)
		}
		if got.share() != want || got.Of != d.Limit || got.Chosen[contract.BaseName] != d.Limit {
			t.Errorf("%s: %+v, and evaluated %v", k.name, got, want)
		}
	}
}

// evaluate scores the base as `t2 eval` does.
func evaluate(ctx context.Context, l *lab, d contract.DatasetSpec) (share float64, err error) {
	be, err := open(1)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	b := l.bases[expertBase]
	in, err := train.LoadInputs(ctx, be, train.Artifacts{DataDir: l.volume, BaseDigest: b.digest, DecompositionDigest: b.decomposition})
	if err != nil {
		return 0, err
	}
	runner, err := programs()
	if err != nil {
		return 0, err
	}
	j, err := reward.New(rewardOf(d.Format), runner)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	set, err := dataset.Load(ctx, d, j)
	if err != nil {
		return 0, err
	}
	task, err := train.NewTask(set, in.Tokenizer, j, in.Base.Config().MaxPositions)
	if err != nil {
		return 0, err
	}
	result, err := task.Evaluate(ctx, train.Answerer{Model: in.Base}, answerTokens)
	return result.Score, err
}

func TestATrainingIsInterruptedAndGoesOn(t *testing.T) {
	l := newLab(t)
	r := recipe{base: expertBase, skill: skills[0], method: contract.MethodSVF, objective: contract.ObjectiveNextToken, iterations: 1, seed: 1, rate: 0.01}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measure(ctx, l.store, l.training(r)); !errors.Is(err, context.Canceled) {
		t.Fatalf("an interrupted training returned %v", err)
	}
	made, err := measure(t.Context(), l.store, l.training(r))
	if err != nil {
		t.Fatal(err)
	}
	// The expert answers; shuffled, it has the same numbers in another order.
	v, err := l.expert(made.Digest)
	if err != nil || v.Parameters() != made.Parameters || made.Iterations != 1 {
		t.Fatalf("trained %+v, %v", made, err)
	}
	a, err := l.answer(t.Context(), exam{
		Base: l.bases["b"].digest, Decomposition: l.bases["b"].decomposition, Set: alone(made.Digest),
		Data: answerable(l, skills[0]), Foreign: true, Shuffled: 1,
	})
	if err != nil || a.Chosen["expert"] != a.Of {
		t.Errorf("on the other base: %+v, %v", a, err)
	}
	if _, err := l.answer(t.Context(), exam{
		Base: l.bases["b"].digest, Decomposition: l.bases["b"].decomposition, Set: alone(made.Digest), Data: answerable(l, skills[0]),
	}); err == nil || !strings.Contains(err.Error(), "base model") {
		t.Errorf("an expert of another base is taken without being asked for: %v", err)
	}
}

func TestAProbeSendsRequestsToExpertsOnAnswers(t *testing.T) {
	l := newLab(t)
	var digests []string
	for _, k := range skills {
		r := onAnswers(contract.ObjectiveNextToken)
		r.base, r.skill, r.iterations, r.seed, r.rate = expertBase, k, 1, 1, 0.01
		made, err := measure(t.Context(), l.store, l.training(r))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := l.expert(made.Digest); err != nil || v.Manifest.Activation != contract.ActivationAnswer {
			t.Fatalf("the expert acts on %q, %v", v.Manifest.Activation, err)
		}
		digests = append(digests, made.Digest)
	}
	fitted, err := measure(t.Context(), l.store, l.probing(expertBase))
	if err != nil {
		t.Fatal(err)
	}
	set := l.expertSet(contract.StrategyProbe, digests)
	set.Probe = &contract.ProbeRef{Digest: fitted.Digest}
	for _, k := range skills {
		d := answerable(l, k)
		got, err := measure(t.Context(), l.store, l.answering("probed", expertBase, set, d, nil))
		if err != nil {
			t.Fatal(err)
		}
		if got.Chosen[k.name] < d.Limit*9/10 {
			t.Errorf("%s: sent to %v", k.name, got.Chosen)
		}
	}
	c, err := l.compareTimes(t.Context(), exam{
		Base: l.bases[expertBase].digest, Decomposition: l.bases[expertBase].decomposition, Set: set, Data: answerable(l, skills[0]),
	}, 1)
	if err != nil || c.Chosen <= 0 || c.Pinned <= 0 || c.Questions != timedQuestions || c.Tokens != c.Questions {
		t.Errorf("timed %+v, %v", c, err)
	}
}

func TestShufflingKeepsTheNumbers(t *testing.T) {
	z := make([]float32, 64)
	for i := range z {
		z[i] = float32(i)
	}
	v := expert.Adapter{Z: map[string][]float32{"m": z}}
	a, again, b := shuffled(v, 1).Z["m"], shuffled(v, 1).Z["m"], shuffled(v, 2).Z["m"]
	if slices.Equal(a, z) || slices.Equal(a, b) || !slices.Equal(a, again) {
		t.Error("the order does not follow the seed")
	}
	slices.Sort(a)
	if !slices.Equal(a, z) || !slices.IsSorted(v.Z["m"]) {
		t.Error("the numbers are others, or the expert itself was changed")
	}
}

func TestEveryRunIsValid(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	l := &lab{volume: "volume", data: "data", digests: map[string]string{}, bases: map[string]base{}}
	for _, name := range baseNames {
		l.bases[name] = base{digest: digest, decomposition: digest}
	}
	var recipes []recipe
	for _, method := range methods {
		for _, objective := range objectives {
			recipes = append(recipes, recipe{method: method, objective: objective}, recipe{method: method, objective: objective, shots: 3, iterations: 2})
		}
	}
	for _, baseline := range []string{contract.BaselineNone, contract.BaselineGroup} {
		recipes = append(recipes, recipe{method: contract.MethodSVF, objective: contract.ObjectiveReinforce, baseline: baseline})
	}
	recipes = append(recipes,
		recipe{method: contract.MethodSVF, objective: contract.ObjectiveEvolution, rank: 16},
		recipe{method: contract.MethodSVF, objective: contract.ObjectiveReinforce, dispatch: true},
		onAnswers(contract.ObjectiveReinforce), onAnswers(contract.ObjectiveNextToken),
		recipe{method: contract.MethodSVF, objective: contract.ObjectiveReinforce, parameterization: contract.ParameterizationDirect},
	)
	names := map[string]bool{}
	for _, k := range skills {
		for _, r := range recipes {
			r.base, r.skill, r.rate = expertBase, k, 0.01
			s := l.spec(r)
			s.RunID = "run"
			if err := train.Validate(s); err != nil {
				t.Errorf("%s: %v", r.name(), err)
			}
			if names[r.name()] && !r.dispatch {
				t.Errorf("two recipes are called %s", r.name())
			}
			names[r.name()] = true
			if c := l.training(r); strings.Contains(mustPlace(t, c), "volume") {
				t.Errorf("%s: its specification names a folder", r.name())
			}
		}
	}
	if got := slices.Sorted(maps.Keys(names)); len(got) < len(recipes) {
		t.Errorf("%d names of %d recipes", len(got), len(recipes))
	}
}

// mustPlace is the specification of a cell, in JSON.
func mustPlace(t *testing.T, c cell[trained]) string {
	t.Helper()
	_, spec, err := c.place(&store{dir: filepath.Join("any", "where")})
	if err != nil {
		t.Fatal(err)
	}
	return string(spec)
}
