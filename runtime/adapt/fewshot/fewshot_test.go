package fewshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/search"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/runtime/train/rollout"
	"github.com/transformersquared/operator/test/faults"
)

// exercise is a volume with three experts, and examples to which what the second one
// answers is right.
type exercise struct {
	volume *enginetest.Volume
	spec   contract.AdaptSpec
}

const rightExpert = 1

func newExercise(t testing.TB) exercise {
	t.Helper()
	v := enginetest.New(t)
	e := exercise{volume: v, spec: contract.AdaptSpec{
		Name: "assistant", RunID: "search", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		Examples: contract.DatasetSpec{Format: contract.FormatPairs}, Reward: contract.RewardExactMatch, Search: contract.DefaultFewShot(),
	}}
	e.spec.Search.MaxNewTokens, e.spec.Search.Seed, e.spec.Search.Generations = 1, 5, 4
	for i := range 3 {
		name := fmt.Sprintf("expert-%d", i)
		e.spec.Experts = append(e.spec.Experts, contract.AdaptExpert{Name: name, Digest: v.Expert(t, name, uint64(10+i)).Digest})
	}
	e.spec.Examples.Path = e.writeExamples(t, 10)
	return e
}

// writeExamples asks questions of the right expert until so many answers are text, and not
// what the base says.
func (e exercise) writeExamples(t testing.TB, n int) string {
	t.Helper()
	base, d, tok := e.volume.Load(t)
	v, err := expert.Read(e.volume.ExpertDir(t, e.spec.Experts[rightExpert].Digest))
	if err != nil {
		t.Fatal(err)
	}
	adapted := compose(t, base, d, expert.Weighted{Adapter: v, Alpha: 1})
	var lines bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	for i, found := 0, 0; found < n; i++ {
		if i == 2000 {
			t.Fatalf("%d of 2000 answers are text", found)
		}
		question := strconv.FormatUint(rng.Uint64(), 36)
		prompt, err := train.EncodePrompt(tok, []dataset.Message{{Role: "user", Content: question}})
		if err != nil {
			t.Fatal(err)
		}
		answer := func(m *model.Model) string {
			answers, err := rollout.Generate(t.Context(), m, [][]int32{prompt}, func(int) *sample.Sampler { return train.Greedy() },
				rollout.Options{Stop: tok.EOS(), MaxNewTokens: e.spec.Search.MaxNewTokens})
			if err != nil {
				t.Fatal(err)
			}
			return tok.Decode(answers[0].Text(), true)
		}
		text := answer(adapted)
		if strings.Trim(text, printable) != "" || text == "" || text == answer(base) {
			continue
		}
		found++
		if err := json.NewEncoder(&lines).Encode(map[string]string{"prompt": question, "answer": text}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "examples.jsonl")
	if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const printable = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&()*+-./:;<=>?@[]^_{|}~"

func compose(t testing.TB, base *model.Model, d *expert.Decomposition, mixture ...expert.Weighted) *model.Model {
	t.Helper()
	mixed, err := expert.Mix(mixture)
	if err != nil {
		t.Fatal(err)
	}
	m, err := expert.Compose(t.Context(), base, d, mixed)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// watcher is a log that calls back after each generation.
type watcher struct {
	slog.Handler
	after func()
	lines *[]string
}

func (w watcher) Handle(_ context.Context, r slog.Record) error {
	if w.lines != nil {
		*w.lines = append(*w.lines, r.Message)
	}
	if r.Message == "Generation was finished" && w.after != nil {
		w.after()
	}
	return nil
}

func (watcher) Enabled(context.Context, slog.Level) bool { return true }

func (e exercise) search(ctx context.Context, t testing.TB, log slog.Handler) (contract.Termination, *jobs.Progress, error) {
	t.Helper()
	progress := jobs.NewProgress()
	done, err := Run(ctx, e.spec, Options{Backend: registrytest.Open(t, 2), Progress: progress, Log: slog.New(log)})
	return done, progress, err
}

func (e exercise) mustSearch(t testing.TB) contract.FewShotResult {
	t.Helper()
	done, _, err := e.search(t.Context(), t, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	return *done.FewShot
}

func TestASearchFindsTheExpertThatAnswersRight(t *testing.T) {
	e := newExercise(t)
	done, progress, err := e.search(t.Context(), t, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	found := *done.FewShot
	if found.Score != 1 || found.Score <= found.UniformScore || found.Score <= found.BaselineScore {
		t.Errorf("it has the score %v, equal weights %v and the base %v", found.Score, found.UniformScore, found.BaselineScore)
	}
	for k, w := range found.Weights {
		if k != rightExpert && w.Weight >= found.Weights[rightExpert].Weight {
			t.Errorf("expert %d has the weight %v, the right one %v", k, w.Weight, found.Weights[rightExpert].Weight)
		}
	}
	if alone := found.Weights[rightExpert].Score; alone != 1 {
		t.Errorf("the right expert alone has the score %v", alone)
	}
	if found.Examples != 10 || !contract.ValidDigest(found.ExamplesDigest) || found.Evaluations < e.spec.Search.Population || found.Seconds <= 0 {
		t.Errorf("it says of itself %+v", found)
	}
	got := progress.Snapshot().Search
	if got == nil || got.Generation != found.Generations || got.BestScore != 1 || got.UniformScore != found.UniformScore {
		t.Errorf("its progress is %+v", got)
	}
	// Once more: what was found is there, and nothing is computed.
	e.spec.Examples.Name = "the same by another name"
	if again := e.mustSearch(t); !cmp.Equal(again, found) {
		t.Errorf("again: %+v", again)
	}
}

func TestAnInterruptedSearchFindsTheSame(t *testing.T) {
	e := newExercise(t)
	for _, layerwise := range []bool{false, true} {
		t.Run(fmt.Sprintf("layerwise %v", layerwise), func(t *testing.T) {
			e := e
			e.spec.Search.Layerwise, e.spec.RunID = layerwise, fmt.Sprintf("whole-%v", layerwise)
			want := e.mustSearch(t)
			e.spec.RunID = fmt.Sprintf("parts-%v", layerwise)
			for stops := 0; ; stops++ {
				ctx, stop := context.WithCancel(t.Context())
				done, _, err := e.search(ctx, t, watcher{after: stop})
				stop()
				if err == nil {
					if stops < 2 {
						t.Errorf("it was interrupted %d times", stops)
					}
					got := *done.FewShot
					if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(contract.FewShotResult{}, "Seconds")); diff != "" {
						t.Errorf("(-in one go +in parts):\n%s", diff)
					}
					break
				}
				if reason, _ := failure.Of(err); reason != contract.ReasonInterrupted || stops > 20 {
					t.Fatal(err)
				}
			}
			for _, w := range want.Weights {
				if got := len(w.Layers); layerwise && got != 2 || !layerwise && got != 0 {
					t.Errorf("an expert has weights of %d layers", got)
				}
			}
		})
	}
}

// evaluator is a population beside what evaluates it one mixture after the other.
func (e exercise) evaluator(t testing.TB, layerwise bool) (*population, func(vector []float64) search.Fitness) {
	t.Helper()
	be := registrytest.Open(t, 2)
	in, err := train.LoadInputs(t.Context(), be, train.Artifacts{DataDir: e.spec.DataDir, BaseDigest: e.spec.BaseDigest, DecompositionDigest: e.spec.DecompositionDigest})
	if err != nil {
		t.Fatal(err)
	}
	experts, err := loadExperts(t.Context(), e.spec, in)
	if err != nil {
		t.Fatal(err)
	}
	judge, err := reward.New(e.spec.Reward, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := loadExamples(t.Context(), e.spec, judge)
	if err != nil {
		t.Fatal(err)
	}
	task, err := train.NewTask(set, in.Tokenizer, judge, in.Base.Config().MaxPositions)
	if err != nil {
		t.Fatal(err)
	}
	layers := 1
	if layerwise {
		layers = in.Base.Config().Layers
	}
	p, err := newPopulation(t.Context(), task, in, experts, layers, e.spec.Search)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p, func(vector []float64) search.Fitness {
		m, err := p.mixture(vector)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := engine.Composer(in.Base, in.Decomposition)(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		one := *p
		one.session, err = rollout.Start(t.Context(), merged, task.Prompts(), rollout.Options{
			Stop: task.Stop(), MaxNewTokens: e.spec.Search.MaxNewTokens, Sequences: task.Len(),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer one.close()
		fitness, err := one.evaluate(t.Context(), []engine.Mixture{{}})
		if err != nil {
			t.Fatal(err)
		}
		return fitness[0]
	}
}

// vectors are those of the first generation of a search.
func (e exercise) vectors(t testing.TB, p *population) [][]float64 {
	t.Helper()
	cem, err := search.NewCEM(options(e.spec.Search, len(p.experts), p.layers))
	if err != nil {
		t.Fatal(err)
	}
	return cem.Ask()
}

func (p *population) of(t testing.TB, vectors [][]float64) []engine.Mixture {
	t.Helper()
	mixtures := make([]engine.Mixture, len(vectors))
	for i, vector := range vectors {
		var err error
		if mixtures[i], err = p.mixture(vector); err != nil {
			t.Fatal(err)
		}
	}
	return mixtures
}

func TestABatchScoresAsMergedWeightsDoOneAfterTheOther(t *testing.T) {
	e := newExercise(t)
	for _, layerwise := range []bool{false, true} {
		p, merged := e.evaluator(t, layerwise)
		vectors := e.vectors(t, p)[:12]
		vectors = append(vectors, p.alone(rightExpert))
		got, err := p.evaluate(t.Context(), p.of(t, vectors))
		if err != nil {
			t.Fatal(err)
		}
		different := map[float64]bool{}
		for i, vector := range vectors {
			want := merged(vector)
			different[want.Score] = true
			if got[i].Score != want.Score || math.Abs(got[i].TieBreak-want.TieBreak) > 1e-4*math.Abs(want.TieBreak) {
				t.Errorf("layerwise %v, vector %v: %+v in the batch, %+v merged", layerwise, vector, got[i], want)
			}
		}
		if len(different) < 2 {
			t.Errorf("all scores are %v: nothing was shown", different)
		}
	}
}

func TestOneExpertHasAllTheWeight(t *testing.T) {
	e := newExercise(t)
	e.spec.Experts = e.spec.Experts[rightExpert:][:1]
	found := e.mustSearch(t)
	if found.Weights[0].Weight != 1 || found.Score != 1 || found.UniformScore != 1 || found.Generations != 0 || found.Evaluations != 2 {
		t.Errorf("found %+v", found)
	}
}

func TestADamagedStateIsBegunAnew(t *testing.T) {
	e := newExercise(t)
	e.spec.Search.Generations = 1
	dir := filepath.Join(e.spec.DataDir, contract.DirRuns, e.spec.RunID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"format": "t2-`), 0o600); err != nil {
		t.Fatal(err)
	}
	var lines []string
	done, _, err := e.search(t.Context(), t, watcher{lines: &lines})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(lines, "\n"), "begun anew") || done.FewShot.Generations != 1 {
		t.Errorf("logged %q, found %+v", lines, done.FewShot)
	}
}

// TestASearchMixesExpertsOfAnotherBase finds the same of an expert that is transferred as
// of one with the same z that was made for the base.
func TestASearchMixesExpertsOfAnotherBase(t *testing.T) {
	e := newExercise(t)
	e.spec.Search.Generations = 2
	want := e.mustSearch(t)
	kind := enginetest.Usual
	kind.Seed = 2
	home := enginetest.NewOf(t, kind)
	e.spec.RunID, e.spec.TransferDir = "transfer", filepath.Dir(home.Root)
	e.spec.Experts[rightExpert].Digest = home.Expert(t, e.spec.Experts[rightExpert].Name, 10+rightExpert).Digest
	e.spec.Experts[rightExpert].TransferFrom = filepath.Base(home.Root)
	got := e.mustSearch(t)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(contract.FewShotResult{}, "Seconds")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	e.spec.RunID, e.spec.TransferDir = "refused", ""
	if _, _, err := e.search(t.Context(), t, slog.DiscardHandler); err == nil || !strings.Contains(err.Error(), "no transferDir") {
		t.Errorf("without the volumes of other bases: %v", err)
	}
}

func TestWhatCannotBeSearchedIsRefused(t *testing.T) {
	whole := newExercise(t)
	for _, tc := range []struct {
		name   string
		change func(*contract.AdaptSpec)
		reason string
		want   string
	}{
		{"too few examples", func(s *contract.AdaptSpec) { s.Examples.Limit = 2 }, contract.ReasonInvalidDataset, "has 2 that can be used: a search takes 3 to 20"},
		{"no such expert", func(s *contract.AdaptSpec) { s.Experts[0].Digest = contract.DigestPrefix + strings.Repeat("e", 64) }, contract.ReasonSourceNotFound, "expert expert-0: it is not in"},
		{"one expert twice", func(s *contract.AdaptSpec) { s.Experts[0].Name = s.Experts[1].Name }, contract.ReasonUsage, `"expert-1" is listed twice`},
		{"generations without end", func(s *contract.AdaptSpec) { s.Search.Generations = 1000 }, contract.ReasonUsage, "generations 1000 must be from 1 to 100"},
		{"no elite", func(s *contract.AdaptSpec) { s.Search.Population = 4 }, contract.ReasonUsage, "elite"},
		{"another reward", func(s *contract.AdaptSpec) { s.Reward = "Taste" }, contract.ReasonUsage, `reward "Taste" is unknown`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := whole
			e.spec.Experts = append([]contract.AdaptExpert(nil), whole.spec.Experts...)
			tc.change(&e.spec)
			_, _, err := e.search(t.Context(), t, slog.DiscardHandler)
			if reason, _ := failure.Of(err); err == nil || reason != tc.reason || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v (%s), want %q (%s)", err, reason, tc.want, tc.reason)
			}
		})
	}
}

func TestAResultIsNotLongerThanWhatAJobCanTell(t *testing.T) {
	for _, tc := range []struct {
		experts, layers int
		fits            bool
	}{{64, 1, true}, {8, 30, true}, {3, 126, true}, {64, 30, false}} {
		err := fits(tc.experts, tc.layers)
		if _, permanent := failure.Of(err); (err == nil) != tc.fits || err != nil && !permanent {
			t.Errorf("%d experts in %d layers: %v", tc.experts, tc.layers, err)
		}
	}
}

func TestAStateOfOtherExamplesIsNotContinued(t *testing.T) {
	dir := t.TempDir()
	was := state{Format: stateFormat, Spec: "a", References: make([]search.Fitness, 3)}
	if err := was.save(dir); err != nil {
		t.Fatal(err)
	}
	_, err := loadState(dir, "b", 2)
	if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent {
		t.Errorf("got %v", err)
	}
	if _, err := loadState(dir, "a", 3); !errors.Is(err, errUnusable) {
		t.Errorf("with another number of experts: %v", err)
	}
}

// TestBitFlipsOfASearchAreFound, in what it goes on from and in what it has come to. What is
// damaged is not continued, and the search is made again.
func TestBitFlipsOfASearchAreFound(t *testing.T) {
	dir := t.TempDir()
	was := state{Format: stateFormat, Spec: "a", References: []search.Fitness{{Score: 0.5}, {Score: 0.25}}, Evaluations: 7, Seconds: 1.5}
	if err := was.save(dir); err != nil {
		t.Fatal(err)
	}
	found := faults.Reader{
		Path: filepath.Join(dir, stateFile), Remedies: []string{"cannot be continued", "use another runID"},
		Read: func() (any, error) { return loadState(dir, "a", 1) },
	}.Damage(t, 1000, 1)
	t.Logf("%+v", found)
	path := filepath.Join(dir, resultFile)
	done := result{Spec: "a", Termination: contract.Termination{FewShot: &contract.FewShotResult{Weights: []contract.FoundWeight{{Weight: 0.75}}, Score: 0.5}}}
	if err := artifact.WriteSealed(path, done); err != nil {
		t.Fatal(err)
	}
	found = faults.Reader{Path: path, Remedies: []string{""}, Read: func() (any, error) {
		if found, ok := finished(dir, "a", 1); ok {
			return found, nil
		}
		return nil, errors.New(path + " is that of no finished search")
	}}.Damage(t, 500, 1)
	t.Logf("%+v", found)
}
