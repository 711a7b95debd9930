package model_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// golden holds values computed by PyTorch in float64:
//
//	/usr/bin/python3 hack/golden/model.py
type golden struct {
	Sequences []struct {
		Tokens []int32 `json:"tokens"`
		From   int     `json:"from"`
	} `json:"sequences"`
	Rewards   []float64            `json:"rewards"`
	Dense     [][][]float64        `json:"dense"`    // A sequence: [T, V].
	Factored  [][][]float64        `json:"factored"` // A sequence: [T−1−From, V].
	Loss      float64              `json:"loss"`
	Gradients map[string][]float64 `json:"gradients"`
}

// Tolerances, absolute plus relative: some hundreds of float32 roundings for
// logits of size 1 to 5, and a few more for sums over tokens.
const (
	logitTolerance    = 2e-5
	gradientTolerance = 5e-5
)

func readGolden(t *testing.T, name string) (golden, string) {
	t.Helper()
	dir := filepath.Join("testdata", name)
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	return g, dir
}

// readFactors reads the scaled decomposition that belongs to a golden model.
func readFactors(t *testing.T, dir string, m *model.Model) map[string]model.Factors {
	t.Helper()
	f, err := checkpoint.Open(filepath.Join(dir, "factors.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	read := func(name string) *tensor.Tensor {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	out := map[string]model.Factors{}
	for _, info := range m.Linears() {
		out[info.Name] = model.Factors{U: read(info.Name + ".U"), S: read(info.Name + ".s").Data, Vt: read(info.Name + ".Vt")}
	}
	return out
}

func wantNear(t *testing.T, what string, got []float32, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= tolerance*(1+math.Abs(w))) {
			t.Fatalf("%s: number %d is %.7g, want %.7g (off by %.2g)", what, i, got[i], w, d)
		}
	}
}

// eachGolden runs a test for every family, on every instruction path of this
// processor.
func eachGolden(t *testing.T, test func(t *testing.T, name string)) {
	t.Helper()
	for _, path := range registrytest.Paths() {
		for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
			t.Run(path+"/"+name, func(t *testing.T) {
				t.Setenv(cpu.EnvPath, path)
				test(t, name)
			})
		}
	}
}

func TestLogitsEqualPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, name string) {
		g, dir := readGolden(t, name)
		m, err := load(t.Context(), newBackend(t, 2), dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.NewCache(len(g.Sequences), 20)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var segments []model.Segment
		for i, q := range g.Sequences {
			segments = append(segments, model.Segment{Seq: i, Tokens: q.Tokens, AllLogits: true})
		}
		logits, err := m.Step(t.Context(), c, segments)
		if err != nil {
			t.Fatal(err)
		}
		row := 0
		for i := range g.Sequences {
			for j, want := range g.Dense[i] {
				wantNear(t, fmt.Sprintf("sequence %d, position %d", i, j), logits.Row(row), want, logitTolerance)
				row++
			}
		}
	})
}

func TestGradientsOfTheScaleEqualPyTorch(t *testing.T) {
	eachGolden(t, func(t *testing.T, name string) {
		g, dir := readGolden(t, name)
		gradientsEqual(t, g, g, dir, plainly(t))
	})
}

// gradientsEqual takes the sequences of a golden model, scaled, through a forward pass, and
// compares logits, loss and gradients with those of want.
func gradientsEqual(t *testing.T, g, want golden, dir string, forward pass) {
	t.Helper()
	base, err := load(t.Context(), newBackend(t, 2), dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := base.WithFactors(readFactors(t, dir, base))
	if err != nil {
		t.Fatal(err)
	}
	var sequences []model.Sequence
	for _, q := range g.Sequences {
		sequences = append(sequences, model.Sequence{Tokens: q.Tokens, From: q.From})
	}
	logits, tape := forward(m, base, sequences)
	wantNear(t, "logits", logits.Data, slices.Concat(slices.Concat(want.Factored...)...), logitTolerance)

	loss, gradient := policyGradient(logits, sequences, g.Rewards)
	if math.Abs(loss-want.Loss) > 1e-4 {
		t.Errorf("the loss is %v, want %v", loss, want.Loss)
	}
	got := backward(t, m, tape, gradient)
	if len(got) != len(want.Gradients) {
		t.Errorf("%d gradients, want %d", len(got), len(want.Gradients))
	}
	for projection, w := range want.Gradients {
		wantNear(t, projection, got[projection].S, w, gradientTolerance)
	}
}

// policyGradient returns −Σ reward·log π(answer) and its gradient.
func policyGradient(logits *tensor.Tensor, sequences []model.Sequence, rewards []float64) (float64, *tensor.Tensor) {
	gradient := tensor.New(logits.Shape...)
	var loss float64
	row := 0
	for i, q := range sequences {
		for _, next := range q.Tokens[q.From+1:] {
			var total float64
			for _, v := range logits.Row(row) {
				total += math.Exp(float64(v))
			}
			for j, v := range logits.Row(row) {
				gradient.Row(row)[j] = float32(rewards[i] * math.Exp(float64(v)) / total)
			}
			gradient.Row(row)[next] -= float32(rewards[i])
			loss -= rewards[i] * (float64(logits.Row(row)[next]) - math.Log(total))
			row++
		}
	}
	return loss, gradient
}
