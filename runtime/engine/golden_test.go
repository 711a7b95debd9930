package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// goldenMixtures are testdata/mixtures/<model>/golden.json, which PyTorch computed in float64:
//
//	/usr/bin/python3 hack/golden/mixtures.py
type goldenMixtures struct {
	Prompt   []int32 `json:"prompt"`
	Mixtures []struct {
		// Weights of experts: one, or one for each layer.
		Weights map[string][]float64 `json:"weights"`
		// Answer is the greedy one, and Logits [T, V] are what its tokens are chosen by.
		Answer []int32     `json:"answer"`
		Logits [][]float64 `json:"logits"`
	} `json:"mixtures"`
}

// TestMixturesAreThoseOfPyTorch serves mixtures of experts of each method and of several,
// all at once, in every form, and wants the answers of PyTorch and the likelihood of every
// token.
func TestMixturesAreThoseOfPyTorch(t *testing.T) {
	for _, name := range []string{"llama", "qwen2"} {
		t.Run(name, func(t *testing.T) {
			be := registrytest.Open(t, 2)
			dir := filepath.Join("testdata", "mixtures", name)
			g := readJSON[goldenMixtures](t, filepath.Join(dir, "golden.json"))
			base, d := enginetest.Decomposed(t, filepath.Join("..", "model", "testdata", name))
			m, err := model.Load(t.Context(), be, base)
			if err != nil {
				t.Fatal(err)
			}
			mixtures := goldenMixturesOf(t, g, goldenExperts(t, dir, base, d))
			for _, form := range []engine.Form{engine.FormMerged, engine.FormUnmerged, engine.FormAuto} {
				t.Run(string(form), func(t *testing.T) { serveGolden(t, form, m, d, g, mixtures) })
			}
			t.Run("on the host", func(t *testing.T) { hostEqualsComposed(t, be, base, m, d, mixtures) })
		})
	}
}

func readJSON[T any](t *testing.T, path string) T {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

// goldenExperts reads the experts of a model, by their names.
func goldenExperts(t *testing.T, dir string, base *checkpoint.Checkpoint, d *expert.Decomposition) map[string]expert.Adapter {
	t.Helper()
	manifest := func(name string) contract.ExpertManifest {
		of := d.Manifest()
		return contract.ExpertManifest{Digest: name, BaseDigest: of.BaseDigest, DecompositionDigest: of.Digest}
	}
	experts := map[string]expert.Adapter{contract.BaseName: expert.Identity()}
	for name, z := range readJSON[map[string]map[string][]float32](t, filepath.Join(dir, "scales.json")) {
		experts[name] = expert.Adapter{Method: expert.SVF, Z: z, Manifest: manifest(name)}
	}
	configs, err := filepath.Glob(filepath.Join(dir, "*", peft.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range configs {
		folder := filepath.Dir(config)
		a, err := peft.Read(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		v, err := expert.FromPEFT(t.Context(), a, func(name string) (*tensor.Tensor, error) { return base.Tensor(name + ".weight") })
		if err != nil {
			t.Fatal(err)
		}
		v.Manifest = manifest(filepath.Base(folder))
		experts[filepath.Base(folder)] = v
	}
	return experts
}

// weighted are the experts of a mixture, by their names.
func weighted(t *testing.T, experts map[string]expert.Adapter, weights map[string][]float64) []expert.Weighted {
	t.Helper()
	var parts []expert.Weighted
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		v, ok := experts[name]
		if !ok {
			t.Fatalf("there is no expert %s", name)
		}
		part := expert.Weighted{Adapter: v, Alpha: weights[name][0]}
		if len(weights[name]) > 1 {
			part.Layers = weights[name]
		}
		parts = append(parts, part)
	}
	return parts
}

func goldenMixturesOf(t *testing.T, g goldenMixtures, experts map[string]expert.Adapter) [][]expert.Weighted {
	t.Helper()
	var all [][]expert.Weighted
	for _, m := range g.Mixtures {
		all = append(all, weighted(t, experts, m.Weights))
	}
	return all
}

// serveGolden asks an engine for the answers of all mixtures, which begin in the same step,
// and then how likely each token is behind the prompt.
func serveGolden(t *testing.T, form engine.Form, base *model.Model, d *expert.Decomposition, g goldenMixtures, parts [][]expert.Weighted) {
	t.Helper()
	h, next := gated(t, func(o *engine.Options) {
		o.Base, o.Compose, o.Factors, o.Form = base, engine.Composer(base, d), engine.NewFactors(d), form
		o.StopTokens, o.MaxBatch = nil, len(parts)+1
	})
	mixtures := make([]engine.Mixture, len(parts))
	for i, p := range parts {
		var err error
		if mixtures[i], err = engine.NewMixture(p...); err != nil {
			t.Fatal(err)
		}
	}
	h.use(t, engine.Set{Mixtures: mixtures})
	unmerged := form != engine.FormMerged
	if got := h.Form(); unmerged != (got == engine.FormUnmerged) {
		t.Fatalf("form %s became %s", form, got)
	}
	answers, before := h.together(t, next, len(parts), func(i int) engine.Request {
		return engine.Request{Mixture: mixtures[i], Prompt: g.Prompt, MaxTokens: len(g.Mixtures[i].Answer), Logprobs: engine.MaxLogprobs}
	})
	batches, steps := h.Stats().Unmerged.Batches-before.Unmerged.Batches, len(g.Mixtures[0].Answer)
	if unmerged && batches > int64(steps+1) {
		t.Errorf("%d batches for %d steps: the mixtures do not share them", batches, steps)
	}
	for i, m := range mixtures {
		if err := answersGolden(t.Context(), h, m, g, i, answers[i]); err != nil {
			t.Errorf("mixture %v: %v", g.Mixtures[i].Weights, err)
		}
	}
}

// answersGolden compares an answer, and the likelihood of every token behind the prompt, with
// the i-th mixture's.
func answersGolden(ctx context.Context, h *house, m engine.Mixture, g goldenMixtures, i int, got answer) error {
	want := g.Mixtures[i]
	if !slices.Equal(got.tokens, want.Answer) {
		return fmt.Errorf("the answer is %v, PyTorch has %v", got.tokens, want.Answer)
	}
	if len(got.probs) != len(want.Answer) {
		return fmt.Errorf("%d of %d tokens have log-probabilities", len(got.probs), len(want.Answer))
	}
	for step, p := range got.probs {
		if len(p.Top) != engine.MaxLogprobs {
			return fmt.Errorf("token %d has %d log-probabilities", step, len(p.Top))
		}
		for _, top := range p.Top {
			if err := likely(top.Value, want.Logits[step], top.Token); err != nil {
				return fmt.Errorf("token %d of the answer: %w", step, err)
			}
		}
	}
	labels := make([][]int32, len(want.Logits[0]))
	for token := range labels {
		labels[token] = []int32{int32(token)}
	}
	scores, err := h.Score(ctx, engine.ScoreRequest{Mixture: m, Prompt: g.Prompt, Labels: labels})
	if err != nil {
		return err
	}
	for token, score := range scores {
		if err := likely(score, want.Logits[0], int32(token)); err != nil {
			return fmt.Errorf("scored: %w", err)
		}
	}
	return nil
}

// likely compares a log-probability of a token with what logits make it, up to some hundreds
// of float32 roundings.
func likely(got float64, logits []float64, token int32) error {
	most, sum := slices.Max(logits), 0.0
	for _, x := range logits {
		sum += math.Exp(x - most)
	}
	want := logits[token] - most - math.Log(sum)
	if d := math.Abs(got - want); !(d <= 4e-5*(1+math.Abs(want))) {
		return fmt.Errorf("the log-probability of token %d is %v, PyTorch has %v", token, got, want)
	}
	return nil
}

// hostEqualsComposed wants of a mixture's matrices on the host, which are exported, those
// that are served merged.
func hostEqualsComposed(t *testing.T, be backend.Backend, base *checkpoint.Checkpoint, m *model.Model, d *expert.Decomposition, mixtures [][]expert.Weighted) {
	t.Helper()
	for _, parts := range mixtures {
		mixed, err := expert.Mix(parts)
		if err != nil {
			t.Fatal(err)
		}
		composed, err := expert.Compose(t.Context(), m, d, mixed)
		if err != nil {
			t.Fatal(err)
		}
		for name, one := range mixed {
			host, err := one.Matrix(t.Context(), be, d, name, func() (*tensor.Tensor, error) { return base.Tensor(name + ".weight") })
			if err != nil {
				t.Fatal(err)
			}
			served, err := composed.Weight(name)
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range served.Data {
				if d := math.Abs(float64(w - host.Data[i])); d > 1e-5*(1+math.Abs(float64(w))) {
					t.Fatalf("%s: element %d is %v on the host, %v merged", name, i, host.Data[i], w)
				}
			}
		}
	}
}
