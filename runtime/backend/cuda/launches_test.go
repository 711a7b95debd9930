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
func demoModel(tb testing.TB, b *Backend, options ...model.Option) *model.Model {
	tb.Helper()
	ck, err := checkpoint.OpenDir(filepath.Join("..", "..", "..", "config", "samples", "demo", "model"))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := model.Load(tb.Context(), b, ck, append(options, model.WeightsAs(backend.BF16))...)
	if err != nil {
		tb.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		tb.Fatal(err)
	}
	return m
}

// batchOf8 are sequences of the demo model that are advanced together.
type batchOf8 struct {
	model    *model.Model
	cache    *model.Cache
	segments [8]model.Segment
	asks     [8]backend.Ask
	draw     sample.Draw
}

func newBatchOf8(tb testing.TB, m *model.Model, maxLen int) *batchOf8 {
	tb.Helper()
	s := &batchOf8{model: m, draw: sample.Draw{Temperature: 1, Uniform: 0.5}}
	c, err := m.NewCache(len(s.segments), maxLen)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	s.cache = c
	return s
}

// step gives each of the first n sequences so many tokens, and draws the next.
func (s *batchOf8) step(tb testing.TB, n, tokens int) {
	tb.Helper()
	for i := range n {
		s.segments[i] = model.Segment{Seq: i, Tokens: make([]int32, tokens)}
		s.asks[i] = backend.Ask{Row: i, Draw: &s.draw}
	}
	answers, err := s.model.Decide(tb.Context(), s.cache, s.segments[:n], s.asks[:n])
	if err != nil {
		tb.Fatal(err)
	}
	for _, a := range answers {
		if a.Err != nil {
			tb.Fatal(a.Err)
		}
	}
}

// TestADecodeStepLaunchesFewKernels bounds what a step of one token a sequence launches
// that is not repeated: in a layer two norms, queries, keys and values at once, rotation
// and the cache, attention, its output, gate and up at once, the activation, and down; and
// around them the embedding, the last norm, the head and the choice. Activations in
// bfloat16 are widened for the head, whose logits are float32.
func TestADecodeStepLaunchesFewKernels(t *testing.T) {
	const perLayer, around = 9, 4
	b := newTest(t)
	for storage, most := range map[model.Storage]int{{}: around, served: around + 1, {Cache: backend.BF16}: around} {
		t.Run("stored as "+storage.String(), func(t *testing.T) {
			m := demoModel(t, b, model.Unrecorded(), model.StoredAs(storage))
			launchesAtMost(t, b, m, int64(m.Config().Layers*perLayer+most))
		})
	}
}

// served is how a server stores a model with weights in bfloat16.
var served = model.Storage{Activations: backend.BF16, Cache: backend.BF16}

func launchesAtMost(t *testing.T, b *Backend, m *model.Model, most int64) {
	t.Helper()
	s := newBatchOf8(t, m, 64)
	s.step(t, 8, 5)
	before := b.launches.Load()
	s.step(t, 8, 1)
	got := b.launches.Load() - before
	t.Logf("%d layers: %d launches", m.Config().Layers, got)
	if got > most {
		t.Errorf("a decode step of %d layers launches %d kernels, want at most %d", m.Config().Layers, got, most)
	}
	if n := b.replays.Load(); n > 0 {
		t.Errorf("%d graphs were launched of a model that records none", n)
	}
}

// TestARepeatedDecodeStepIsOneLaunch wants nothing to be launched in a step of one token
// a sequence but a graph and the choice, for any number of sequences, once all steps are
// recorded.
func TestARepeatedDecodeStepIsOneLaunch(t *testing.T) {
	b := newTest(t)
	for _, storage := range []model.Storage{{}, served} {
		t.Run("stored as "+storage.String(), func(t *testing.T) { isOneLaunch(t, b, demoModel(t, b, model.StoredAs(storage))) })
	}
}

func isOneLaunch(t *testing.T, b *Backend, m *model.Model) {
	t.Helper()
	s := newBatchOf8(t, m, 64)
	if err := m.RecordSteps(t.Context(), s.cache, 8, false); err != nil {
		t.Fatal(err)
	}
	s.step(t, 8, 5)
	s.step(t, 8, 1)
	for n := 1; n <= 8; n++ {
		launches, replays := b.launches.Load(), b.replays.Load()
		s.step(t, n, 1)
		launches, replays = b.launches.Load()-launches, b.replays.Load()-replays
		if launches != 1 || replays != 1 {
			t.Errorf("a step of %d sequences launches %d kernels and %d graphs, want 1 and 1", n, launches, replays)
		}
	}
}
