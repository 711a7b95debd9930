//go:build cuda

package cuda_test

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/cuda"
	"github.com/transformersquared/operator/runtime/backend/registry/registrytest"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// load asks an engine so many requests of either kind, some at a time.
type load struct {
	engine     *engine.Engine
	mixtures   []engine.Mixture
	vocabulary int
	longest    int // Prompt.
}

func (l load) run(t *testing.T, requests, askers int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(requests); i = next.Add(1) {
				l.ask(t, rand.New(rand.NewPCG(uint64(i), 1)))
			}
		})
	}
	wg.Wait()
}

func (l load) ask(t *testing.T, r *rand.Rand) {
	tokens := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(r.IntN(l.vocabulary))
		}
		return out
	}
	mixture, prompt := l.mixtures[r.IntN(len(l.mixtures))], tokens(1+r.IntN(l.longest))
	if r.IntN(3) == 0 {
		request := engine.ScoreRequest{Mixture: mixture, Prompt: prompt}
		for range 1 + r.IntN(5) {
			request.Labels = append(request.Labels, tokens(1+r.IntN(4)))
		}
		if _, err := l.engine.Score(t.Context(), request); err != nil {
			t.Error(err)
		}
		return
	}
	request := engine.Request{
		Mixture: mixture, Prompt: prompt, MaxTokens: 1 + r.IntN(7), Seed: r.Uint64(), Logprobs: -1, IgnoreStopTokens: true,
		Sampling: sample.Params{Temperature: float64(r.IntN(2)), RepetitionPenalty: 1 + float64(r.IntN(2))/4},
	}
	if _, err := l.engine.Generate(t.Context(), request, func(engine.Delta) error { return nil }); err != nil {
		t.Error(err)
	}
}

// wantNothingAllocated soaks an engine and wants the device to be asked for no memory, and
// as much to be in use as before.
func (l load) wantNothingAllocated(t *testing.T, be *cuda.Backend, requests, askers int) {
	t.Helper()
	calls, used := be.Allocations(), be.Memory().Used
	l.run(t, requests, askers)
	if n := be.Allocations() - calls; n > 0 {
		t.Errorf("the device was asked for memory %d times under load", n)
	}
	if now := be.Memory().Used; now > used {
		t.Errorf("%d bytes are in use after the load, and %d before", now, used)
	}
}

// TestMemoryIsThatOfThePlan serves the demo model: what is in use from the start on is
// what the plan says, but for a twentieth, and nothing is allocated while it serves.
func TestMemoryIsThatOfThePlan(t *testing.T) {
	t.Setenv(registrytest.EnvBackend, "cuda")
	be, ok := registrytest.Open(t, 0).(*cuda.Backend)
	if !ok {
		t.Fatal("the backend is not cuda's")
	}
	ck, err := checkpoint.OpenDir(filepath.Join("..", "..", "..", "config", "samples", "demo", "model"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(t.Context(), be, ck, model.WeightsAs(backend.BF16))
	if err != nil {
		t.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		t.Fatal(err)
	}
	const batch = 6
	e, err := engine.New(t.Context(), engine.Options{Base: m, MaxBatch: batch})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	plan := engine.PlanOf(m.Config(), engine.Wish{DType: backend.BF16, MaxBatch: batch})
	const tolerance = 20
	if used, want := be.Memory().Used, plan.Total(); used < want-want/tolerance || used > want+want/tolerance {
		t.Errorf("%d bytes are in use, and the plan says %d: %+v", used, want, plan.Footprint)
	} else {
		t.Logf("%d bytes are in use, and the plan says %d", used, want)
	}
	l := load{engine: e, mixtures: []engine.Mixture{{}}, vocabulary: m.Config().VocabSize, longest: 40}
	l.wantNothingAllocated(t, be, 24, 2*batch)
}

// TestNothingIsAllocatedUnderLoad soaks an engine with experts in unmerged form, once it
// has served a little.
func TestNothingIsAllocatedUnderLoad(t *testing.T) {
	t.Setenv(registrytest.EnvBackend, "cuda")
	v := enginetest.New(t)
	m, dec, tok := v.Load(t)
	be, ok := m.Backend().(*cuda.Backend)
	if !ok {
		t.Fatal("the backend is not cuda's")
	}
	const batch = 4
	e, err := engine.New(t.Context(), engine.Options{
		Base: m, Compose: engine.Composer(m, dec), Factors: engine.NewFactors(dec), Form: engine.FormUnmerged, StopTokens: tok.EOS(),
		MaxBatch: batch, StepTokens: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	l := load{engine: e, mixtures: []engine.Mixture{{}}, vocabulary: m.Config().VocabSize, longest: 90}
	for seed := range uint64(2) {
		vector, err := expert.Read(v.ExpertDir(t, v.Expert(t, "skill", seed).Digest))
		if err != nil {
			t.Fatal(err)
		}
		mixture, err := engine.NewMixture(expert.Weighted{Adapter: vector, Alpha: 1})
		if err != nil {
			t.Fatal(err)
		}
		l.mixtures = append(l.mixtures, mixture)
	}
	set := engine.Set{Mixtures: l.mixtures[1:]}
	if err := e.Prepare(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	e.Retain(set)
	l.wantNothingAllocated(t, be, 50, 2*batch)
}
