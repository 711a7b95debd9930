package export_test

import (
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/export"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tensor"
)

// update writes testdata/exported anew; the logits that PyTorch computes of it come
// after:
//
//	go test ./runtime/export -run PyTorch -update
//	/usr/bin/python3 hack/golden/exported.py
var update = flag.Bool("update", false, "rewrite testdata/exported")

const (
	llama    = "../model/testdata/llama"
	exported = "testdata/exported"
)

// golden is what PyTorch made of testdata/exported, in float64.
type golden struct {
	Tokens []int32 `json:"tokens"`
	// Logits [T, V] are of the exported checkpoint as it is, Reference those of the base
	// model with the reference implementation's composed matrices.
	Logits    [][]float64 `json:"logits"`
	Reference [][]float64 `json:"reference"`
}

// TestAnExportedCheckpointIsWhatPyTorchAndTheServerCompute exports an expert of the
// paper's reference implementation and compares three models: what is served merged,
// the exported checkpoint loaded here, and the exported checkpoint loaded by PyTorch.
func TestAnExportedCheckpointIsWhatPyTorchAndTheServerCompute(t *testing.T) {
	be := registrytest.Open(t, 2)
	base, d := enginetest.Decomposed(t, llama)
	v, err := expert.ReadReference("../expert/testdata/reference/learnable_params.pt", d)
	if err != nil {
		t.Fatal(err)
	}
	dir := exported
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	} else {
		dir = filepath.Join(t.TempDir(), "out")
	}
	o := export.Options{ShardBytes: 20_000, Note: map[string]string{"t2.experts": "[]"}}
	if err := export.Write(t.Context(), base, dir, composed(be, d, v.Z), o); err != nil {
		t.Fatal(err)
	}
	compareCheckpoints(t, dir, exported)

	m, err := model.Load(t.Context(), be, base)
	if err != nil {
		t.Fatal(err)
	}
	served, err := expert.Compose(t.Context(), m, d, scaled(v.Z))
	if err != nil {
		t.Fatal(err)
	}
	g := readGolden(t)
	want := logits(t, served, g.Tokens)
	if got := logits(t, load(t, be, dir), g.Tokens); !slices.Equal(got.Data, want.Data) {
		t.Error("the exported checkpoint has other logits than the served model")
	}
	for name, rows := range map[string][][]float64{"PyTorch, of the exported checkpoint": g.Logits, "PyTorch, of the reference's matrices": g.Reference} {
		if len(rows) != want.Rows() {
			t.Fatalf("%s: %d rows", name, len(rows))
		}
		for i, row := range rows {
			for j, x := range row {
				if d := math.Abs(float64(want.Row(i)[j]) - x); d > 2e-5*(1+math.Abs(x)) {
					t.Fatalf("%s: logit [%d %d] is %v, served %v", name, i, j, x, want.Row(i)[j])
				}
			}
		}
	}
}

// compareCheckpoints wants the same files, and tensors that differ by the order of
// float32 sums at most, which processors differ in.
func compareCheckpoints(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(names(t, want), names(t, got)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	a, b := open(t, want), open(t, got)
	if diff := cmp.Diff(a.Names(), b.Names()); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
	for _, name := range a.Names() {
		x, err := a.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range x.Data {
			if math.Abs(float64(x.Data[i]-y.Data[i])) > 2e-6 {
				t.Fatalf("%s: element %d is %v, want %v", name, i, y.Data[i], x.Data[i])
			}
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func readGolden(t *testing.T) golden {
	t.Helper()
	b, err := os.ReadFile("testdata/logits.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func open(t testing.TB, dir string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func load(t *testing.T, be backend.Backend, dir string) *model.Model {
	t.Helper()
	m, err := model.Load(t.Context(), be, open(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func composed(be backend.Backend, d *expert.Decomposition, z map[string][]float32) map[string]export.Compute {
	replace := map[string]export.Compute{}
	for name, scales := range z {
		replace[name+".weight"] = func(ctx context.Context) (*tensor.Tensor, error) {
			return expert.Mixed{Z: scales}.Matrix(ctx, be, d, name, nil)
		}
	}
	return replace
}

// logits [T, V] of all positions.
func logits(t *testing.T, m *model.Model, tokens []int32) *tensor.Tensor {
	t.Helper()
	cache, err := m.NewCache(1, len(tokens))
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	out, err := m.Step(t.Context(), cache, []model.Segment{{Seq: 0, Tokens: tokens, AllLogits: true}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
