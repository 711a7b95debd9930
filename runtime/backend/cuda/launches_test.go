//go:build cuda

package cuda

import (
	"path/filepath"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// demoModel is the demo model with weights in bfloat16.
func demoModel(tb testing.TB, b *Backend) *model.Model {
	tb.Helper()
	ck, err := checkpoint.OpenDir(filepath.Join("..", "..", "..", "config", "samples", "demo", "model"))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := model.Load(tb.Context(), b, ck, model.WeightsAs(backend.BF16))
	if err != nil {
		tb.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		tb.Fatal(err)
	}
	return m
}

// TestADecodeStepLaunchesFewKernels bounds what a step of one token a sequence launches:
// in a layer two norms, queries, keys and values at once, rotation and the cache,
// attention, its output, gate and up at once, the activation, and down; and around them
// the embedding, the last norm, the head and the choice.
func TestADecodeStepLaunchesFewKernels(t *testing.T) {
	const perLayer, around = 9, 4
	b := newTest(t)
	m := demoModel(t, b)
	layers := m.Config().Layers
	const sequences = 8
	c, err := m.NewCache(sequences, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	step := func(tokens int) int64 {
		var segments []model.Segment
		var asks []backend.Ask
		for i := range sequences {
			segments = append(segments, model.Segment{Seq: i, Tokens: make([]int32, tokens)})
			asks = append(asks, backend.Ask{Row: i, Draw: &sample.Draw{Temperature: 1, Uniform: 0.5}})
		}
		before := b.launches.Load()
		answers, err := m.Decide(t.Context(), c, segments, asks)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers {
			if a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		return b.launches.Load() - before
	}
	step(5)
	got, most := step(1), int64(layers*perLayer+around)
	t.Logf("%d layers: %d launches", layers, got)
	if got > most {
		t.Errorf("a decode step of %d layers launches %d kernels, want at most %d", layers, got, most)
	}
}
