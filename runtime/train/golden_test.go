package train

import (
	"cmp"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
)

// goldenSteps are three steps of the reference algorithm on the same batch,
// computed by PyTorch in float64:
//
//	/usr/bin/python3 hack/golden/train_step.py
type goldenSteps struct {
	Hyper struct {
		contract.Hyper
		Objective string `json:"objective"`
		Model     string `json:"model"`
	} `json:"hyper"`
	Episodes []struct {
		Tokens []int32 `json:"tokens"`
		Prompt int     `json:"prompt"`
		Right  bool    `json:"right"`
	} `json:"episodes"`
	Initial map[string][]float32 `json:"initial"`
	Steps   []struct {
		Loss     float64              `json:"loss"`
		KL       float64              `json:"kl"`
		GradNorm float64              `json:"gradNorm"`
		Gradient map[string][]float64 `json:"gradient"`
		P        map[string][]float64 `json:"p"`
	} `json:"steps"`
}

// Tolerances: float32 activations leave some 1e-6 in the loss and, relative to
// the largest of a matrix, some 1e-5 in gradients. Adam divides each gradient by
// its own size, so where one is as small as its rounding error its step may be
// off by the learning rate; few may be.
const (
	lossTolerance     = 2e-5 // relative
	gradientTolerance = 1e-4 // relative to the matrix' largest
	stepTolerance     = 2e-3 // relative to the learning rate
	mostOutliers      = 0.01 // of all parameters
)

// goldenTrainer is a trainer of the golden model, with no data.
func goldenTrainer(t *testing.T, g goldenSteps) *trainer {
	t.Helper()
	dir := filepath.Join("..", "model", "testdata", cmp.Or(g.Hyper.Model, "llama"))
	ck, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ck.Close() }()
	be := registrytest.Open(t, 2)
	base, err := model.Load(t.Context(), be, ck)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	m, err := expert.Decompose(t.Context(), ck, root, contract.DecomposeSpec{
		BaseDigest: contract.DigestPrefix + strings.Repeat("0", 64), Modules: expert.Modules(), DType: "F32",
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	decDir, err := contract.ArtifactDir(root, contract.DirDecompositions, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := expert.OpenDecomposition(decDir)
	if err != nil {
		t.Fatal(err)
	}
	g.Hyper.ValidationInterval = 1 // The reference has the divergence of every step.
	method, err := newMethod(inputs{base: base, dec: dec}, contract.TrainSpec{Hyperparameters: g.Hyper.Hyper, Modules: expert.Modules()})
	if err != nil {
		t.Fatal(err)
	}
	initial, err := method.initial()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range initial {
		if len(p) != len(g.Initial[name]) {
			t.Fatalf("%s has %d parameters, the golden has %d", name, len(p), len(g.Initial[name]))
		}
	}
	return &trainer{hyper: g.Hyper.Hyper, base: base, method: method, budget: 16, state: newState("", g.Initial)}
}

func TestTrainingStepsMatchTheReferenceAlgorithm(t *testing.T) {
	for _, name := range []string{"sigmoid", "direct", "lora", "dora", "dora-bias", "ia3", "ia3-bias", "nexttoken", "nexttoken-lora", "nexttoken-dora", "nexttoken-ia3"} {
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("testdata", "step-"+name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var g goldenSteps
			if err := json.Unmarshal(raw, &g); err != nil {
				t.Fatal(err)
			}
			trainer := goldenTrainer(t, g)
			episodes := make([]episode, len(g.Episodes))
			right := make([]bool, len(g.Episodes))
			for i, e := range g.Episodes {
				episodes[i], right[i] = episode{tokens: e.Tokens, prompt: e.Prompt}, e.Right
			}
			b := batch{episodes: episodes, loss: loss{klWeight: g.Hyper.KLWeight, over: len(episodes)}}
			if g.Hyper.Objective == contract.ObjectiveNextToken {
				b.reward, b.loss.over = math.NaN(), len(positions(episodes))
				for i := range episodes {
					episodes[i].advantage = 1
				}
			} else {
				b.reward = advantages(episodes, right, g.Hyper.Baseline, g.Hyper.GroupSize)
			}
			outliers, parameters := 0, 0
			for i, want := range g.Steps {
				if err := trainer.method.apply(trainer.state.p); err != nil {
					t.Fatal(err)
				}
				checkGradient(t, trainer, b, want.Gradient)
				next, err := trainer.update(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				got := next.History[i]
				for what, pair := range map[string][2]float64{
					"loss": {got.Loss, want.Loss}, "KL": {*got.KL, want.KL}, "gradient norm": {got.GradNorm, want.GradNorm},
				} {
					if math.Abs(pair[0]-pair[1]) > lossTolerance*(1+math.Abs(pair[1])) {
						t.Errorf("step %d: %s is %v, the reference has %v", i+1, what, pair[0], pair[1])
					}
				}
				for matrix, p := range want.P {
					for j, v := range p {
						parameters++
						if math.Abs(float64(next.p[matrix][j])-v) > stepTolerance*g.Hyper.LearningRate {
							outliers++
						}
					}
				}
				trainer.state = next
			}
			if float64(outliers) > mostOutliers*float64(parameters) {
				t.Errorf("%d of %d parameters differ from the reference by more than %v learning rates", outliers, parameters, stepTolerance)
			}
		})
	}
}

// checkGradient compares dL/dp before clipping.
func checkGradient(t *testing.T, trainer *trainer, b batch, want map[string][]float64) {
	t.Helper()
	d, _, err := b.loss.gradients(t.Context(), trainer.method.model(), trainer.base, b.episodes, trainer.budget)
	if err != nil {
		t.Fatal(err)
	}
	all := trainer.method.gradient(d, trainer.state.p)
	for matrix, g := range want {
		got := all[matrix]
		largest := 0.0
		for _, v := range g {
			largest = max(largest, math.Abs(v))
		}
		for i, v := range g {
			if math.Abs(float64(got[i])-v) > gradientTolerance*largest {
				t.Errorf("%s: gradient %d is %v, the reference has %v (largest %v)", matrix, i, got[i], v, largest)
			}
		}
	}
}
