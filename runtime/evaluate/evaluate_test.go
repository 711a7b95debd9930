package evaluate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/evaluate"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/train"
	"github.com/transformersquared/operator/runtime/train/dataset"
	"github.com/transformersquared/operator/runtime/train/reward"
)

// exercise is a volume with two experts, and two data sets to which some of their answers are
// right.
type exercise struct {
	volume *enginetest.Volume
	spec   contract.EvaluateSpec
}

const tokens = 3

func newExercise(t *testing.T) exercise {
	t.Helper()
	v := enginetest.New(t)
	ref := func(name string, seed uint64) contract.ExpertRef {
		return contract.ExpertRef{Name: name, Skill: name, Digest: v.Expert(t, name, seed).Digest}
	}
	math, code := ref("math", 11), ref("code", 12)
	x := exercise{volume: v, spec: contract.EvaluateSpec{
		Name: "assistant", RunID: "gate", DataDir: v.Root, BaseDigest: v.ModelDigest, DecompositionDigest: v.DecompositionDigest,
		Candidate:    contract.ExpertSet{Strategy: contract.StrategyPrompt, Experts: []contract.ExpertRef{math, code}},
		Stable:       &contract.ExpertSet{Strategy: contract.StrategyFixed, Experts: []contract.ExpertRef{math}},
		MaxNewTokens: tokens, Form: "merged",
	}}
	x.spec.Stable.Experts[0].Weight = 1
	for i, n := range []int{12, 5} {
		x.spec.Sets = append(x.spec.Sets, contract.EvaluationSet{
			Field: fmt.Sprintf("field-%d", i), Reward: contract.RewardExactMatch,
			Dataset: contract.DatasetSpec{Path: x.write(t, n, i), Format: contract.FormatPairs},
		})
	}
	return x
}

// write makes questions of which a third each is answered right by the base, and by each
// expert: what they say is asked of t2 eval's own means.
func (x exercise) write(t *testing.T, n, salt int) string {
	t.Helper()
	var lines bytes.Buffer
	for i := range n {
		question := fmt.Sprintf("question %d of %d?", i, salt)
		path := filepath.Join(t.TempDir(), "one.jsonl")
		writeFile(t, path, []byte(fmt.Sprintf(`{"prompt": %q, "answer": "?"}`, question)))
		who := []string{contract.BaseName, x.spec.Candidate.Experts[0].Digest, x.spec.Candidate.Experts[1].Digest}[i%3]
		said := x.evaluated(t, contract.DatasetSpec{Path: path, Format: contract.FormatPairs}, who)
		b, err := json.Marshal(map[string]string{"prompt": question, "answer": said.Verdicts[0].Answer})
		check(t, err)
		lines.Write(append(b, '\n'))
	}
	path := filepath.Join(t.TempDir(), "questions.jsonl")
	writeFile(t, path, lines.Bytes())
	return path
}

// evaluated is what `t2 eval` finds of the base or of one expert.
func (x exercise) evaluated(t *testing.T, spec contract.DatasetSpec, who string) train.Result {
	t.Helper()
	base, d, tok := x.volume.Load(t)
	m := base
	if who != contract.BaseName {
		v, err := expert.Read(x.volume.ExpertDir(t, who))
		check(t, err)
		m = compose(t, base, d, v)
	}
	judge, err := reward.New(contract.RewardExactMatch, nil)
	check(t, err)
	set, err := dataset.Load(t.Context(), spec, nil)
	check(t, err)
	task, err := train.NewTask(set, tok, judge, base.Config().MaxPositions)
	check(t, err)
	r, err := task.Evaluate(t.Context(), train.Answerer{Model: m}, tokens)
	check(t, err)
	return r
}

func compose(t *testing.T, base *model.Model, d *expert.Decomposition, v expert.Adapter) *model.Model {
	t.Helper()
	mixed, err := expert.Mix([]expert.Weighted{{Adapter: v, Alpha: 1}})
	check(t, err)
	m, err := expert.Compose(t.Context(), base, d, mixed)
	check(t, err)
	return m
}

func (x exercise) run(ctx context.Context, t *testing.T, log slog.Handler) (contract.Termination, *jobs.Progress, error) {
	t.Helper()
	p := jobs.NewProgress()
	done, err := evaluate.Run(ctx, x.spec, evaluate.Options{Threads: 2, Progress: p, Log: slog.New(log)})
	return done, p, err
}

// artifact reads what was published.
func (x exercise) artifact(t *testing.T, digest string) (contract.EvaluationManifest, contract.EvaluationRights, []contract.EvaluationSample) {
	t.Helper()
	dir, err := contract.ArtifactDir(x.volume.Root, contract.DirEvaluations, digest)
	check(t, err)
	m, err := artifact.ReadManifest[contract.EvaluationManifest](dir)
	check(t, err)
	check(t, artifact.Verify(dir, m.Files))
	if m.Digest != digest || contract.DigestFiles(m.Files) != digest {
		t.Errorf("its manifest says %s", m.Digest)
	}
	var rights contract.EvaluationRights
	b, err := os.ReadFile(filepath.Join(dir, contract.EvaluationMatrix))
	check(t, err)
	check(t, json.Unmarshal(b, &rights))
	var samples []contract.EvaluationSample
	b, err = os.ReadFile(filepath.Join(dir, contract.EvaluationSamples))
	check(t, err)
	for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
		var s contract.EvaluationSample
		check(t, d.Decode(&s))
		samples = append(samples, s)
	}
	return m, rights, samples
}

// The numbers are t2 eval's own: of the base, of each expert alone, and of a set that gives
// every request the same expert.
func TestAnEvaluationFindsWhatEvalFinds(t *testing.T) {
	x := newExercise(t)
	done, progress, err := x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	found := done.Evaluation
	math, code := x.spec.Candidate.Experts[0], x.spec.Candidate.Experts[1]
	manifest, rights, samples := x.artifact(t, found.Digest)
	want := []string{contract.AnswererStable, contract.AnswererCandidate, contract.AnswererBase, "math", "code"}
	if diff := cmp.Diff(want, manifest.Answerers); diff != "" {
		t.Errorf("who was asked (-want +got):\n%s", diff)
	}
	count := func(r train.Result) (n int) {
		for _, v := range r.Verdicts {
			if v.Correct {
				n++
			}
		}
		return n
	}
	for i, set := range x.spec.Sets {
		base, alone := x.evaluated(t, set.Dataset, contract.BaseName), x.evaluated(t, set.Dataset, math.Digest)
		got := found.Sets[i]
		if got.Base != count(base) || got.Stable != count(alone) || got.Questions != len(base.Verdicts) || !contract.ValidDigest(got.DatasetDigest) {
			t.Errorf("data set %d: %+v, eval finds %d of the base and %d of the expert", i, got, count(base), count(alone))
		}
		if got.Candidate-got.Stable != got.Won-got.Lost {
			t.Errorf("data set %d: %+v", i, got)
		}
		for name, eval := range map[string]train.Result{contract.AnswererBase: base, contract.AnswererStable: alone} {
			said := map[int]string{}
			for _, s := range samples {
				if s.Set == i && s.Answerer == name {
					said[s.Line] = s.Answer
				}
			}
			for _, v := range eval.Verdicts {
				if said[v.Line] != v.Answer {
					t.Errorf("data set %d, line %d: %s says %q, eval %q", i, v.Line, name, said[v.Line], v.Answer)
				}
			}
		}
	}
	set := x.spec.Sets[0].Dataset
	if want := []int{count(x.evaluated(t, set, math.Digest)), count(x.evaluated(t, set, code.Digest))}; !cmp.Equal(want, found.Experts) {
		t.Errorf("experts alone: %v, eval finds %v", found.Experts, want)
	}
	if found.Sets[0].Base == 0 || found.Experts[0] == 0 || found.Experts[1] == 0 {
		t.Errorf("the exercise shows nothing: %+v", found)
	}
	// The matrix has an entry wherever somebody was asked: experts alone of the gate's set.
	for i, s := range rights.Sets {
		right := make([]int, len(want))
		for _, q := range s.Questions {
			for a, r := range q.Right {
				if (r == nil) != (i > 0 && a > 2) {
					t.Errorf("data set %d, line %d: %s was asked: %v", i, q.Line, want[a], r != nil)
				}
				if r != nil && *r {
					right[a]++
				}
			}
		}
		if right[0] != found.Sets[i].Stable || right[1] != found.Sets[i].Candidate || right[2] != found.Sets[i].Base {
			t.Errorf("data set %d: the matrix has %v, the result %+v", i, right, found.Sets[i])
		}
	}
	if got := progress.Snapshot(); got.Phase != "Saving" || !strings.HasPrefix(got.Device, "cpu (") {
		t.Errorf("progress ends with %+v", got)
	}
	if left, err := filepath.Glob(filepath.Join(x.volume.Root, contract.DirRuns, "gate", "answers-*")); err != nil || len(left) > 0 {
		t.Errorf("its folder still has %v, %v", left, err)
	}
	// Once more: what was found is there, though everything is called otherwise.
	x.spec.Name, x.spec.Sets[0].Field = "other", ""
	again, p, err := x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	if !cmp.Equal(again.Evaluation, found) || p.Snapshot().Phase != "Fetching" {
		t.Errorf("again: %+v", again.Evaluation)
	}
	// An artifact that is gone is made again, the same.
	dir, err := contract.ArtifactDir(x.volume.Root, contract.DirEvaluations, found.Digest)
	check(t, err)
	check(t, os.RemoveAll(dir))
	again, _, err = x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	if again.Evaluation.Digest != found.Digest {
		t.Errorf("made again it is %s, was %s", again.Evaluation.Digest, found.Digest)
	}
}

// watcher is a log that calls back after each column.
type watcher struct {
	slog.Handler
	after func()
}

func (w watcher) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "Questions were answered" {
		w.after()
	}
	return nil
}

func (watcher) Enabled(context.Context, slog.Level) bool { return true }

func TestAnInterruptedEvaluationGoesOn(t *testing.T) {
	x := newExercise(t)
	x.spec.RunID = "whole"
	whole, _, err := x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	x.spec.RunID = "parts"
	for stops := 0; ; stops++ {
		ctx, stop := context.WithCancel(t.Context())
		done, _, err := x.run(ctx, t, watcher{slog.DiscardHandler, stop})
		stop()
		if err == nil {
			if stops < 3 {
				t.Errorf("it was interrupted %d times", stops)
			}
			if diff := cmp.Diff(whole.Evaluation, done.Evaluation, cmpopts.IgnoreFields(contract.EvaluationResult{}, "Seconds")); diff != "" {
				t.Errorf("(-in one go +in parts):\n%s", diff)
			}
			return
		}
		if !errors.Is(err, context.Canceled) || stops > 20 {
			t.Fatal(err)
		}
	}
}

// Answers that are damaged, or of another evaluation, are asked again.
func TestAnswersOfAnotherEvaluationAreNotTaken(t *testing.T) {
	x := newExercise(t)
	want, _, err := x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	dir := filepath.Join(x.volume.Root, contract.DirRuns, "gate")
	check(t, os.Remove(filepath.Join(dir, "result.json")))
	for _, content := range []string{"{", `{"spec": "another", "set": 0, "answerer": "stable set"}`} {
		writeFile(t, filepath.Join(dir, "answers-0-0.json"), []byte(content))
		got, _, err := x.run(t.Context(), t, slog.DiscardHandler)
		check(t, err)
		if got.Evaluation.Digest != want.Evaluation.Digest {
			t.Errorf("beside %s it finds %+v", content, got.Evaluation)
		}
		check(t, os.Remove(filepath.Join(dir, "result.json")))
	}
}

func TestTheFirstSetIsComparedWithTheBase(t *testing.T) {
	x := newExercise(t)
	x.spec.Stable, x.spec.Samples = nil, 7
	done, _, err := x.run(t.Context(), t, slog.DiscardHandler)
	check(t, err)
	got := done.Evaluation.Sets[0]
	if got.Questions != 7 || got.Stable != 0 || got.Candidate-got.Base != got.Won-got.Lost || done.Evaluation.StableDigest != "" {
		t.Errorf("got %+v", done.Evaluation)
	}
	if done.Evaluation.Sets[1].Questions != 5 {
		t.Errorf("the guard was asked %d questions", done.Evaluation.Sets[1].Questions)
	}
}

func TestWhatCannotBeEvaluatedIsRefused(t *testing.T) {
	good := newExercise(t)
	for _, tc := range []struct {
		name, reason, want string
		permanent          bool
		change             func(*exercise)
	}{
		{"no data set", contract.ReasonUsage, "sets has 0 data sets", true, func(x *exercise) { x.spec.Sets = nil }},
		{"a reward that there is not", contract.ReasonUsage, `sets[1].reward "Luck" is unknown`, true, func(x *exercise) { x.spec.Sets[1].Reward = "Luck" }},
		{"a name that pins", contract.ReasonUsage, "name is", true, func(x *exercise) { x.spec.Name = "a:b" }},
		{"a set that makes no sense", contract.ReasonUsage, "candidate: ", true, func(x *exercise) { x.spec.Candidate.Strategy = "Oracle" }},
		{"a damaged data set", contract.ReasonInvalidDataset, "field-1: ", true, func(x *exercise) {
			x.spec.Sets[1].Dataset.Path += ".broken"
			_ = os.WriteFile(x.spec.Sets[1].Dataset.Path, []byte("{"), 0o600) // Else the test fails for that.
		}},
		{"a question that is too long", contract.ReasonInvalidDataset, "leaves no room for an answer", true, func(x *exercise) { x.spec.ContextLength = 12 }},
		{"an expert that is gone", contract.ReasonExpertMissing, "loading the candidate set", false, func(x *exercise) {
			x.spec.Candidate.Experts[1].Digest = contract.DigestPrefix + strings.Repeat("0", 64)
		}},
		{"another base", contract.ReasonUsage, "baseDigest", true, func(x *exercise) { x.spec.BaseDigest = "x" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := good
			x.spec.RunID, x.spec.Sets = "refused", slices.Clone(good.spec.Sets)
			x.spec.Candidate.Experts = slices.Clone(good.spec.Candidate.Experts)
			tc.change(&x)
			_, _, err := x.run(t.Context(), t, slog.DiscardHandler)
			reason, permanent := failure.Of(err)
			if err == nil || reason != tc.reason || permanent != tc.permanent || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %s (permanent %v): %v", reason, permanent, err)
			}
		})
	}
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	check(t, os.WriteFile(path, content, 0o600))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
