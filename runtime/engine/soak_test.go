package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/sample"
)

// soaked is a request of either kind, and what it gets alone.
type soaked struct {
	generate engine.Request
	score    *engine.ScoreRequest // Instead, if set.

	tokens []int32
	scores []float64
}

// soakedRequests makes n requests whose prompts begin alike: with some part of
// one of a few texts.
func soakedRequests(r *rand.Rand, mixtures []engine.Mixture, n int) []soaked {
	random := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(r.IntN(256))
		}
		return out
	}
	beginnings := [][]int32{random(10), random(32), random(45), random(80)}
	list := make([]soaked, n)
	for i := range list {
		b := beginnings[r.IntN(len(beginnings))]
		if r.IntN(2) == 0 {
			b = b[:r.IntN(len(b)+1)]
		}
		prompt := append(slices.Clone(b), random(1+r.IntN(16))...)
		mixture := mixtures[r.IntN(len(mixtures))]
		if r.IntN(3) > 0 {
			list[i].generate = engine.Request{
				Mixture: mixture, Prompt: prompt, MaxTokens: 1 + r.IntN(12) + r.IntN(2)*r.IntN(80), Seed: r.Uint64(), Logprobs: -1,
				Sampling: sample.Params{Temperature: float64(r.IntN(3)) / 2, TopP: 1 - 0.1*float64(r.IntN(2)), TopK: 40 * r.IntN(2)},
			}
			continue
		}
		list[i].score = &engine.ScoreRequest{Mixture: mixture, Prompt: prompt}
		for range 1 + r.IntN(6) {
			list[i].score.Labels = append(list[i].score.Labels, random(1+r.IntN(4)))
		}
	}
	return list
}

// run asks once and returns what came.
func (s *soaked) run(ctx context.Context, h *house) (tokens []int32, scores []float64, err error) {
	if s.score != nil {
		scores, err = h.Score(ctx, *s.score)
		return nil, scores, err
	}
	a, err := h.ask(ctx, s.generate)
	return a.tokens, nil, err
}

// TestSoak asks thousands of requests, more at a time than the queue takes, of
// an engine with few blocks, and gives many of them up at some moment. Those that
// are answered must be answered as if they were alone, and in the end no block
// may be missing. Where the form does not depend on the set, sets are exchanged
// all the while, many of them given up while they are prepared. It goes on until
// each of what may happen to a request has.
func TestSoak(t *testing.T) {
	for name, c := range map[string]struct {
		form   engine.Form
		swaps  bool
		stored model.Storage
	}{
		"auto": {form: engine.FormAuto}, "merged": {form: engine.FormMerged},
		"merged, with swaps": {form: engine.FormMerged, swaps: true}, "unmerged, with swaps": {form: engine.FormUnmerged, swaps: true},
		"keys and values as bf16": {form: engine.FormAuto, stored: model.Storage{Cache: backend.BF16}},
	} {
		t.Run(name, func(t *testing.T) { soak(t, c.form, c.swaps, c.stored) })
	}
}

// swapping exchanges the sets of an engine until ctx is done, and counts those
// that were taken into use and those that were given up.
func swapping(ctx context.Context, t *testing.T, h *house, mixtures []engine.Mixture, taken, given *atomic.Int64) {
	r := rand.New(rand.NewPCG(8, 9))
	for ctx.Err() == nil && !t.Failed() {
		var set engine.Set
		for _, i := range r.Perm(len(mixtures))[:r.IntN(len(mixtures)+1)] {
			set.Mixtures = append(set.Mixtures, mixtures[i])
		}
		set.Fixed = len(set.Mixtures) > 0 && r.IntN(4) == 0
		preparing, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(time.Duration(r.IntN(4000))*time.Microsecond, cancel)
		err := h.Prepare(preparing, set)
		timer.Stop()
		cancel()
		switch {
		case err == nil:
			h.Retain(set)
			taken.Add(1)
		case errors.Is(err, context.Canceled):
			given.Add(1)
		default:
			t.Errorf("preparing a set: %v", err)
		}
	}
}

func soak(t *testing.T, form engine.Form, swaps bool, stored model.Storage) {
	const different, askers, blocks = 100, 20, 10
	asked := int64(1200)
	if testing.Short() { // The race detector makes ten times as much of it.
		asked = 400
	}
	h := start(t, func(o *engine.Options) {
		o.Form, o.MaxBatch, o.MaxWaiting, o.StepTokens = form, 8, 6, 64
		o.StopTokens, o.CacheTokens = nil, blocks*32
	}, model.StoredAs(stored))
	mixtures := append(h.experts(t, 2), engine.Mixture{})
	h.use(t, engine.Set{Mixtures: mixtures[:2]})
	r := rand.New(rand.NewPCG(5, 6))
	requests := soakedRequests(r, mixtures, different)
	for i := range requests {
		var err error
		if requests[i].tokens, requests[i].scores, err = requests[i].run(t.Context(), h); err != nil {
			t.Fatalf("request %d alone: %v", i, err)
		}
	}

	var next, busy, given, compared, short, taken, abandoned atomic.Int64
	swapped := func() {}
	if swaps {
		ctx, cancel := context.WithCancel(t.Context())
		var swapper sync.WaitGroup
		swapper.Go(func() { swapping(ctx, t, h, mixtures[:2], &taken, &abandoned) })
		swapped = func() {
			cancel()
			swapper.Wait()
		}
	}
	tried := func() bool {
		s := h.Stats()
		return given.Load() > 0 && busy.Load() > 0 && short.Load() > 0 && s.CachedTokens > 0 && s.Preempted > 0 &&
			(!swaps || taken.Load() >= 20 && abandoned.Load() > 0)
	}
	ask := func(r *rand.Rand) {
		s := &requests[r.IntN(different)]
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if r.IntN(3) == 0 {
			timer := time.AfterFunc(time.Duration(r.IntN(8000))*time.Microsecond, cancel)
			defer timer.Stop()
		}
		for {
			tokens, scores, err := s.run(ctx, h)
			switch {
			case errors.Is(err, engine.ErrBusy):
				busy.Add(1)
				time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
				if ctx.Err() == nil {
					continue
				}
				given.Add(1)
			case errors.Is(err, context.Canceled):
				given.Add(1)
			case err != nil:
				t.Errorf("a request failed: %v", err)
			case !slices.Equal(tokens, s.tokens) || !slices.Equal(scores, s.scores):
				t.Errorf("got %v and %v, alone it was %v and %v", tokens, scores, s.tokens, s.scores)
			default:
				compared.Add(1)
			}
			return
		}
	}
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			for !t.Failed() {
				if n := next.Add(1); n > 20*asked || n > asked && tried() {
					return
				}
				ask(r)
				st := h.Stats()
				if p := st.Blocks; p.Used > p.Total || p.Reserved > p.Total {
					t.Errorf("blocks %+v", p)
				}
				if st.Waiting > 0 && st.Running < 8 {
					short.Add(1)
				}
			}
		})
	}
	wg.Wait()
	swapped()
	waitFor(t, func() bool { s := h.Stats(); return s.Running == 0 && s.Waiting == 0 })
	s := h.Stats()
	if s.Blocks.Total != blocks || s.Blocks.Used != s.Blocks.Cached || s.Blocks.Reserved != 0 || s.Failed != 0 {
		t.Errorf("an idle engine has %d failures and blocks %+v, want only cached ones to be used", s.Failed, s.Blocks)
	}
	t.Logf("%d compared, %d given up, %d times busy, %d times short of blocks, %d gave way, %d tokens cached, %d sets taken, %d given up, %+v",
		compared.Load(), given.Load(), busy.Load(), short.Load(), s.Preempted, s.CachedTokens, taken.Load(), abandoned.Load(), s.Blocks)
	if compared.Load() < asked/4 || !tried() {
		t.Error("something was never tried")
	}
	// One that needs all blocks gets those of the prefix cache.
	if _, err := h.ask(t.Context(), engine.Request{Prompt: make([]int32, 32*blocks-2), MaxTokens: 2}); err != nil {
		t.Errorf("a request as large as the cache: %v", err)
	}
	waitFor(t, func() bool { return h.Stats().Running == 0 })
	if p := h.Stats().Blocks; p.Used != p.Cached || p.Reserved != 0 {
		t.Errorf("blocks %+v are left, want those of the prefix cache alone", p)
	}
}
