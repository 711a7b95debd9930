package expert_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/peft"
	"github.com/transformersquared/operator/runtime/tensor"
)

// TestAdaptersOfPEFTMakeItsMatrices imports adapters of every kind, and wants of their
// experts, mixed alone, the matrices that PyTorch merged; and of the experts the adapters
// again.
func TestAdaptersOfPEFTMakeItsMatrices(t *testing.T) {
	base, err := checkpoint.OpenDir(filepath.Join("..", "model", "testdata", "llama"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = base.Close() })
	be := registrytest.Open(t, 2)
	m, err := model.Load(t.Context(), be, base)
	if err != nil {
		t.Fatal(err)
	}
	for name, method := range map[string]expert.Method{"lora": expert.LoRA, "patterns": expert.LoRA, "dora": expert.DoRA, "ia3": expert.IA3} {
		t.Run(name, func(t *testing.T) {
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
