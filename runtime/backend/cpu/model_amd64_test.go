package cpu_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cpu"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
)

// TestAModelOnTilesGivesPyTorchsLogits reads the sequences of package model's golden
// (hack/golden/model.py) with weights that tiles multiply. Logits are off PyTorch's by what
// rounding changes, and off plain Go's by roundings to float32 where both round the same.
func TestAModelOnTilesGivesPyTorchsLogits(t *testing.T) {
	dir := filepath.Join("..", "..", "model", "testdata", "llama")
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Sequences []struct{ Tokens []int32 }
		Dense     [][][]float64
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(slices.Concat(golden.Dense...)...)
	logits := func(path string, kind backend.DType) []float64 {
		be, err := cpu.OpenPath(2, path)
		if err != nil {
			t.Skip(err)
		}
		defer func() {
			if err := be.Close(); err != nil {
				t.Error(err)
			}
		}()
		ck, err := checkpoint.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ck.Close() }() // It is read alone.
		m, err := model.Load(t.Context(), be, ck, model.WeightsAs(kind))
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.NewCache(len(golden.Sequences), 20)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var segments []model.Segment
		for i, q := range golden.Sequences {
			segments = append(segments, model.Segment{Seq: i, Tokens: q.Tokens, AllLogits: true})
		}
		got, err := m.Step(t.Context(), c, segments)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]float64, len(got.Data))
		for i, v := range got.Data {
			out[i] = float64(v)
		}
		return out
	}
	for _, c := range []struct {
		path                string
		kind                backend.DType
		ofPyTorch, ofPlains float64
	}{
		{"amx", backend.BF16, 0.01, 1e-6},
		{"amx", backend.Int8, 0.03, 1e-6},
		{"amxwide", backend.Int8, 0.03, 0.03},
	} {
		got := logits(c.path, c.kind)
		golden, other := difference(got, want), difference(got, logits("plain", c.kind))
		t.Logf("%s, %s: off by %.2g of PyTorch's in float64, and by %.2g of plain Go's", c.path, c.kind, golden, other)
		if !(golden <= c.ofPyTorch) || !(other <= c.ofPlains) {
			t.Errorf("%s, %s: off by %.2g of PyTorch's, want at most %g; by %.2g of plain Go's, want at most %g",
				c.path, c.kind, golden, c.ofPyTorch, other, c.ofPlains)
		}
	}
}

// difference is the root of the normalised mean square difference.
func difference(got, want []float64) float64 {
	var wrong, power float64
	for i, w := range want {
		wrong += (got[i] - w) * (got[i] - w)
		power += w * w
	}
	return math.Sqrt(wrong / power)
}
