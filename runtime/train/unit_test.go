package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/sample"
	"github.com/transformersquared/operator/runtime/tensor"
	"github.com/transformersquared/operator/runtime/train/reward"
	"github.com/transformersquared/operator/test/faults"
)

func mustJudge(t testing.TB, kind string) reward.Judge {
	t.Helper()
	j, err := reward.New(kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// policyGradient replaces logits by the gradient of the objective with respect to them,
// as a microbatch does.
func policyGradient(t testing.TB, o loss, episodes []episode, logits, base *tensor.Tensor) sums {
	t.Helper()
	be := registrytest.Open(t, 2)
	give := func(data []float32) backend.Buffer {
		b, err := be.Give(data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := positions(episodes)
	buffer := give(logits.Data)
	losses, err := be.PolicyGradient(buffer, give(slices.Clone(base.Data)), at, o.klWeight, 1/float64(o.over))
	if err != nil {
		t.Fatal(err)
	}
	if logits.Data, err = be.Take(buffer); err != nil {
		t.Fatal(err)
	}
	return o.total(at, losses)
}

// TestLogitGradientsMatchFiniteDifferences differentiates the loss numerically
// with respect to every logit.
func TestLogitGradientsMatchFiniteDifferences(t *testing.T) {
	const vocabulary = 7
	episodes := []episode{
		{tokens: []int32{1, 2, 3, 4}, prompt: 2, advantage: 0.75},
		{tokens: []int32{5, 6, 0}, prompt: 1, advantage: -1.25},
		{tokens: []int32{5, 6}, prompt: 1, advantage: 0},
	}
	rng := sample.Stream(1)
	random := func() *tensor.Tensor {
		x := tensor.New(5, vocabulary)
		for i := range x.Data {
			x.Data[i] = float32(2 * rng.NormFloat64())
		}
		return x
	}
	logits, base := random(), random()
	for _, weight := range []float64{0, 0.3} {
		o := loss{klWeight: weight, over: len(episodes)}
		loss := func(l *tensor.Tensor) float64 {
			return policyGradient(t, o, episodes, l.Clone(), base).loss / float64(len(episodes))
		}
		got := logits.Clone()
		policyGradient(t, o, episodes, got, base)
		for i := range logits.Data {
			const h = 1.0 / 512
			up, down := logits.Clone(), logits.Clone()
			up.Data[i] += h
			down.Data[i] -= h
			want := (loss(up) - loss(down)) / (2 * h)
			if diff := math.Abs(want - float64(got.Data[i])); diff > 1e-5 {
				t.Errorf("λ=%v: gradient %d is %v, finite differences give %v", weight, i, got.Data[i], want)
			}
		}
	}
}

func TestDivergenceFromItselfIsZero(t *testing.T) {
	logits := tensor.New(1, 3)
	copy(logits.Data, []float32{1, -2, 0.5})
	o := loss{klWeight: 1, over: 1}
	s := policyGradient(t, o, []episode{{tokens: []int32{0, 2}, prompt: 1}}, logits.Clone(), logits)
	if math.Abs(s.kl) > 1e-12 {
		t.Errorf("KL of a distribution from itself is %v", s.kl)
	}
}

func TestExtremeLogitsStayFinite(t *testing.T) {
	logits, base := tensor.New(1, 3), tensor.New(1, 3)
	copy(logits.Data, []float32{1000, -1000, 0})
	copy(base.Data, []float32{-1000, 1000, 0})
	o := loss{klWeight: 0.1, over: 1}
	s := policyGradient(t, o, []episode{{tokens: []int32{0, 1}, prompt: 1, advantage: 1}}, logits, base)
	if !finite(s.loss) || !finite(s.kl) {
		t.Errorf("sums %+v", s)
	}
	for _, g := range logits.Data {
		if !finite(float64(g)) {
			t.Errorf("gradient %v", logits.Data)
		}
	}
}

func TestAdvantages(t *testing.T) {
	tests := []struct {
		baseline string
		right    []bool
		want     []float64
		wantMean float64
	}{
		{contract.BaselineNone, []bool{true, false, false, false}, []float64{1, -1, -1, -1}, -0.5},
		{contract.BaselineMean, []bool{true, false, false, false}, []float64{1.5, -0.5, -0.5, -0.5}, -0.5},
		{contract.BaselineMean, []bool{true, true}, []float64{0, 0}, 1},
		// Of two groups of two, one agrees.
		{contract.BaselineGroup, []bool{true, false, true, true}, []float64{1, -1, 0, 0}, 0.5},
	}
	for _, test := range tests {
		episodes := make([]episode, len(test.right))
		mean := advantages(episodes, test.right, test.baseline, 2)
		var got []float64
		for _, e := range episodes {
			got = append(got, e.advantage)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || mean != test.wantMean {
			t.Errorf("baseline %s: mean %v, advantages differ (-want +got):\n%s", test.baseline, mean, diff)
		}
	}
}

func TestClippingBoundsTheNorm(t *testing.T) {
	for _, test := range []struct{ most, want float64 }{{0, 5}, {10, 5}, {1, 1}, {1e-3, 1e-3}} {
		g := map[string][]float32{"a": {3}, "b": {4}}
		clip(g, globalNorm([]string{"a", "b"}, g), test.most)
		if got := globalNorm([]string{"a", "b"}, g); math.Abs(got-test.want) > 1e-5*test.want {
			t.Errorf("clipped to %v the norm is %v, want %v", test.most, got, test.want)
		}
	}
}

func TestAdamsFirstStepIsTheLearningRate(t *testing.T) {
	// Whatever the gradient's size, the corrected averages make it a sign.
	p, g := []float32{1, 1, 1}, []float32{0.5, -1e-4, 0}
	adamStep(p, g, moments{M: make([]float32, 3), V: make([]float32, 3)}, 1, 0.01)
	for i, want := range []float64{0.99, 1.01, 1} {
		if math.Abs(float64(p[i])-want) > 1e-5 {
			t.Errorf("p[%d] = %v, want %v", i, p[i], want)
		}
	}
}

func TestOrderSeesEveryRecordOnceAnEpoch(t *testing.T) {
	const n = 10
	tests := []struct {
		name string
		size int
	}{{"a batch that divides the data", 5}, {"one that does not", 4}, {"one larger than the data", 23}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := newOrder(1, n)
			var all []int
			for i := range 10 {
				all = append(all, o.batch(i, test.size)...)
			}
			differs := false
			for epoch := range len(all) / n {
				records := slices.Clone(all[epoch*n : (epoch+1)*n])
				differs = differs || !slices.Equal(records, all[:n])
				slices.Sort(records)
				if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, records); diff != "" {
					t.Errorf("epoch %d (-want +got):\n%s", epoch, diff)
				}
			}
			if !differs {
				t.Error("every epoch has the same order")
			}
			if diff := cmp.Diff(all[3*test.size:4*test.size], newOrder(1, n).batch(3, test.size)); diff != "" {
				t.Errorf("batch 3 asked for alone differs (-in turn +alone):\n%s", diff)
			}
		})
	}
}

func newTestState() *state {
	s := newState("sha256:spec", map[string][]float32{"a": {1, 2}, "b": {3}})
	s.BaselineScore = 0.25
	s.moments["a"].M[1], s.moments["b"].V[0] = 0.5, 0.125
	s.Iteration = 1
	s.History = []point{{Iteration: 1, Reward: -0.5, KL: new(1. / 3)}}
	s.keepBest(0.5)
	return s
}

func TestStateIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	want := newTestState()
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir, newState("sha256:spec", map[string][]float32{"a": {0, 0}, "b": {0}}), descent{}.resume)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(state{})); diff != "" {
		t.Errorf("state differs (-written +read):\n%s", diff)
	}
}

func TestWithoutACheckpointThereIsNoState(t *testing.T) {
	if s, err := loadState(t.TempDir(), newTestState(), descent{}.resume); s != nil || err != nil {
		t.Errorf("loadState = %v, %v", s, err)
	}
}

func TestCheckpointsOfAnotherRunAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := newTestState().save(dir); err != nil {
		t.Fatal(err)
	}
	_, err := loadState(dir, newState("sha256:other", map[string][]float32{"a": {0, 0}, "b": {0}}), descent{}.resume)
	if reason, permanent := failure.Of(err); reason != contract.ReasonUsage || !permanent || errors.Is(err, errUnusable) {
		t.Errorf("%v is classified as %s, permanent %v", err, reason, permanent)
	}
}

func TestDamagedCheckpointsAreUnusable(t *testing.T) {
	fresh := map[string][]float32{"a": {0, 0}, "b": {0}}
	tests := map[string]func(t *testing.T, path string){
		"truncated": func(t *testing.T, path string) {
			if err := os.Truncate(path, 100); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"of another format": func(t *testing.T, path string) {
			a := &tensor.Tensor{Shape: []int{1}, Data: []float32{1}}
			if err := checkpoint.WriteSafetensors(path, map[string]*tensor.Tensor{"a": a}, tensor.F32, nil); err != nil {
				t.Fatal(err)
			}
		},
		"with a history that does not fit": func(t *testing.T, path string) {
			s := newTestState()
			s.Iteration = 7
			if err := s.save(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		},
		"of other matrices": func(t *testing.T, path string) {
			s := newState("sha256:spec", map[string][]float32{"a": {1, 2, 3}})
			if err := s.save(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := newTestState().save(dir); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(dir, stateFile))
			if _, err := loadState(dir, newState("sha256:spec", fresh), descent{}.resume); !errors.Is(err, errUnusable) {
				t.Errorf("loadState returned %v", err)
			}
		})
	}
}

// TestBitFlipsOfACheckpointAreFound, also those in numbers, of which any is a number: a run that
// went on with others would end with others.
func TestBitFlipsOfACheckpointAreFound(t *testing.T) {
	dir := t.TempDir()
	if err := newTestState().save(dir); err != nil {
		t.Fatal(err)
	}
	found := faults.Reader{
		Path: filepath.Join(dir, stateFile), Remedies: []string{"the checkpoint cannot be continued", "use another runID"},
		Read: func() (any, error) {
			return loadState(dir, newState("sha256:spec", map[string][]float32{"a": {0, 0}, "b": {0}}), descent{}.resume)
		},
	}.Damage(t, 2000, 1)
	t.Logf("%+v", found)
	path := filepath.Join(dir, resultFile)
	want := result{Spec: "sha256:spec", Termination: contract.Termination{Expert: &contract.ExpertResult{Digest: "sha256:1", Training: &contract.TrainProgress{BestScore: 0.5}}}}
	if err := artifact.WriteSealed(path, want); err != nil {
		t.Fatal(err)
	}
	// One that is damaged is made again, of a run that always comes to the same.
	found = faults.Reader{Path: path, Remedies: []string{""}, Read: func() (any, error) {
		r, err := readResult(dir)
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return r, err
	}}.Damage(t, 500, 1)
	t.Logf("%+v", found)
}

// TestACheckpointOfAnEarlierRuntimeIsContinued: it has no digests.
func TestACheckpointOfAnEarlierRuntimeIsContinued(t *testing.T) {
	dir := t.TempDir()
	want := newTestState()
	encoded, err := json.Marshal(want.header)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.WriteSafetensors(filepath.Join(dir, stateFile), want.tensors(), tensor.F32, map[string]string{metaFormat: stateFormat, metaState: string(encoded)}); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir, newState("sha256:spec", map[string][]float32{"a": {0, 0}, "b": {0}}), descent{}.resume)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(state{})); diff != "" {
		t.Errorf("state differs (-written +read):\n%s", diff)
	}
}

func TestTheEarlierOfEqualScoresIsKept(t *testing.T) {
	s := newState("", map[string][]float32{"a": {1}})
	for i, score := range []float64{0, 0.5, 0.5, 0.25} {
		s.Iteration = i + 1
		s.p["a"][0] = float32(i + 1)
		s.keepBest(score)
	}
	if s.BestIteration != 2 || s.BestScore != 0.5 || s.bestP["a"][0] != 2 || s.SinceBest != 2 {
		t.Errorf("best is %+v with p %v, want iteration 2", s.header, s.bestP)
	}
}

func validSpec() contract.TrainSpec {
	digest := contract.DigestPrefix + strings.Repeat("a", 64)
	set := contract.DatasetSpec{Path: "x", Format: contract.FormatGSM8K}
	return contract.TrainSpec{
		Name: "n", Skill: "s", RunID: "r", DataDir: "/data", BaseDigest: digest, DecompositionDigest: digest,
		Objective: contract.ObjectiveReinforce, Train: set, Validation: set,
		Reward: contract.RewardNumeric, Hyperparameters: contract.DefaultHyper(),
	}
}

func TestEachFieldThatMakesNoSenseIsNamed(t *testing.T) {
	if err := Validate(validSpec()); err != nil {
		t.Fatalf("a valid specification is refused: %v", err)
	}
	tests := map[string]func(s *contract.TrainSpec){
		"dataDir":             func(s *contract.TrainSpec) { s.DataDir = "" },
		"runID":               func(s *contract.TrainSpec) { s.RunID = ".." },
		"skill":               func(s *contract.TrainSpec) { s.Skill = "" },
		"baseDigest":          func(s *contract.TrainSpec) { s.BaseDigest = "sha256:1" },
		"decompositionDigest": func(s *contract.TrainSpec) { s.DecompositionDigest = "" },
		"objective":           func(s *contract.TrainSpec) { s.Objective = "Guess" },
		"train.format":        func(s *contract.TrainSpec) { s.Train.Format = "CSV" },
		"validation.format":   func(s *contract.TrainSpec) { s.Validation.Format = "" },
		"reward":              func(s *contract.TrainSpec) { s.Reward = "" },
		"parameterization":    func(s *contract.TrainSpec) { s.Hyperparameters.Parameterization = "Tanh" },
		"activation":          func(s *contract.TrainSpec) { s.Hyperparameters.Activation = "Always" },
		"rollout":             func(s *contract.TrainSpec) { s.Hyperparameters.Rollout = "Beam" },
		"dtype":               func(s *contract.TrainSpec) { s.Hyperparameters.DType = "Int8" },
		"baseline":            func(s *contract.TrainSpec) { s.Hyperparameters.Baseline = "Critic" },
		"iterations":          func(s *contract.TrainSpec) { s.Hyperparameters.Iterations = 0 },
		"batchSize":           func(s *contract.TrainSpec) { s.Hyperparameters.BatchSize = 0 },
		"learningRate":        func(s *contract.TrainSpec) { s.Hyperparameters.LearningRate = math.NaN() },
		"maxGradNorm":         func(s *contract.TrainSpec) { s.Hyperparameters.MaxGradNorm = -1 },
		"klWeight":            func(s *contract.TrainSpec) { s.Hyperparameters.KLWeight = math.Inf(1) },
		"temperature": func(s *contract.TrainSpec) {
			s.Hyperparameters.Rollout, s.Hyperparameters.Temperature = contract.RolloutSample, 0
		},
		"maxNewTokens":       func(s *contract.TrainSpec) { s.Hyperparameters.MaxNewTokens = 0 },
		"validationInterval": func(s *contract.TrainSpec) { s.Hyperparameters.ValidationInterval = 0 },
		"checkpointInterval": func(s *contract.TrainSpec) { s.Hyperparameters.CheckpointInterval = 0 },
		"patience":           func(s *contract.TrainSpec) { s.Hyperparameters.Patience = -1 },
	}
	for field, change := range tests {
		s := validSpec()
		change(&s)
		if err := Validate(s); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("a bad %s gives %v", field, err)
		}
	}
}

func TestARunIsItsSpecificationAndItsDataAndNotItsPlace(t *testing.T) {
	digest := func(change func(s *contract.TrainSpec), data string) string {
		s := validSpec()
		change(&s)
		d, err := runDigest(s, data, "v")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	same := digest(func(*contract.TrainSpec) {}, "t")
	if got := digest(func(s *contract.TrainSpec) {
		s.Train.Path, s.DataDir, s.RunID, s.Hyperparameters.CheckpointInterval = "elsewhere", "/mnt", "q", 1
		s.Backend = contract.BackendCUDA
	}, "t"); got != same {
		t.Error("the run depends on where it runs")
	}
	if digest(func(s *contract.TrainSpec) { s.Hyperparameters.Seed++ }, "t") == same {
		t.Error("the run does not depend on its seed")
	}
	if digest(func(*contract.TrainSpec) {}, "other") == same {
		t.Error("the run does not depend on its data")
	}
}

// TestTheRunOfAVolumeIsThatOfAnEarlierRuntime, which goes on from its checkpoints: the
// digest of what has not changed never changes.
func TestTheRunOfAVolumeIsThatOfAnEarlierRuntime(t *testing.T) {
	got, err := runDigest(validSpec(), "sha256:t", "sha256:v")
	const want = "sha256:a3dac2050240b0248cc93f6c2951b15289ae0b7e5f2f6c6b331cb5f732c1ad52"
	if err != nil || got != want {
		t.Errorf("the run is %s (%v), and was %s: trainings under way would begin anew", got, err, want)
	}
}

func FuzzState(f *testing.F) {
	dir := f.TempDir()
	if err := newTestState().save(dir); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := loadState(dir, newState("sha256:spec", map[string][]float32{"a": {0, 0}, "b": {0}}), descent{}.resume)
		if err == nil && (len(s.p["a"]) != 2 || len(s.moments["b"].V) != 1) {
			t.Errorf("a state of the wrong shape was accepted: %+v", s)
		}
	})
}

func TestHistoryIsDeterministic(t *testing.T) {
	// metrics.jsonl enters the expert's digest, so it may hold no time.
	score := 0.5
	b, err := json.Marshal(point{Iteration: 1, Score: &score})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"iteration":1,"reward":0,"loss":0,"gradNorm":0,"answerTokens":0,"validationScore":0.5}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("a line of metrics.jsonl differs (-want +got):\n%s", diff)
	}
}
