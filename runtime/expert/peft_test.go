package expert_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

func loadGolden(t *testing.T, be backend.Backend, name string) (*checkpoint.Checkpoint, *model.Model) {
	t.Helper()
	base, err := checkpoint.OpenDir(filepath.Join("..", "model", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = base.Close() })
	m, err := model.Load(t.Context(), be, base)
	if err != nil {
		t.Fatal(err)
	}
	return base, m
}

// TestGainsScaleBiasesAsPEFTScalesThem computes a model with biases and shares of an IA3
// adapter, side by side in one batch, by scales that are the model's own, and merged, and
// wants the logits of PyTorch.
func TestGainsScaleBiasesAsPEFTScalesThem(t *testing.T) {
	be := registrytest.Open(t, 2)
	base, m := loadGolden(t, be, "qwen2")
	dir := filepath.Join("..", "peft", "testdata", "ia3-bias")
	raw, err := os.ReadFile(filepath.Join(dir, "logits.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Tokens []int32       `json:"tokens"`
		Shares []float64     `json:"shares"`
		Logits [][][]float64 `json:"logits"`
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	a, err := peft.Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	v, err := expert.FromPEFT(t.Context(), a, func(name string) (*tensor.Tensor, error) { return base.Tensor(name + ".weight") })
	if err != nil {
		t.Fatal(err)
	}
	unmerged, err := m.WithGains(slices.Sorted(maps.Keys(v.In)), slices.Sorted(maps.Keys(v.Out)))
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got *tensor.Tensor, first int, want [][]float64) {
		for i, row := range want {
			for j, w := range row {
				if d := math.Abs(float64(got.Row(first + i)[j]) - w); d > 2e-5*(1+math.Abs(w)) {
					t.Fatalf("%s: logit [%d %d] is %v, PyTorch has %v", what, i, j, got.Row(first + i)[j], w)
				}
			}
		}
	}
	var segments []model.Segment
	for i, share := range golden.Shares {
		mixed, err := expert.Mix([]expert.Weighted{{Adapter: v, Alpha: share}})
		if err != nil {
			t.Fatal(err)
		}
		composed, err := expert.Compose(t.Context(), m, nil, mixed)
		if err != nil {
			t.Fatal(err)
		}
		near(fmt.Sprintf("share %v, composed", share), step(t, composed, model.Segment{Tokens: golden.Tokens, AllLogits: true}), 0, golden.Logits[i])
		branches := map[string]model.Branch{}
		for name, one := range mixed {
			if branches[name], err = one.Branch(nil); err != nil {
				t.Fatal(err)
			}
		}
		scales, err := unmerged.NewScales(branches)
		if err != nil {
			t.Fatal(err)
		}
		segments = append(segments, model.Segment{Seq: i, Tokens: golden.Tokens, AllLogits: true, Scales: scales})
	}
	together := step(t, unmerged, segments...)
	for i, share := range golden.Shares {
		near(fmt.Sprintf("share %v, in one batch", share), together, i*len(golden.Tokens), golden.Logits[i])
	}
	for name, gains := range v.Out {
		bias, err := m.Bias(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range bias {
			bias[i] *= gains[i]
		}
		if err := unmerged.SetParameters(name, model.Parameters{Out: gains, Bias: bias}); err != nil {
			t.Fatal(err)
		}
	}
	for name, gains := range v.In {
		if err := unmerged.SetParameters(name, model.Parameters{In: gains}); err != nil {
			t.Fatal(err)
		}
	}
	merged, err := unmerged.Merged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, m := range map[string]*model.Model{"own": unmerged, "merged": merged} {
		near(what, step(t, m, model.Segment{Tokens: golden.Tokens, AllLogits: true}), 0, golden.Logits[0])
	}
	near("the base itself", step(t, m, model.Segment{Tokens: golden.Tokens, AllLogits: true}), 0, golden.Logits[2])
}

func step(t *testing.T, m *model.Model, segments ...model.Segment) *tensor.Tensor {
	t.Helper()
	c, err := m.NewCache(len(segments), 16)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := m.Step(t.Context(), c, segments)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAdaptersOfPEFTMakeItsMatrices imports adapters of every kind, and wants of their
// experts, mixed alone, the matrices that PyTorch merged; and of the experts the adapters
// again.
func TestAdaptersOfPEFTMakeItsMatrices(t *testing.T) {
	be := registrytest.Open(t, 2)
	for name, method := range map[string]expert.Method{"lora": expert.LoRA, "patterns": expert.LoRA, "dora": expert.DoRA, "ia3": expert.IA3, "ia3-bias": expert.IA3} {
		t.Run(name, func(t *testing.T) {
			base, m := loadGolden(t, be, map[bool]string{false: "llama", true: "qwen2"}[name == "ia3-bias"])
			dir := filepath.Join("..", "peft", "testdata", name)
			a, err := peft.Read(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			v, err := expert.FromPEFT(t.Context(), a, func(name string) (*tensor.Tensor, error) { return base.Tensor(name + ".weight") })
			if err != nil {
				t.Fatal(err)
			}
			if v.Method != method || int64(v.Parameters()) != a.Parameters() {
				t.Errorf("method %s, %d parameters; want %s, %d", v.Method, v.Parameters(), method, a.Parameters())
			}
			if err := v.FitsModel(m.Linears()); err != nil {
				t.Fatal(err)
			}
			digest := contract.DigestPrefix + strings.Repeat("0", 64)
			v.Manifest = contract.ExpertManifest{BaseDigest: digest, DecompositionDigest: digest}
			path := filepath.Join(t.TempDir(), expert.File)
			if err := expert.WriteFile(path, v); err != nil {
				t.Fatal(err)
			}
			if v, err = expert.Read(path); err != nil {
				t.Fatal(err)
			}
			mixed, err := expert.Mix([]expert.Weighted{{Adapter: v, Alpha: 1}})
			if err != nil {
				t.Fatal(err)
			}
			composed, err := expert.Compose(t.Context(), m, nil, mixed)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := checkpoint.Open(filepath.Join(dir, "merged.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = merged.Close() }()
			seen := 0
			for _, tensorName := range merged.Names() {
				matrix, ok := strings.CutSuffix(tensorName, ".weight")
				if !ok || mixed[matrix].Low == nil && mixed[matrix].In == nil && mixed[matrix].Out == nil {
					continue
				}
				seen++
				want, err := merged.Tensor(tensorName)
				if err != nil {
					t.Fatal(err)
				}
				got, err := composed.Weight(matrix)
				if err != nil {
					t.Fatal(err)
				}
				host, err := mixed[matrix].Matrix(t.Context(), be, nil, matrix, func() (*tensor.Tensor, error) { return base.Tensor(tensorName) })
				if err != nil {
					t.Fatal(err)
				}
				for i, w := range want.Data {
					for what, g := range map[string]float32{"composed": got.Data[i], "on the host": host.Data[i]} {
						if math.Abs(float64(g-w)) > 1e-5*(1+math.Abs(float64(w))) {
							t.Fatalf("%s, %s: element %d is %v, PyTorch has %v", matrix, what, i, g, w)
						}
					}
				}
			}
			if seen != len(mixed) {
				t.Errorf("%d of %d matrices were compared", seen, len(mixed))
			}

			again, err := v.PEFT("")
			if name == "patterns" { // Of several ranks.
				if err == nil || !strings.Contains(err.Error(), "one rank") {
					t.Errorf("several ranks: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			if err := peft.Write(out, again); err != nil {
				t.Fatal(err)
			}
			read, err := peft.Read(t.Context(), out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a.Matrices, read.Matrices, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("written and read again (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(out, peft.WeightsFile)); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := (expert.Adapter{Method: expert.SVF, Z: map[string][]float32{"x": {1}}}).PEFT(""); err == nil {
		t.Error("scales of singular values became a PEFT adapter")
	}
}
